//! `snowcache pin`, `gc` and `rm` against a real snowcached.

mod support;

use serde_json::Value;
use snowcache_core::cache::Cache;
use snowcache_core::contract::{Sample, sample};
use std::path::PathBuf;
use std::process::{Command, Output};
use support::snowcached::Snowcached;

struct Place {
    server: Snowcached,
}

impl Place {
    /// With two paths of which the second refers to the first.
    async fn new() -> (Place, Sample, Sample) {
        let server = Snowcached::start();
        let leaf = sample("leaf-1.0", &[b'l'; 10_000], &[]);
        let top = sample("top-1.0", b"refers to leaf", &[&leaf.info.store_path]);
        for path in [&leaf, &top] {
            let put = server.remote().put(path.claimed(), path.stream()).await;
            put.expect("taken");
        }
        (Place { server }, leaf, top)
    }

    fn token_file(&self, name: &str) -> PathBuf {
        self.server.data.path().join(name)
    }

    /// The client with a token file of the server's, or with none.
    fn run(&self, token: Option<&str>, arguments: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_snowcache"));
        command.args(["--cache", &self.server.url]).args(arguments);
        if let Some(token) = token {
            command.arg("--token-file").arg(self.token_file(token));
        }
        said(command)
    }

    #[track_caller]
    fn ok(&self, token: &str, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(Some(token), arguments);
        assert_eq!(code, 0, "{arguments:?}: {stdout}{stderr}");
        stdout
    }
}

