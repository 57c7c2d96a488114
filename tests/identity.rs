//! Identities of a CI, exchanged for tokens: a real server, and an issuer that is not ours.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use support::corpus;
use support::http::Response;
use support::issuer::{Issuer, Place, RULES, serving};

fn now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(now.expect("after 1970").as_secs()).expect("before the sun dies")
}

#[track_caller]
fn refused(answer: &Response, status: u16, says: &str) {
    assert_eq!(answer.status, status, "{}", answer.text());
    assert!(answer.text().contains(says), "{says:?}: {}", answer.text());
}

#[test]
fn an_identity_gets_the_token_of_the_first_rule_that_means_it() {
    let place = Place::new();
    let main = place.says(json!({"ref": "refs/heads/main"})).is(200).json();
    assert_eq!(
        (&main["subject"], &main["scopes"], &main["by"]),
        (
            &json!("main"),
            &json!(["push", "pin"]),
            &json!(place.issuer.url)
        )
    );
    let life = main["expires"].as_i64().expect("a time") - main["created"].as_i64().expect("one");
    assert_eq!(life, 600);
    // A number is the same as its text; of several audiences one is ours.
    let claims = json!({"ref": "x", "repository_id": 42, "aud": ["other", "snowcache"]});
    let branch = place.says(claims).is(200).json();
    assert_eq!(branch["subject"], "branches");

    let (http, token) = (place.server.http(), |made: &Value| {
        made["token"].as_str().map(str::to_owned)
    });
    let (main, branch) = (
        token(&main).expect("a token"),
        token(&branch).expect("a token"),
    );
    let info = b"StoreDir: /nix/store\n";
    http.put("/push/nix-cache-info", &branch, info).is(200);
    let pin = http.put("/api/v1/pins/web", &branch, b"{}");
    refused(
        &pin,
        403,
        "the token of branches is for push, this takes pin",
    );
    refused(
        &http.put("/api/v1/pins/web", &main, b"{}"),
        400,
        "missing field",
    );
    let list = http.request("GET", "/api/v1/tokens").bearer(&main).send();
    refused(&list, 403, "this takes admin");
}

/// New rules take no restart; such as cannot be used leave the old ones in place.
#[test]
fn rules_are_read_again_when_the_server_is_told() {
    let place = Place::new();
    let claims = || json!({"ref": "refs/heads/main"});
    let asked = || place.issuer.tell(json!({}))["asked"].as_i64();
    place.says(claims()).is(200);
    let before = asked();
    place.reloads(&RULES.replace("\"main\"", "\"trunk\""), "read again");
    let trunk = place.says(claims()).is(200).json();
    assert_eq!(trunk["subject"], "trunk");
    assert_eq!(asked(), before, "its keys are known");
    place.reloads("[[issuer.rule]]\nsubject = \"all\"\n", "left as it was");
    let trunk = place.says(claims()).is(200).json();
    assert_eq!(trunk["subject"], "trunk");
}

#[test]
fn every_algorithm_with_a_public_key_is_taken_and_no_other() {
    let place = Place::new();
    for (key, algorithms) in [
        (
            "rsa-1",
            &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..],
        ),
        ("p256", &["ES256"]),
        ("p384", &["ES384"]),
        ("ed", &["EdDSA"]),
    ] {
        for alg in algorithms {
            let wish = json!({"claims": {}, "key": key, "alg": alg});
            place.exchange(&place.issuer.jwt(wish)).is(200);
        }
    }
    for (forged, says) in [
        ("none", "signed by \"none\""),
        ("hmac", "signed by \"HS256\""),
        ("swap", "its key \"rsa-1\" is for something else"),
    ] {
        let identity = place.issuer.jwt(json!({ "forge": forged, "claims": {} }));
        refused(&place.exchange(&identity), 401, says);
    }
    // A key too short to be believed, one that says what it is for, and one under another's name.
    let weak = json!({"claims": {}, "key": "rsa-weak"});
    refused(
        &place.exchange(&place.issuer.jwt(weak)),
        401,
        "signature is not right",
    );
    let other = json!({"claims": {}, "key": "rsa-2", "headers": {"kid": "rsa-1"}});
    refused(
        &place.exchange(&place.issuer.jwt(other)),
        401,
        "signature is not right",
    );
    let crossed = json!({"claims": {}, "key": "p256", "headers": {"kid": "ed"}});
    refused(
        &place.exchange(&place.issuer.jwt(crossed)),
        401,
        "for something else",
    );
    let critical = json!({"claims": {}, "headers": {"crit": ["b64"], "b64": true}});
    refused(
        &place.exchange(&place.issuer.jwt(critical)),
        401,
        "extensions (crit)",
    );
    let nameless = json!({"claims": {}, "headers": {"kid": null}});
    refused(
        &place.exchange(&place.issuer.jwt(nameless)),
        401,
        "names no key",
    );
}

