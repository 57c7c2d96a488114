//! `snowcache token` against a real snowcached.

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use support::snowcached::Snowcached;

struct Place(Snowcached);

impl Place {
    /// The client with a token, by its text.
    fn run(&self, token: &str, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snowcache"));
        command.args(["--cache", &self.0.url]).args(arguments);
        command
            .env_remove("SNOWCACHE_URL")
            .env("SNOWCACHE_TOKEN", token);
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("snowcache starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = status.code().expect("was not killed");
        (code, text(stdout), text(stderr))
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> (String, String) {
        let admin = std::fs::read_to_string(self.0.data.path().join("admin.token"));
        let (code, stdout, stderr) = self.run(admin.expect("is there").trim(), arguments);
        assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
        (stdout, stderr)
    }
}

#[test]
fn a_token_is_made_used_listed_and_revoked() {
    let place = Place(Snowcached::start());
    let (none, _) = place.ok(&["token", "list"]);
    assert!(none.starts_with("no tokens: "), "{none}");
    // stdout is the token and nothing else, so that it can go into a file.
    let create = [
        "token",
        "create",
        "ops",
        "--scope",
        "admin",
        "--expires",
        "2h",
    ];
    let (token, told) = place.ok(&create);
    let token = token.trim_end();
    assert!(token.starts_with("snow_") && token.len() == 65, "{token}");
    assert!(
        told.contains("  ops: admin; until 20") && !told.contains(token),
        "{told}"
    );
    let id = &told[..16];

    let (code, listed, _) = place.run(token, &["token", "list"]);
    assert_eq!((code, listed.as_str()), (0, told.as_str()));
    let (code, json, _) = place.run(token, &["token", "list", "--json"]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    let about = &json["tokens"][0];
    let life = about["expires"].as_u64().expect("a time") - about["created"].as_u64().expect("one");
    assert_eq!((code, life, &about["id"]), (0, 7200, &id.into()));

    let (revoked, _) = place.ok(&["token", "revoke", id]);
    assert!(revoked.contains("  ops: admin; REVOKED 20"), "{revoked}");
    let (code, _, sentence) = place.run(token, &["token", "list"]);
    assert_eq!(code, 1);
    assert!(
        sentence.contains("the token of ops was revoked"),
        "{sentence}"
    );
}

#[test]
fn all_tokens_of_a_subject_are_revoked_together_and_others_stay() {
    let place = Place(Snowcached::start());
    let make = |subject: &str| {
        let create = [
            "token", "create", subject, "--scope", "pull", "--scope", "push", "--json",
        ];
        let made: Value = serde_json::from_str(&place.ok(&create).0).expect("JSON");
        made["token"].as_str().expect("a token").to_owned()
    };
    let (one, two, other) = (make("ci"), make("ci"), make("deploy"));
    let push = |token: &str| place.run(token, &["pin", "set", "x", &"0".repeat(32)]).2;
    let (revoked, _) = place.ok(&["token", "revoke", "--subject", "ci", "--json"]);
    let revoked: Value = serde_json::from_str(&revoked).expect("JSON");
    assert_eq!(revoked["revoked"].as_array().map(Vec::len), Some(2));
    for token in [&one, &two] {
        let (code, _, sentence) = place.run(token, &["gc"]);
        assert!(code == 1 && sentence.contains("was revoked"), "{sentence}");
    }
    let sentence = place.run(&other, &["gc"]).2;
    assert!(
        sentence.contains("of deploy is for pull, push, this takes admin"),
        "{sentence}"
    );
    assert!(push(&other).contains("not in"), "{}", push(&other));
}

#[test]
fn what_cannot_be_done_is_said_with_its_exit_code() {
    let place = Place(Snowcached::start());
    let admin = std::fs::read_to_string(place.0.data.path().join("admin.token"));
    let admin = admin.expect("is there");
    for (token, arguments, code, says) in [
        (
            admin.trim(),
            &["token", "revoke", "../pins/web"][..],
            2,
            "16 hex digits",
        ),
        (
            admin.trim(),
            &["token", "revoke", "--subject", "x"],
            1,
            "x has no tokens",
        ),
        (admin.trim(), &["token", "create", "ci"], 2, "--scope"),
        (
            admin.trim(),
            &["token", "create", "ci", "--scope", "root"],
            2,
            "pull, push, pin, admin",
        ),
        (
            admin.trim(),
            &["token", "create", "push", "--scope", "pull"],
            1,
            "taken by push.token",
        ),
        (
            &place.0.token(),
            &["token", "list"],
            1,
            "of push is for pull, push, pin",
        ),
        ("", &["token", "list"], 1, "takes the token of admin.token"),
    ] {
        let (exit, stdout, stderr) = place.run(token, arguments);
        assert_eq!(exit, code, "{arguments:?}: {stdout}{stderr}");
        assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    }
    let (code, stdout, _) = {
        let id = "0123456789abcdef";
        place.run(admin.trim(), &["token", "revoke", id])
    };
    assert_eq!(
        (code, stdout.as_str()),
        (1, "there is no token 0123456789abcdef\n")
    );
}
