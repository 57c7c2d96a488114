//! Rules and what they let in.

use super::*;
use serde_json::json;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/issuers.toml");

fn issuers(text: &str) -> Result<Vec<Issuer>, TrustError> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    read(file.path())
}

fn with_claims(claims: &str) -> Result<Vec<Issuer>, TrustError> {
    issuers(&format!(
        "[[issuer]]\nurl = \"https://i\"\naudience = \"us\"\n[[issuer.rule]]\n\
         subject = \"ci\"\nscopes = [\"push\"]\nclaims = {claims}\n"
    ))
}

fn fit(rule: &str, claims: Json) -> bool {
    let issuers = with_claims(rule).expect(rule);
    let Json::Object(claims) = claims else {
        panic!("an object")
    };
    issuers[0].rules[0].fits(&claims)
}

#[test]
fn the_shipped_example_is_one() {
    let issuers = read(Path::new(EXAMPLE)).expect("it can be read");
    let urls: Vec<&str> = issuers.iter().map(|issuer| issuer.url.as_str()).collect();
    assert_eq!(urls.len(), 3, "GitHub, GitLab, a cluster: {urls:?}");
    assert_eq!(issuers[1].clock_skew_s, 60, "as the first one says it");
    assert_eq!(issuers[1].rules[0].expires_in_s, 3600);
}

#[test]
fn a_rule_fits_who_says_all_of_it() {
    let github = r#"{ repository_id = 42, ref = ["refs/heads/main", "refs/heads/dev"] }"#;
    assert!(fit(
        github,
        json!({"repository_id": "42", "ref": "refs/heads/dev", "x": 1})
    ));
    for other in [
        json!({"repository_id": "42"}),
        json!({"repository_id": "42", "ref": "refs/heads/devil"}),
        json!({"repository_id": "42", "ref": ["refs/heads/dev"]}),
        json!({"repository_id": "042", "ref": "refs/heads/dev"}),
        json!({"repository_id": 42.5, "ref": "refs/heads/dev"}),
        json!({"repository_id": null, "ref": "refs/heads/dev"}),
        json!({}),
    ] {
        assert!(!fit(github, other.clone()), "{other}");
    }
    let protected = "{ project_id = \"7\", ref_protected = true }";
    for (truth, fits) in [
        (json!(true), true),
        (json!("true"), true),
        (json!("True"), false),
    ] {
        assert_eq!(
            fit(protected, json!({"project_id": 7, "ref_protected": truth})),
            fits
        );
    }
    let nested = r#"{ "kubernetes.io" = { namespace = "ci" } }"#;
    assert!(fit(
        nested,
        json!({"kubernetes.io": {"namespace": "ci", "pod": {}}})
    ));
    assert!(!fit(nested, json!({"kubernetes.io": "ci"})));
    assert!(!fit(
        nested,
        json!({"kubernetes.io": {"namespace": {"ci": "ci"}}})
    ));
}

#[test]
fn a_rule_that_lets_in_more_than_it_seems_is_an_error() {
    for (claims, says) in [
        ("{}", "name at least one"),
        ("{ project_id = 1.5 }", "name at least one"),
        ("{ project_id = [] }", "name at least one"),
        ("{ \"kubernetes.io\" = {} }", "name at least one"),
        ("{ repository = \"a/b\" }", "name repository_id"),
        (
            "{ repository_owner = \"a\", repository_id = 1 }",
            "name repository_owner_id",
        ),
        ("{ project_path = \"a/b\", ref = \"x\" }", "name project_id"),
        (
            "{ sub = \"repo:a/b:ref:refs/heads/main\" }",
            "name repository_id or project_id",
        ),
        (
            "{ sub = \"project_path:a/b:ref_type:branch:ref:x\" }",
            "made of names",
        ),
    ] {
        let error = with_claims(claims).expect_err(claims).to_string();
        assert!(
            error.contains("issuer https://i, rule 1: ") && error.contains(says),
            "{error}"
        );
    }
    for good in [
        "{ repository = \"a/b\", repository_id = 1 }",
        "{ sub = \"repo:a/b:ref:x\", repository_id = 1 }",
        "{ sub = \"system:serviceaccount:ci:builder\" }",
    ] {
        assert!(with_claims(good).is_ok(), "{good}");
    }
}

#[test]
fn a_mistake_names_its_place() {
    let issuer = |url: &str, more: &str| {
        format!(
            "[[issuer]]\nurl = \"{url}\"\naudience = \"us\"\n{more}\n[[issuer.rule]]\n\
             subject = \"ci\"\nscopes = [\"push\"]\nclaims = {{ a = 1 }}\n"
        )
    };
    for (text, says) in [
        (issuer("http://i.example", ""), "begin with https://"),
        (
            issuer("https://i", "jwks_url = \"http://i/keys\""),
            "begin with https://",
        ),
        (issuer("https://i", "clock_skew_s = 301"), "at most 300"),
        (
            issuer("https://i", "jwks_file = \"k\"\nca_file = \"c\""),
            "it is never asked",
        ),
        (
            issuer("https://i", "").repeat(2),
            "issuer https://i: it is there twice",
        ),
        (
            issuer("https://i", "").replace("\"us\"", "\"\""),
            "audience is empty",
        ),
        (
            "[[issuer]]\nurl = \"https://i\"\naudience = \"us\"\n".to_owned(),
            "no [[issuer.rule]]",
        ),
        (
            issuer("https://i", "") + "expires_in_s = 86401\n",
            "expires_in_s is 1 to 86400",
        ),
        (
            issuer("https://i", "audiense = \"us\""),
            "unknown field `audiense`",
        ),
        (
            issuer("https://i", "").replace("[\"push\"]", "[\"write\"]"),
            "line 7",
        ),
        (
            issuer("https://i", "").replace("\"ci\"", "\"a/b\""),
            "cannot be the name",
        ),
        ("[[issuer]]\nurl = 7\n".to_owned(), "line 2"),
    ] {
        let error = issuers(&text).expect_err(says).to_string();
        assert!(error.contains(says), "{says:?}: {error}");
    }
    assert!(issuers("").expect("empty").is_empty());
    let error = read(Path::new("/nowhere.toml"))
        .expect_err("not there")
        .to_string();
    assert!(error.contains("auth.issuers_file"), "{error}");
}