#[test]
fn an_identity_with_anything_wrong_is_refused_with_what_is_wrong() {
    let place = Place::new();
    let now = now();
    for (claims, status, says) in [
        (json!({"exp": now - 100}), 401, "expired 10"),
        (json!({"exp": now - 30}), 200, "branches"),
        (json!({"nbf": now + 100}), 401, "clocks"),
        (json!({"iat": now + 100}), 401, "clocks"),
        (json!({"nbf": now + 30, "iat": now + 30}), 200, "branches"),
        (json!({"exp": null}), 401, "claim exp is missing"),
        (json!({"nbf": null, "iat": null}), 200, "branches"),
        (
            json!({"aud": "other"}),
            401,
            "for \"other\", and this cache is \"snowcache\"",
        ),
        (json!({"aud": ["a", "b"]}), 401, "for \"a, b\""),
        (json!({"aud": "snowcache2"}), 401, "for \"snowcache2\""),
        (json!({"aud": null}), 401, "claim aud is missing"),
        (
            json!({"iss": "https://evil.example"}),
            401,
            "is no issuer that this cache trusts",
        ),
        (
            json!({"iss": format!("{}/", place.issuer.url)}),
            401,
            "is no issuer",
        ),
        (json!({"iss": null}), 401, "claim iss is missing"),
        (
            json!({"repository_id": "43"}),
            403,
            "it says no ref, repository_id \"\\\"43\\\"\"",
        ),
        (json!({"repository_id": null}), 403, "no repository_id"),
        (
            json!({"repository_id": ["42"]}),
            403,
            "no rule of this cache",
        ),
    ] {
        let answer = place.says(claims.clone());
        assert_eq!(answer.status, status, "{claims}: {}", answer.text());
        assert!(answer.text().contains(says), "{claims}: {}", answer.text());
    }
    let http = place.server.http();
    let no_json = http
        .request("POST", "/api/v1/tokens/exchange")
        .bytes(b"x")
        .send();
    refused(&no_json, 400, "expected {\"identity\"");
    let made = http
        .request("GET", "/api/v1/tokens")
        .bearer(&place.server.admin_token());
    let made = made.send().json();
    let made = made["tokens"].as_array().expect("a list");
    assert_eq!(made.len(), 3, "only the good ones: {made:?}");
    assert_eq!(place.server.stats()["paths"], 0, "and nothing is signed");
}

#[test]
fn what_is_no_identity_is_refused() {
    let place = Place::new();
    // Times that are no numbers are not taken for none.
    for claim in ["exp", "nbf", "iat"] {
        let answer = place.says(json!({claim: "soon"}));
        let says = format!("claim {claim} is missing, or is no number");
        refused(&answer, 401, &says);
    }
    // A letter changed in each part, and what is no token at all.
    let good = place.issuer.identity(json!({}));
    for part in 0..3 {
        let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
        let at = parts[part].len() / 2;
        let other = if parts[part].as_bytes()[at] == b'A' {
            "B"
        } else {
            "A"
        };
        parts[part].replace_range(at..=at, other);
        let answer = place.exchange(&parts.join("."));
        assert_eq!(answer.status, 401, "part {part}: {}", answer.text());
    }
    for bad in [
        "",
        "a.b",
        "a.b.c",
        "....",
        &format!("{good}.x"),
        &"x".repeat(17_000),
    ] {
        let status = place.exchange(bad).status;
        assert!(status == 401 || status == 413, "{status}: {bad}");
        assert!(!place.exchange(bad).text().contains("token_file"));
    }
    assert_eq!(place.server.stats()["paths"], 0, "and nothing is signed");
}

