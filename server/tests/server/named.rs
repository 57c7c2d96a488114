//! Named caches: made, used, changed, deleted and found again, beside the one at `/`.

use crate::client::{Answer, Cache, start};
use crate::sample::{Sample, store_path};
use serde_json::{Value, json};
use snowcache_nix::{NarInfo, PublicKey};

fn file(cache: &Cache, name: &str) -> String {
    let text = std::fs::read_to_string(cache.dir.path().join(name)).unwrap();
    text.trim().to_owned()
}

pub fn with(cache: &Cache, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    let bearer = format!("Bearer {token}");
    cache.send(method, path, &[("Authorization", bearer.as_str())], body)
}

pub fn by_admin(cache: &Cache, method: &str, path: &str, body: Value) -> Answer {
    let admin = file(cache, "admin.token");
    with(cache, &admin, method, path, body.to_string().as_bytes())
}

#[track_caller]
pub fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

#[track_caller]
pub fn make(cache: &Cache, name: &str, settings: Value) -> Value {
    parsed(&by_admin(
        cache,
        "PUT",
        &format!("/api/v1/caches/{name}"),
        settings,
    ))
}

/// A token with these scopes for these caches.
#[track_caller]
pub fn token(cache: &Cache, scopes: &[&str], caches: &[&str]) -> String {
    let wish = json!({
        "subject": "tester", "scopes": scopes, "caches": caches, "expires_in_s": 600,
    });
    let made = parsed(&by_admin(cache, "POST", "/api/v1/tokens", wish));
    assert_eq!(made["caches"], json!(caches));
    made["token"].as_str().unwrap().to_owned()
}

/// Pushes as Nix does, to the cache of this name.
#[track_caller]
pub fn push(cache: &Cache, name: &str, token: &str, sample: &Sample) {
    let nar = format!("nar/{}.nar", sample.hash().base32());
    let put = with(
        cache,
        token,
        "PUT",
        &format!("/{name}/push/{nar}"),
        &sample.nar,
    );
    assert_eq!(put.status, 200, "{}", put.text());
    let (url, text) = (sample.narinfo_url(), sample.narinfo(&nar, "none"));
    let put = with(
        cache,
        token,
        "PUT",
        &format!("/{name}{url}"),
        text.as_bytes(),
    );
    assert_eq!(put.status, 200, "{}", put.text());
}

pub fn narinfo_url(name: &str, sample: &Sample) -> String {
    format!("/{name}/{}.narinfo", sample.path.hash())
}

#[track_caller]
pub fn refused(answer: &Answer, status: u16, words: &[&str]) {
    assert_eq!(answer.status, status, "{}", answer.text());
    for word in words {
        assert!(answer.text().contains(word), "{word}: {}", answer.text());
    }
}

#[test]
fn a_named_cache_has_urls_paths_and_keys_of_its_own() {
    let cache = Cache::new();
    let about = make(&cache, "team-a", json!({"public": true, "priority": 20}));
    assert!(about["url"].as_str().unwrap().ends_with("/team-a"));
    assert_eq!(
        (&about["public"], &about["priority"]),
        (&json!(true), &json!(20))
    );
    let writer = token(&cache, &["push"], &["team-a"]);
    let sample = Sample::tree('a', "ours", 100_000, &[]);
    push(&cache, "team-a", &writer, &sample);

    let info = cache.get("/team-a/nix-cache-info");
    assert!(info.text().contains("\nPriority: 20\n"), "{}", info.text());
    // Once from the depot, once out of memory.
    for _ in 0..2 {
        let answer = cache.get(&narinfo_url("team-a", &sample));
        let narinfo = NarInfo::parse(answer.text()).unwrap();
        let key: PublicKey = about["public_keys"][0].as_str().unwrap().parse().unwrap();
        assert!(answer.text().contains(&format!("\nSig: {}:", key.name())));
        assert!(
            !answer.text().contains("\nSig: test-1:"),
            "not by the key of /"
        );
        let nar = cache.get(&format!("/team-a/{}", narinfo.url));
        assert_eq!(nar.status, 200);
        assert_eq!(
            cache.get(&format!("/{}", narinfo.url)).status,
            404,
            "not at /"
        );
        let here = format!("/team-a/{}.ls", sample.path.hash());
        assert_eq!(cache.get(&here).status, 200);
        assert_eq!(cache.head(&narinfo_url("team-a/push", &sample)).status, 200);
    }
    for nowhere in ["", "/push"] {
        let url = format!("{nowhere}/{}.narinfo", sample.path.hash());
        assert_eq!(cache.get(&url).status, 404, "{url}");
    }
    let paths = parsed(&cache.get("/team-a/api/v1/paths"));
    assert_eq!(paths["paths"], json!([sample.path.to_string()]));
    assert_eq!(parsed(&cache.get("/api/v1/paths"))["paths"], json!([]));
    let question = json!({"hashes": [sample.path.hash().to_string()]}).to_string();
    for (name, missing) in [("/team-a", 0), ("", 1)] {
        let url = format!("{name}/api/v1/missing");
        let answer = parsed(&cache.send("POST", &url, &[], question.as_bytes()));
        assert_eq!(
            answer["missing"].as_array().unwrap().len(),
            missing,
            "{name}"
        );
    }
    let pin = json!({"roots": [sample.path.to_string()]}).to_string();
    let pinner = token(&cache, &["pin"], &["team-a"]);
    let set = with(
        &cache,
        &pinner,
        "PUT",
        "/team-a/api/v1/pins/web",
        pin.as_bytes(),
    );
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(parsed(&cache.get("/api/v1/pins"))["pins"], json!([]));
    let said = cache.get("/team-a");
    assert!(
        said.text().contains("/team-a https://cache.nixos.org\n"),
        "{}",
        said.text()
    );
    assert_eq!(said.text(), cache.get("/team-a/").text());
    // What is about all caches is at / alone.
    for elsewhere in ["metrics", "api/v1/scrub", "api/v1/caches", "api/v1/gc"] {
        let url = format!("/team-a/{elsewhere}");
        assert_eq!(cache.get(&url).status, 404, "{url}");
    }
    let wrong = with(&cache, &writer, "PUT", "/team-a/nix-cache-info", b"");
    refused(&wrong, 405, &["/team-a/push/nix-cache-info"]);
}

