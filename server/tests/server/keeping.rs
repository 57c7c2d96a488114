//! Pins, collections and removals: who may, what is answered, and what is left.

use crate::client::{Answer, Cache, start};
use crate::sample::Sample;
use serde_json::{Value, json};
use snowcache_server::config::Config;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Whatever was not put or asked for within a second goes at the next collection, bytes and all.
fn forgetful(config: &mut Config) {
    config.retention.grace_s = 1;
    config.retention.max_age_s = 1;
    config.retention.sweep_grace_s = 0;
    config.retention.gc_interval_s = 0;
    config.uploads.lease_s = 1;
}

const LATER: Duration = Duration::from_millis(2100);

fn token(cache: &Cache, file: &str) -> String {
    let token = std::fs::read_to_string(cache.dir.path().join(file)).unwrap();
    format!("Bearer {}", token.trim())
}

fn ask(cache: &Cache, token_file: &str, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = token(cache, token_file);
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    cache.send(method, path, &[("Authorization", &bearer)], body.as_bytes())
}

fn by_push(cache: &Cache, method: &str, path: &str, body: Value) -> Answer {
    ask(cache, "push.token", method, path, &body)
}

fn by_admin(cache: &Cache, method: &str, path: &str, body: Value) -> Answer {
    ask(cache, "admin.token", method, path, &body)
}

#[track_caller]
fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn pin(cache: &Cache, name: &str, body: Value) -> Value {
    parsed(&by_push(
        cache,
        "PUT",
        &format!("/api/v1/pins/{name}"),
        body,
    ))
}

/// The lines of a collection, and its summary.
fn collect(cache: &Cache, dry_run: bool) -> (Vec<Value>, Value) {
    let answer = by_admin(cache, "POST", "/api/v1/gc", json!({ "dry_run": dry_run }));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let lines = answer.text().lines();
    let mut lines: Vec<Value> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut last = lines.pop().unwrap();
    lines.retain(|line| line.get("progress").is_none());
    (lines, last["summary"].take())
}

fn push(cache: &Cache, samples: &[&Sample]) {
    samples.iter().for_each(|sample| sample.push(cache));
}

/// By the list: any other question would count as a use.
fn has(cache: &Cache, sample: &Sample) -> bool {
    let page = parsed(&cache.get("/api/v1/paths"));
    let paths = page["paths"].as_array().unwrap();
    paths.contains(&json!(sample.path.to_string()))
}