#[test]
fn keys_rotate_and_strangers_do_not_make_the_issuer_work() {
    let place = Place::new();
    place.issuer.tell(json!({"show": ["rsa-1"]}));
    place.says(json!({})).is(200);
    // A new key is found at once.
    place.issuer.tell(json!({"show": ["rsa-1", "p256"]}));
    let by_new = || place.issuer.jwt(json!({"claims": {}, "key": "p256"}));
    place.exchange(&by_new()).is(200);
    let before = place.issuer.tell(json!({}))["asked"]
        .as_i64()
        .expect("a count");
    assert_eq!(before, 2, "once at first, once for the new key");
    // Invented ones are asked for once in 10 s, all together; the others work meanwhile.
    for number in 0..20 {
        let kid = format!("invented-{number}");
        let wish = json!({"claims": {}, "headers": {"kid": kid}});
        let answer = place.exchange(&place.issuer.jwt(wish));
        refused(&answer, 401, &format!("shows no key \"{kid}\""));
    }
    let after = place.issuer.tell(json!({}))["asked"]
        .as_i64()
        .expect("a count");
    assert!(
        after <= before + 2,
        "20 inventions, {} questions",
        after - before
    );
    place.exchange(&by_new()).is(200);
    // Dead, it is not needed while its keys are fresh.
    place.issuer.tell(json!({"dead": true}));
    place.exchange(&by_new()).is(200);
}

#[test]
fn an_issuer_that_does_not_answer_or_lies_is_nobody_s_word() {
    let place = Place::new();
    place.issuer.tell(json!({"dead": true}));
    let answer = place.says(json!({}));
    refused(&answer, 503, "answered 503 Service Unavailable; try again");
    for (lie, says) in [
        (
            json!({"issuer": "https://other.example"}),
            "it is about \"https://other.example\"",
        ),
        (
            json!({"jwks_uri": "http://192.0.2.1/keys"}),
            "its keys are at \"http://192.0.2.1",
        ),
        (
            json!({"jwks_uri": "file:///etc/passwd"}),
            "its keys are at \"file:",
        ),
        (json!({"jwks_uri": 7}), "invalid type"),
    ] {
        let place = Place::new();
        place.issuer.tell(json!({ "discovery": lie }));
        refused(&place.says(json!({})), 503, says);
    }
    let nobody = serving(support::folder_on_disk(), "");
    let question = json!({"identity": place.issuer.identity(json!({}))}).to_string();
    let http = nobody.http();
    let request = http.request("POST", "/api/v1/tokens/exchange");
    refused(
        &request.bytes(question.as_bytes()).send(),
        404,
        "auth.issuers_file",
    );
}

#[test]
fn keys_may_be_in_a_file_that_somebody_else_keeps_new() {
    let (issuer, keys) = (
        Issuer::start(),
        tempfile::NamedTempFile::new().expect("a file"),
    );
    let more = format!("jwks_file = \"{}\"\n", keys.path().display());
    let place = Place::with(issuer, &more, RULES);
    refused(&place.says(json!({})), 503, "is no document");
    let shown = Command::new("curl")
        .args(["-sf", &format!("{}/keys", place.issuer.url)])
        .output();
    fs::write(keys.path(), shown.expect("curl runs").stdout).expect("written");
    place.issuer.tell(json!({"dead": true}));
    let mut place = place;
    place.server.stop();
    place.server.start_again();
    place.says(json!({})).is(200);
}