fn said(mut command: Command) -> (i32, String, String) {
    let command = command
        .env_remove("SNOWCACHE_URL")
        .env_remove("SNOWCACHE_TOKEN");
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().expect("snowcache starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        status.code().expect("was not killed"),
        text(stdout),
        text(stderr),
    )
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_moves_forward_and_back_and_goes() {
    let (place, leaf, top) = Place::new().await;
    let (leaf, top) = (leaf.info.store_path, top.info.store_path);
    assert!(
        place
            .ok("push.token", &["pin", "list"])
            .starts_with("no pins: ")
    );
    let set = place.ok(
        "push.token",
        &["pin", "set", "web", &leaf.absolute(), "--keep", "3"],
    );
    assert_eq!(set, "pin web is at generation 1: 1 path; keeps 3\n");
    // By hash part alone, twice, with the admin's token: one generation.
    for _ in 0..2 {
        let (leaf, top) = (leaf.hash().to_string(), top.hash().to_string());
        let set = place.ok("admin.token", &["pin", "set", "web", &top, &leaf]);
        assert_eq!(set, "pin web is at generation 2: 2 paths; keeps 3\n");
    }
    let listed = json(&place.ok("push.token", &["pin", "list", "--json"]));
    let pin = &listed["pins"][0];
    assert_eq!(
        (&pin["name"], &pin["current"], &pin["subject"]),
        (&"web".into(), &2.into(), &"admin".into())
    );
    assert_eq!(
        pin["roots"],
        serde_json::json!([top.to_string(), leaf.to_string()])
    );
    let shown = place.ok("push.token", &["pin", "list"]);
    assert!(shown.starts_with("web  generation 2 of 2, 20"), "{shown}");
    assert!(
        shown.contains(&format!("    {}\n", top.absolute())),
        "{shown}"
    );

    let back = place.ok("push.token", &["pin", "rollback", "web"]);
    assert_eq!(back, "pin web is at generation 1: 1 path; keeps 3\n");
    let (code, _, sentence) = place.run(Some("push.token"), &["pin", "rollback", "web"]);
    assert_eq!(code, 1);
    assert!(
        sentence.contains("no generation before its current one, 1: there are 1, 2"),
        "{sentence}"
    );
    let (code, _, sentence) =
        place.run(Some("push.token"), &["pin", "rollback", "web", "--to", "7"]);
    assert!(
        code == 1 && sentence.contains("no generation 7: there are 1, 2"),
        "{sentence}"
    );
    place.ok("push.token", &["pin", "rollback", "web", "--to", "2"]);
    let history = place.ok("push.token", &["pin", "history", "web"]);
    let numbered: Vec<&str> = history
        .lines()
        .filter(|line| line.contains(" UTC "))
        .collect();
    assert!(
        numbered[0].starts_with("*     2  ") && numbered[1].starts_with("      1  "),
        "{history}"
    );
    let history = json(&place.ok("push.token", &["pin", "history", "web", "--json"]));
    assert_eq!(history["generations"].as_array().expect("a list").len(), 2);

    let (code, _, sentence) = place.run(Some("push.token"), &["pin", "rm", "web"]);
    assert!(
        code == 1 && sentence.contains("token of admin.token"),
        "{sentence}"
    );
    assert_eq!(
        place.ok("admin.token", &["pin", "rm", "web"]),
        "pin web is removed\n"
    );
    for command in [
        &["pin", "rm", "web"][..],
        &["pin", "history", "web"],
        &["pin", "rollback", "web"],
    ] {
        let (code, _, sentence) = place.run(Some("admin.token"), command);
        assert!(
            code == 1 && sentence.contains("there is no pin web"),
            "{sentence}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_pin_is_said_with_what_to_do() {
    let (place, leaf, _) = Place::new().await;
    let leaf = leaf.info.store_path.absolute();
    let absent = sample("absent", b"", &[]).info.store_path;
    let (full, hash) = (absent.absolute(), absent.hash().to_string());
    for (arguments, code, says) in [
        (&["pin", "set", "web", &full][..], 1, "is not in this cache"),
        (&["pin", "set", "web", &hash], 1, "is not in http://"),
        (&["pin", "set", "../web", &leaf], 2, "is no name of a pin"),
        (
            &["pin", "set", "web", "/usr/bin/env"],
            2,
            "neither a store path",
        ),
        (
            &["pin", "set", "web", &leaf, "--keep", "5x"],
            2,
            "write all, a number",
        ),
        (
            &["pin", "set", "web", &leaf, "--expires", "7"],
            2,
            "write a number and its unit",
        ),
        (&["pin", "set", "web"], 2, "required"),
        (&["pin", "history", "web"], 1, "snowcache pin list"),
    ] {
        let (found, _, sentence) = place.run(Some("push.token"), arguments);
        assert!(
            found == code && sentence.contains(says),
            "{arguments:?}: {found} {sentence}"
        );
    }
    let (code, _, sentence) = place.run(None, &["pin", "set", "web", &leaf]);
    assert!(
        code == 1 && sentence.contains("token of push.token"),
        "{sentence}"
    );
    let set = place.ok(
        "push.token",
        &["pin", "set", "web", &leaf, "--expires", "7d"],
    );
    assert!(set.contains("; keeps 5, ends 20"), "{set}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_shown_and_takes_the_admin_s_token() {
    let (place, _, _) = Place::new().await;
    for token in [None, Some("push.token")] {
        let (code, _, sentence) = place.run(token, &["gc"]);
        assert!(
            code == 1 && sentence.contains("token of admin.token"),
            "{sentence}"
        );
    }
    let shown = place.ok("admin.token", &["gc", "--dry-run"]);
    assert!(
        shown.starts_with("would go: 0 paths, 0 uploads, 0 NARs; "),
        "{shown}"
    );
    let shown = place.ok("admin.token", &["gc"]);
    assert!(
        shown.starts_with("gone: 0 paths, ") && shown.ends_with(" on disk are live\n"),
        "{shown}"
    );
    let summary = json(&place.ok("admin.token", &["gc", "--json"]));
    assert_eq!(summary["summary"]["paths"], 0);

    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_snowcache"));
    nowhere.args(["--cache", "http://127.0.0.1:9", "gc"]);
    assert_eq!(said(nowhere).0, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn rm_says_of_each_path_what_became_of_it() {
    let (place, leaf, top) = Place::new().await;
    let (leaf, top) = (leaf.info.store_path, top.info.store_path);
    let (code, kept, _) = place.run(Some("admin.token"), &["rm", &leaf.absolute()]);
    assert_eq!(code, 1);
    assert!(
        kept.starts_with(&format!("KEPT      {}: ", leaf.absolute())),
        "{kept}"
    );
    assert!(
        kept.contains(&top.to_string()) && kept.ends_with("0 paths removed, 1 kept\n"),
        "{kept}"
    );
    let (code, _, sentence) = place.run(Some("push.token"), &["rm", &top.absolute()]);
    assert!(
        code == 1 && sentence.contains("token of admin.token"),
        "{sentence}"
    );

    let both = ["rm", &leaf.to_string(), &top.hash().to_string()].map(str::to_owned);
    let mut both: Vec<&str> = both.iter().map(String::as_str).collect();
    both.push("--dry-run");
    assert!(
        place
            .ok("admin.token", &both)
            .ends_with("2 paths would go\n")
    );
    both.pop();
    assert!(
        place
            .ok("admin.token", &both)
            .ends_with("2 paths removed\n")
    );
    both.push("--json");
    let (code, gone, _) = place.run(Some("admin.token"), &both);
    assert_eq!(code, 1);
    assert_eq!(json(&gone)["missing"].as_array().expect("a list").len(), 2);
    let (code, ..) = place.run(Some("admin.token"), &["verify", &top.absolute()]);
    assert_eq!(code, 1);
}