fn bytes_stored(cache: &Cache) -> u64 {
    parsed(&cache.get("/api/v1/stats"))["segment_bytes"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_pin_is_set_listed_moved_and_removed() {
    let cache = Cache::new();
    let (one, two) = (
        Sample::tree('a', "one", 10, &[]),
        Sample::tree('b', "two", 10, &[]),
    );
    push(&cache, &[&one, &two]);
    let first = pin(
        &cache,
        "web",
        json!({"roots": [one.path.absolute()], "keep": "3"}),
    );
    assert_eq!(
        (&first["current"], &first["keep"]),
        (&json!(1), &json!("3"))
    );
    let second = json!({"roots": [two.path.to_string()], "expires_in_s": 3600});
    let second = pin(&cache, "web", second);
    assert_eq!(
        (&second["current"], &second["keep"]),
        (&json!(2), &json!("3"))
    );
    assert!(
        second["expires"].as_u64().unwrap() > second["generations"][1]["time"].as_u64().unwrap()
    );
    let again = pin(&cache, "web", json!({"roots": [two.path.to_string()]}));
    assert_eq!(
        (&again["current"], &again["expires"]),
        (&json!(2), &Value::Null)
    );

    let listed = parsed(&cache.get("/api/v1/pins"));
    assert_eq!(listed["next"], Value::Null);
    let listed = &listed["pins"][0];
    assert_eq!(
        (&listed["name"], &listed["generations"]),
        (&json!("web"), &json!(2))
    );
    assert_eq!(listed["roots"], json!([two.path.to_string()]));
    assert_eq!(listed["subject"], "push");

    let rollback = "/api/v1/pins/web/rollback";
    let back = parsed(&by_push(&cache, "POST", rollback, json!({"to": null})));
    assert_eq!(back["current"], 1);
    let no_further = by_push(&cache, "POST", rollback, json!({"to": null}));
    assert_eq!(no_further.status, 422);
    assert!(
        no_further.text().contains("no generation before"),
        "{}",
        no_further.text()
    );
    let forth = parsed(&by_push(&cache, "POST", rollback, json!({"to": 2})));
    assert_eq!(forth["current"], 2);
    let whole = parsed(&cache.get("/api/v1/pins/web"));
    assert_eq!(
        whole["generations"][0]["roots"],
        json!([one.path.to_string()])
    );

    assert_eq!(
        by_push(&cache, "DELETE", "/api/v1/pins/web", Value::Null).status,
        403
    );
    parsed(&by_admin(&cache, "DELETE", "/api/v1/pins/web", Value::Null));
    assert_eq!(
        by_admin(&cache, "DELETE", "/api/v1/pins/web", Value::Null).status,
        404
    );
    assert_eq!(cache.get("/api/v1/pins/web").status, 404);
    assert_eq!(
        by_push(&cache, "POST", rollback, json!({"to": 1})).status,
        404
    );
    assert_eq!(parsed(&cache.get("/api/v1/pins"))["pins"], json!([]));
}

#[test]
fn a_pin_survives_a_restart() {
    let cache = Cache::with(forgetful);
    let sample = Sample::tree('a', "kept", 100_000, &[]);
    sample.push(&cache);
    pin(&cache, "web", json!({"roots": [sample.path.to_string()]}));
    let Cache { dir, server } = cache;
    drop(server);
    let server = start(dir.path(), forgetful);
    let cache = Cache { dir, server };
    sleep(LATER);
    collect(&cache, false);
    assert!(has(&cache, &sample));
    assert_eq!(parsed(&cache.get("/api/v1/pins/web"))["current"], 1);
}

#[test]
fn what_is_no_pin_is_refused_with_the_reason() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "here", 10, &[]);
    sample.push(&cache);
    let here = sample.path.to_string();
    let absent = Sample::tree('b', "absent", 10, &[]).path.to_string();
    let web = "/api/v1/pins/web";
    for (path, body, status, says) in [
        (web, json!({"roots": [absent]}), 422, "is not in this cache"),
        (web, json!({"roots": []}), 422, "name at least one"),
        (
            web,
            json!({"roots": ["/nix/store"]}),
            400,
            "not a path directly in",
        ),
        (web, json!({"roots": [here], "keep": "0"}), 400, "write all"),
        (
            web,
            json!({"roots": [here], "kepe": "5"}),
            400,
            "unknown field `kepe`",
        ),
        (web, json!(["x"]), 400, "expected {\"roots\""),
        (
            "/api/v1/pins/.web",
            json!({"roots": [here]}),
            400,
            "is no name of a pin",
        ),
        (
            "/api/v1/pins/a%2Fb",
            json!({"roots": [here]}),
            400,
            "is no name of a pin",
        ),
    ] {
        let refused = by_push(&cache, "PUT", path, body.clone());
        assert_eq!(refused.status, status, "{body}: {}", refused.text());
        assert!(refused.text().contains(says), "{body}: {}", refused.text());
    }
    let many: Vec<&str> = (0..4000).map(|_| here.as_str()).collect();
    assert_eq!(
        by_push(&cache, "PUT", web, json!({"roots": many})).status,
        200,
        "each once"
    );
    let too_long: Vec<String> = (0..3000).map(|_| "x".repeat(200)).collect();
    assert_eq!(
        by_push(&cache, "PUT", web, json!({"roots": too_long})).status,
        413
    );
    assert_eq!(cache.get("/api/v1/pins/-x").status, 400);
}