#[test]
fn a_cluster_says_who_its_pods_are() {
    let folder = support::folder_on_disk();
    let (ca, bearer) = (folder.path().join("ca.crt"), folder.path().join("bearer"));
    fs::write(&bearer, "kube\n").expect("written");
    let issuer = Issuer::of_a_cluster(&ca);
    let show = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let more = format!(
        "ca_file = \"{}\"\ntoken_file = \"{}\"\n",
        show(&ca),
        show(&bearer)
    );
    let rules = r#"
        [[issuer.rule]]
        subject = "builder"
        scopes = ["push"]
        claims = { "kubernetes.io" = { namespace = "ci", serviceaccount = { name = ["a", "b"] } } }
    "#;
    let place = Place::with(issuer, &more, rules);
    let pod = |namespace: &str, name: &str| {
        let account = json!({"name": name, "uid": "0b7f"});
        json!({"kubernetes.io": {"namespace": namespace, "serviceaccount": account, "pod": {}}})
    };
    let made = place.says(pod("ci", "b")).is(200).json();
    assert_eq!(made["subject"], "builder");
    for other in [
        pod("ci", "c"),
        pod("default", "b"),
        json!({"kubernetes.io": "ci"}),
        json!({}),
    ] {
        refused(&place.says(other), 403, "no rule of this cache");
    }
    // Its authority is not the system's, and is not believed without its file.
    let unknown = Place::with(Issuer::of_a_cluster(&ca), "", rules);
    refused(&unknown.says(pod("ci", "b")), 503, "cannot be read");
}

#[test]
fn a_job_pushes_by_its_identity_in_each_ci_s_way() {
    let place = Place::new();
    let [generation, _] = corpus::generations();
    let (path, mut leaves) = (&generation.top, generation.closure.iter());
    let identity = place.issuer.identity(json!({"ref": "refs/heads/main"}));
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), format!("{identity}\n")).expect("written");
    let github = format!("{}/github?api-version=2.0", place.issuer.url);
    for environment in [
        &[("SNOWCACHE_ID_TOKEN", identity.as_str())][..],
        &[(
            "SNOWCACHE_ID_TOKEN_FILE",
            file.path().to_str().expect("UTF-8"),
        )],
        &[
            ("ACTIONS_ID_TOKEN_REQUEST_URL", &github),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job"),
            ("SNOWCACHE_AUDIENCE", "snowcache"),
        ],
    ] {
        let leaf = leaves.next().expect("a path");
        let pushed = place.client(environment, &["push", "--json", leaf]);
        let said = String::from_utf8_lossy(&pushed.stderr);
        assert!(pushed.status.success(), "{environment:?}: {said}");
        assert_queued_is_pushed(&place, environment, leaves.next().expect("a path"));
        let token = place.client(environment, &["token", "exchange"]);
        let token = String::from_utf8(token.stdout).expect("UTF-8");
        assert!(token.starts_with("snow_"), "{token}");
        let info = b"StoreDir: /nix/store\n";
        place
            .server
            .http()
            .put("/push/nix-cache-info", token.trim(), info)
            .is(200);
    }
    // GitHub is asked for the cache's own URL unless another is named: this rule wants another.
    let github = [
        ("ACTIONS_ID_TOKEN_REQUEST_URL", github.as_str()),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "job"),
    ];
    let output = place.client(&github, &["token", "exchange"]);
    let said = String::from_utf8_lossy(&output.stderr);
    let says = format!(
        "it is for \"{}\", and this cache is \"snowcache\"",
        place.server.url()
    );
    assert!(
        output.status.code() == Some(1) && said.contains(&says),
        "{said}"
    );
    let wrong = [github[0], ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "other")];
    let output = place.client(&wrong, &["push", path]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && said.contains("id-token: write"),
        "{said}"
    );
    let output = place.client(&[], &["token", "exchange"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("$SNOWCACHE_ID_TOKEN_FILE"));
}

/// What a hook queues is pushed by the identity of the job, too.
fn assert_queued_is_pushed(place: &Place, environment: &[(&str, &str)], path: &str) {
    let spool = tempfile::tempdir().expect("a folder");
    let spool = spool.path().to_str().expect("UTF-8");
    let hook = place.client(&[], &["hook", "--strict", "--spool", spool, path]);
    assert!(hook.status.success(), "{hook:?}");
    let flush = ["queue", "flush", "--wait", "--require-complete", "--spool"];
    let flushed = place.client(environment, &[&flush[..], &[spool]].concat());
    let said = String::from_utf8_lossy(&flushed.stderr);
    assert!(flushed.status.success(), "{environment:?}: {said}");
}