#[test]
fn a_token_of_one_cache_opens_no_other() {
    let cache = Cache::new();
    make(&cache, "team-a", json!({}));
    make(&cache, "team-b", json!({"public": true}));
    let sample = Sample::file(store_path('b', "x"), b"hello");
    let nar = format!("push/nar/{}.nar", sample.hash().base32());
    let (a, both) = (
        token(&cache, &["push"], &["team-a"]),
        token(&cache, &["push"], &["team-a", "team-b", "default"]),
    );
    let admin_of_a = token(&cache, &["admin"], &["team-a"]);
    let (push, admin) = (cache.token(), file(&cache, "admin.token"));
    for (token, opens) in [
        (&a, [true, false, false]),
        (&both, [true, true, true]),
        (&admin_of_a, [true, false, false]),
        (&push, [false, false, true]),
        (&admin, [true, true, true]),
    ] {
        for (place, opens) in ["/team-a/", "/team-b/", "/"].into_iter().zip(opens) {
            let put = with(&cache, token, "PUT", &format!("{place}{nar}"), &sample.nar);
            match opens {
                true => assert_eq!(put.status, 200, "{place}: {}", put.text()),
                false => refused(&put, 403, &["the cache", "--for-cache"]),
            }
        }
    }
    let there = with(&cache, &a, "PUT", &format!("/team-b/{nar}"), &sample.nar);
    let sentence = "the token of tester is for the cache team-a, this is about the cache team-b";
    refused(&there, 403, &[sentence]);
    // Whoever may do everything in one cache may not look after all of them.
    for (method, url) in [("GET", "/api/v1/caches"), ("POST", "/api/v1/gc")] {
        refused(
            &with(&cache, &admin_of_a, method, url, b""),
            403,
            &["all caches"],
        );
    }
    let wish = json!({
        "subject": "x", "scopes": ["push"], "caches": ["team-c"], "expires_in_s": 9,
    });
    let unknown = by_admin(&cache, "POST", "/api/v1/tokens", wish);
    refused(&unknown, 404, &["team-c", "snowcache cache list"]);
}

#[test]
fn a_private_cache_is_read_with_its_token_alone() {
    let cache = Cache::new();
    make(&cache, "team-a", json!({}));
    make(&cache, "team-b", json!({}));
    let (writer, reader, other) = (
        token(&cache, &["push"], &["team-a"]),
        token(&cache, &["pull"], &["team-a"]),
        token(&cache, &["pull"], &["team-b"]),
    );
    let sample = Sample::tree('c', "secret", 1000, &[]);
    push(&cache, "team-a", &writer, &sample);
    let url = narinfo_url("team-a", &sample);
    let narinfo = with(&cache, &reader, "GET", &url, b"");
    let nar = format!("/team-a/{}", NarInfo::parse(narinfo.text()).unwrap().url);
    let absent = "/team-a/00000000000000000000000000000000.narinfo";
    for url in [&url, &nar, "/team-a/nix-cache-info", absent, "/team-a"] {
        for _ in 0..2 {
            refused(&cache.get(url), 401, &["private"]);
            refused(
                &with(&cache, &other, "GET", url, b""),
                403,
                &["team-b", "team-a"],
            );
            let answer = with(&cache, &reader, "GET", url, b"");
            assert_eq!(
                answer.status,
                if url == absent { 404 } else { 200 },
                "{url}"
            );
        }
    }
    // Told otherwise, at once.
    make(&cache, "team-a", json!({"public": true}));
    assert_eq!(cache.get(&url).status, 200);
    make(&cache, "team-a", json!({"public": false}));
    assert_eq!(cache.get(&url).status, 401);
}