#[test]
fn keeping_takes_a_token_and_removing_the_admin_s() {
    let cache = Cache::new();
    let routes = [
        ("PUT", "/api/v1/pins/web", false),
        ("POST", "/api/v1/pins/web/rollback", false),
        ("DELETE", "/api/v1/pins/web", true),
        ("POST", "/api/v1/gc", true),
        ("POST", "/api/v1/remove", true),
    ];
    for (method, path, admin_only) in routes {
        let nobody = cache.send(method, path, &[], b"{}");
        let wrong = cache.send(method, path, &[("Authorization", "Bearer wrong")], b"{}");
        for refused in [nobody, wrong] {
            assert_eq!(refused.status, 401, "{method} {path}");
            assert!(refused.header("www-authenticate").contains("Bearer"));
            let file = if admin_only {
                "admin.token"
            } else {
                "push.token"
            };
            assert!(refused.text().contains(file), "{}", refused.text());
        }
        let pushing = by_push(&cache, method, path, json!({}));
        assert_eq!(
            pushing.status == 403,
            admin_only,
            "{method} {path}: {}",
            pushing.text()
        );
        if admin_only {
            assert!(pushing.text().contains("admin.token"), "{}", pushing.text());
        }
        let admin = by_admin(&cache, method, path, json!({}));
        assert!(![401, 403, 405].contains(&admin.status), "{method} {path}");
    }
    let wrong_way = cache.send("PATCH", "/api/v1/pins/web", &[], b"");
    assert_eq!(wrong_way.status, 405);
}

#[test]
fn a_collection_tells_what_goes_and_why_and_a_dry_run_only_tells() {
    let cache = Cache::with(forgetful);
    let library = Sample::tree('a', "library", 300_000, &[]);
    let old = Sample::tree('b', "old", 400_000, std::slice::from_ref(&library.path));
    let new = Sample::tree('c', "new", 500_000, std::slice::from_ref(&library.path));
    push(&cache, &[&library, &old, &new]);
    pin(&cache, "web", json!({"roots": [new.path.to_string()]}));
    sleep(LATER);
    let before = bytes_stored(&cache);

    let (would, summary) = collect(&cache, true);
    assert_eq!(
        (&summary["paths"], &summary["dry_run"]),
        (&json!(1), &json!(true))
    );
    let path = would.iter().find(|line| line["what"] == "path").unwrap();
    assert_eq!(path["path"], old.path.to_string());
    assert_eq!(
        (&path["cache"], &path["nar_size_bytes"]),
        (&json!("default"), &json!(old.nar.len()))
    );
    assert!(
        path["reason"].as_str().unwrap().contains("max_age_s"),
        "{path}"
    );
    assert!(has(&cache, &old) && bytes_stored(&cache) == before);

    let (did, summary) = collect(&cache, false);
    assert_eq!(
        (&summary["paths"], &summary["dry_run"]),
        (&json!(1), &json!(false))
    );
    assert!(did.iter().any(|line| line["what"] == "nar"), "{did:?}");
    assert_eq!(
        cache.get(&format!("/{}.narinfo", old.path.hash())).status,
        404
    );
    assert!(
        bytes_stored(&cache) < before - 390_000,
        "{before}: {summary}"
    );
    for kept in [&library, &new] {
        let url = kept.published(&cache).url;
        let (bytes, whole) = (cache.get(&url), kept.nar.clone());
        let nar = crate::sample::unpack(snowcache_server::http::codec::Codec::Zstd, &bytes.body);
        assert_eq!(nar, whole);
    }
    let (nothing, _) = collect(&cache, false);
    assert_eq!(
        nothing,
        Vec::<Value>::new(),
        "the second finds nothing to do"
    );
}