#[test]
fn the_cache_at_the_root_may_be_private_and_a_named_one_public() {
    let cache = Cache::with(|config| config.cache.public = false);
    make(&cache, "docs", json!({"public": true}));
    assert_eq!(cache.get("/docs/nix-cache-info").status, 200);
    for closed in [
        "/nix-cache-info",
        "/nosuch/nix-cache-info",
        "/docs--x/nix-cache-info",
    ] {
        assert_eq!(cache.get(closed).status, 401, "{closed}");
    }
}

#[test]
fn caches_outlive_a_restart_and_the_loss_of_the_index() {
    let mut cache = Cache::new();
    let about = make(&cache, "team-a", json!({"public": true, "priority": 7}));
    let writer = token(&cache, &["push"], &["team-a"]);
    let sample = Sample::tree('d', "kept", 300_000, &[]);
    push(&cache, "team-a", &writer, &sample);
    let url = narinfo_url("team-a", &sample);
    let before = cache.get(&url).body;
    for loses_index in [false, true] {
        cache.server.stop_and_wait();
        if loses_index {
            std::fs::remove_dir_all(cache.dir.path().join("depot/index")).unwrap();
        }
        cache.server = start(cache.dir.path(), |_| {});
        assert_eq!(cache.get(&url).body, before);
        let mut again = parsed(&by_admin(
            &cache,
            "GET",
            "/api/v1/caches/team-a",
            Value::Null,
        ));
        again["url"] = about["url"].clone(); // the port is another one
        again["holds"] = about["holds"].clone();
        assert_eq!(again, about);
        let put = with(
            &cache,
            &writer,
            "PUT",
            "/team-a/push/nar/y.nar",
            &sample.nar,
        );
        assert_eq!(put.status, 200, "{}", put.text());
    }
}

#[test]
fn a_cache_is_made_once_changed_and_listed() {
    let cache = Cache::new();
    let admin = format!("Bearer {}", file(&cache, "admin.token"));
    let put = |name: &str, condition: &str, body: &[u8]| {
        let headers = [("Authorization", admin.as_str()), (condition, "*")];
        cache.send("PUT", &format!("/api/v1/caches/{name}"), &headers, body)
    };
    refused(
        &put("team-a", "If-Match", b""),
        404,
        &["no cache \"team-a\""],
    );
    let made = parsed(&put("team-a", "If-None-Match", b""));
    assert_eq!(
        (&made["public"], &made["priority"]),
        (&json!(false), &json!(30))
    );
    assert_eq!(made["by"], "admin");
    refused(&put("team-a", "If-None-Match", b""), 412, &["already"]);
    let changed = parsed(&put("team-a", "If-Match", br#"{"priority": 5}"#));
    assert_eq!(
        (&changed["public"], &changed["priority"]),
        (&json!(false), &json!(5))
    );
    assert_eq!(changed["public_keys"], made["public_keys"]);
    let other = parsed(&put(
        "docs",
        "If-None-Match",
        br#"{"key_name": "docs.example.org-1"}"#,
    ));
    let key = other["public_keys"][0].as_str().unwrap();
    assert!(key.starts_with("docs.example.org-1:"), "{key}");
    let list = parsed(&by_admin(&cache, "GET", "/api/v1/caches", Value::Null));
    let names = list["caches"].as_array().unwrap().iter();
    let names: Vec<&str> = names.map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["docs", "team-a"]);
    for (name, status, word) in [
        ("push", 400, "reserved"),
        ("default", 400, "reserved"),
        ("Team", 400, "a-z"),
        ("a--b", 400, "dashes"),
    ] {
        refused(&put(name, "If-None-Match", b""), status, &[word]);
    }
    refused(&put("x", "If-Match", br#"{"prio": 5}"#), 400, &["prio"]);
}

#[test]
fn a_deleted_cache_is_gone_and_one_made_anew_knows_nothing_of_it() {
    let cache = Cache::new();
    let first = make(&cache, "team-a", json!({"public": true}));
    let writer = token(&cache, &["push"], &["team-a"]);
    let sample = Sample::tree('2', "old", 1000, &[]);
    push(&cache, "team-a", &writer, &sample);
    let url = narinfo_url("team-a", &sample);
    assert_eq!(cache.get(&url).status, 200);
    let gone = by_admin(&cache, "DELETE", "/api/v1/caches/team-a", Value::Null);
    assert_eq!(parsed(&gone)["name"], "team-a");
    for url in [&url, "/team-a", "/team-a/nix-cache-info"] {
        assert_eq!(cache.get(url).status, 404, "{url}");
    }
    let again = by_admin(&cache, "DELETE", "/api/v1/caches/team-a", Value::Null);
    refused(&again, 404, &["team-a"]);
    let second = make(&cache, "team-a", json!({"public": true}));
    assert_ne!(second["public_keys"], first["public_keys"]);
    assert_eq!(
        cache.get(&url).status,
        404,
        "what was in the old one is not in this"
    );
    let put = with(
        &cache,
        &writer,
        "PUT",
        "/team-a/push/nar/x.nar",
        &sample.nar,
    );
    refused(&put, 403, &["--for-cache team-a"]);
}