#[test]
fn a_collection_without_its_client_goes_on() {
    let cache = Cache::with(forgetful);
    let sample = Sample::tree('a', "old", 1 << 20, &[]);
    sample.push(&cache);
    sleep(LATER);
    let mut stream = TcpStream::connect(cache.server.address).unwrap();
    let bearer = token(&cache, "admin.token");
    let request = format!(
        "POST /api/v1/gc HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut status = [0; 15];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 200 OK");
    drop(stream);
    let begin = Instant::now();
    while has(&cache, &sample) {
        assert!(begin.elapsed() < Duration::from_secs(20), "it stays");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_is_needed_is_not_removed_and_what_is_not_here_is_said() {
    let cache = Cache::new();
    let library = Sample::tree('a', "library", 10, &[]);
    let program = Sample::tree('b', "program", 10, std::slice::from_ref(&library.path));
    let pinned = Sample::tree('c', "pinned", 10, &[]);
    push(&cache, &[&library, &program, &pinned]);
    pin(&cache, "web", json!({"roots": [pinned.path.to_string()]}));
    let remove = |paths: Value, dry_run: bool| {
        let body = json!({"paths": paths, "dry_run": dry_run});
        parsed(&by_admin(&cache, "POST", "/api/v1/remove", body))
    };
    let other_name = format!("{}-other", program.path.hash());
    let paths = json!([
        library.path.absolute(),
        pinned.path.hash().to_string(),
        other_name
    ]);
    let kept = remove(paths, false);
    assert_eq!(
        (&kept["removed"], &kept["missing"]),
        (&json!([]), &json!([other_name]))
    );
    let why = |path: &Sample| {
        let kept = kept["kept"].as_array().unwrap().iter();
        let kept = kept.filter(|kept| kept["path"] == path.path.to_string());
        kept.map(|kept| kept["why"].as_str().unwrap().to_owned())
            .next()
            .unwrap()
    };
    assert!(why(&library).contains(&program.path.to_string()), "{kept}");
    assert!(why(&pinned).contains("pin"), "{kept}");

    let both = json!([library.path.to_string(), program.path.to_string()]);
    assert_eq!(
        remove(both.clone(), true)["removed"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(has(&cache, &library) && has(&cache, &program));
    assert_eq!(
        remove(both.clone(), false)["removed"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(!has(&cache, &library) && !has(&cache, &program) && has(&cache, &pinned));
    assert_eq!(remove(both, false)["missing"].as_array().unwrap().len(), 2);
    push(&cache, &[&library, &program]);
    assert_eq!(
        program.published(&cache).info.references,
        program.references
    );

    for (body, status) in [
        (json!({"paths": ["x"]}), 400),
        (json!({"path": []}), 400),
        (json!({"paths": vec!["0".repeat(32); 10_001]}), 413),
    ] {
        assert_eq!(
            by_admin(&cache, "POST", "/api/v1/remove", body).status,
            status
        );
    }
}

#[test]
fn by_the_clock_what_nobody_asks_for_goes() {
    let cache = Cache::with(|config| {
        forgetful(config);
        config.retention.gc_interval_s = 1;
    });
    let sample = Sample::tree('a', "old", 10, &[]);
    let begin = Instant::now();
    sample.push(&cache);
    while has(&cache, &sample) {
        assert!(begin.elapsed() < Duration::from_secs(90), "it stays");
        sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_full_cache_answers_507_reads_on_and_collects() {
    const MIB: usize = 1 << 20;
    let cache = Cache::with(|config| {
        forgetful(config);
        config.retention.max_age_s = 0;
        config.depot.max_size_bytes = 24 * MIB as u64;
    });
    let mut pushed = Vec::new();
    let refused = loop {
        let letter = char::from(b'0' + pushed.len() as u8);
        let sample = Sample::tree(letter, "big", 3 * MIB, &[]);
        let name = format!("/push/nar/{}.nar", sample.hash().base32());
        let put = cache.put(&name, &sample.nar);
        if put.status != 200 {
            break put;
        }
        let narinfo = sample.narinfo(&name["/push/".len()..], "none");
        let put = cache.put(&sample.narinfo_url(), narinfo.as_bytes());
        if put.status != 200 {
            break put;
        }
        pushed.push(sample);
        assert!(pushed.len() < 10, "there is no end to 24 MiB");
    };
    assert_eq!(refused.status, 507, "{}", refused.text());
    assert!(
        refused.text().contains("max_size_bytes"),
        "{}",
        refused.text()
    );
    let last = pushed.last().unwrap();
    assert_eq!(
        cache.get(&last.published(&cache).url).status,
        200,
        "reads go on"
    );
    sleep(LATER);
    // The collection that the refusal started found everything within its grace; one by command is
    // told of the refusal too, once it was repeated.
    let wanted = Sample::tree('z', "wanted", 6 * MIB, &[]);
    let name = format!("/push/nar/{}.nar", wanted.hash().base32());
    let mut collections = 0;
    while cache.put(&name, &wanted.nar).status != 200 {
        collect(&cache, false);
        collections += 1;
        assert!(collections < 10, "there never was room");
    }
}
