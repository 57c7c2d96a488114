//! Who may do what: every route that takes something, with every kind of token.

use crate::client::{Answer, Cache, start};
use crate::sample::Sample;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Every route that is not open: its method, an URL of it, and a scope that it takes.
const ROUTES: &[(&str, &str, &str)] = &[
    ("PUT", "/push/nix-cache-info", "push"),
    (
        "PUT",
        "/push/00000000000000000000000000000000.narinfo",
        "push",
    ),
    ("PUT", "/push/nar/x.nar", "push"),
    (
        "PUT",
        "/push/log/00000000000000000000000000000000-x.drv",
        "push",
    ),
    ("PUT", "/push/realisations/sha256:ab!out.doi", "push"),
    (
        "PUT",
        "/push/build-trace-v2/00000000000000000000000000000000-x.drv/out.doi",
        "push",
    ),
    ("PUT", "/push/debuginfo/ab", "push"),
    ("POST", "/api/v1/uploads", "push"),
    ("POST", "/api/v1/uploads/nars", "push"),
    ("POST", "/api/v1/uploads/frames", "push"),
    ("POST", "/api/v1/uploads/commit", "push"),
    ("PUT", "/api/v1/pins/web", "pin"),
    ("POST", "/api/v1/pins/web/rollback", "pin"),
    ("DELETE", "/api/v1/pins/web", "admin"),
    ("POST", "/api/v1/gc", "admin"),
    ("POST", "/api/v1/remove", "admin"),
    ("POST", "/api/v1/recompress", "admin"),
    ("POST", "/api/v1/scrub", "admin"),
    ("GET", "/api/v1/tokens", "admin"),
    ("POST", "/api/v1/tokens", "admin"),
    ("DELETE", "/api/v1/tokens/0123456789abcdef", "admin"),
    ("GET", "/api/v1/caches", "admin"),
    ("GET", "/api/v1/caches/team-a", "admin"),
    ("PUT", "/api/v1/caches/team-a", "admin"),
    ("DELETE", "/api/v1/caches/team-a", "admin"),
];

/// Routes with a method that could write, and open all the same: they only ask; the last one takes
/// an identity in place of a token.
const OPEN: &[(&str, &str)] = &[
    ("POST", "/api/v1/missing"),
    ("POST", "/api/v1/plan"),
    ("POST", "/api/v1/frames"),
    ("POST", "/api/v1/tokens/exchange"),
];

fn file(cache: &Cache, name: &str) -> String {
    let text = std::fs::read_to_string(cache.dir.path().join(name)).unwrap();
    text.trim().to_owned()
}

fn with(cache: &Cache, token: &str, method: &str, path: &str, body: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str())];
    cache.send(method, path, &headers, body.as_bytes())
}

fn by_admin(cache: &Cache, method: &str, path: &str, body: Value) -> Answer {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    with(cache, &file(cache, "admin.token"), method, path, &body)
}

#[track_caller]
fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// A new token and its id.
#[track_caller]
fn made(cache: &Cache, scopes: &[&str], expires_in_s: u64) -> (String, String) {
    let wish = json!({"subject": "ci", "scopes": scopes, "expires_in_s": expires_in_s});
    let made = parsed(&by_admin(cache, "POST", "/api/v1/tokens", wish));
    let text = |key: &str| made[key].as_str().unwrap().to_owned();
    (text("token"), text("id"))
}

fn revoke(cache: &Cache, id: &str) -> Answer {
    by_admin(
        cache,
        "DELETE",
        &format!("/api/v1/tokens/{id}"),
        Value::Null,
    )
}

/// Waits until a token that holds for a second does not.
fn expired(cache: &Cache) -> String {
    let (token, _) = made(cache, &["push", "pin", "admin"], 1);
    let begin = Instant::now();
    while with(cache, &token, "GET", "/api/v1/tokens", "").status == 200 {
        assert!(
            begin.elapsed() < Duration::from_secs(30),
            "it never expires"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
    token
}

/// `Authorization` headers that open nothing, with what is wrong with them.
fn bad(cache: &Cache, other: &Cache) -> Vec<(&'static str, String)> {
    let (push, admin) = (file(cache, "push.token"), file(cache, "admin.token"));
    let all = ["pull", "push", "pin", "admin"];
    let (good, id) = made(cache, &all, 60);
    let (revoked, revoked_id) = made(cache, &all, 60);
    assert_eq!(revoke(cache, &revoked_id).status, 200);
    let kept: Value = {
        let path = cache.dir.path().join(format!("tokens/{id}.json"));
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    };
    let (head, last) = good.split_at(good.len() - 1);
    let changed = format!("{head}{}", if last == "A" { "B" } else { "A" });
    let secret = good.rsplit('_').next().unwrap();
    let bearer = |token: &str| format!("Bearer {token}");
    vec![
        ("empty", "Bearer ".to_owned()),
        ("nobody's", bearer("letmein")),
        ("of another cache", bearer(&file(other, "push.token"))),
        ("made by another cache", bearer(&made(other, &all, 60).0)),
        ("a letter less", bearer(head)),
        ("a letter more", bearer(&format!("{good}A"))),
        ("another last letter", bearer(&changed)),
        ("without its id", bearer(secret)),
        ("its id alone", bearer(&id)),
        (
            "what the disk has of it",
            bearer(kept["secret_sha256"].as_str().unwrap()),
        ),
        (
            "an id that is a path",
            bearer(&good.replace(&id, "../../push.token")),
        ),
        ("push and admin", bearer(&format!("{push},{admin}"))),
        ("expired", bearer(&expired(cache))),
        ("revoked", bearer(&revoked)),
        ("of another scheme", format!("Digest {good}")),
        ("a bare token", good.clone()),
        (
            "a password without a name",
            format!("Basic {}", STANDARD.encode(&good)),
        ),
        (
            "a name without a password",
            format!("Basic {}", STANDARD.encode(format!("{good}:"))),
        ),
        ("broken base64", "Basic !!!".to_owned()),
    ]
}

#[test]
fn every_route_refuses_every_bad_token_and_nothing_is_signed() {
    let (cache, other) = (Cache::new(), Cache::new());
    let bad = bad(&cache, &other);
    for (method, path, _) in ROUTES {
        let none = cache.send(method, path, &[], b"x");
        assert_eq!(none.status, 401, "{method} {path}: {}", none.text());
        for (what, header) in &bad {
            let answer = cache.send(method, path, &[("Authorization", header)], b"x");
            assert_eq!(
                answer.status,
                401,
                "{method} {path}, {what}: {}",
                answer.text()
            );
            assert!(answer.header("www-authenticate").contains("Bearer"));
            // A secret may have a '_' near its end: what is left of it then is a word of any text.
            let secret = header.rsplit(['_', ' ']).next().unwrap();
            assert!(
                secret.len() < 8 || !answer.text().contains(secret),
                "{}",
                answer.text()
            );
        }
    }
    // A path that would be taken, had the token been good.
    let sample = Sample::tree('a', "x", 1000, &[]);
    let narinfo = sample.narinfo_url();
    for (_, header) in &bad {
        let header = [("Authorization", header.as_str())];
        cache.send("PUT", "/push/nar/x.nar", &header, &sample.nar);
        cache.send(
            "PUT",
            &narinfo,
            &header,
            sample.narinfo("nar/x.nar", "none").as_bytes(),
        );
    }
    let stats = parsed(&cache.get("/api/v1/stats"));
    for count in ["paths", "nars", "uploads", "documents", "frames"] {
        assert_eq!(stats[count], 0, "{count}: {stats}");
    }
    let pins = parsed(&cache.get("/api/v1/pins"));
    assert_eq!(pins["pins"], json!([]));
}

#[test]
fn every_scope_opens_its_routes_and_no_others() {
    let cache = Cache::new();
    for scope in ["pull", "push", "pin", "admin"] {
        let (token, _) = made(&cache, &[scope], 60);
        let basic = STANDARD.encode(format!("any:{token}"));
        for (method, path, takes) in ROUTES {
            let opens = scope == "admin" || scope == *takes;
            for header in [format!("Bearer {token}"), format!("Basic {basic}")] {
                let answer = cache.send(method, path, &[("Authorization", &header)], b"x");
                let said = answer.text();
                assert_eq!(
                    answer.status != 403,
                    opens,
                    "{method} {path}, {scope}: {said}"
                );
                assert_ne!(answer.status, 401, "{method} {path}, {scope}: {said}");
                if !opens {
                    let says = format!("the token of ci is for {scope}, this takes {takes}: ");
                    assert!(said.starts_with(&says), "{said}");
                }
            }
        }
    }
}

#[test]
fn no_route_is_left_out_of_this() {
    let source = include_str!("../../src/http/router.rs");
    let mut found = 0;
    for route in source.split(".route(").skip(1) {
        let ends = [".merge(", ".route_layer(", ";", "\n}"].map(|end| route.find(end));
        let route = &route[..ends.into_iter().flatten().min().unwrap_or(route.len())];
        let Some(pattern) = route.split('"').nth(1).filter(|it| it.starts_with('/')) else {
            continue;
        };
        for method in ["PUT", "POST", "DELETE"] {
            if !route.contains(&format!("{}(", method.to_lowercase())) {
                continue;
            }
            found += 1;
            let is_it = |path: &str| {
                let path = path.strip_prefix("/push").unwrap_or(path);
                let (one, two): (Vec<_>, Vec<_>) =
                    (path.split('/').collect(), pattern.split('/').collect());
                let same = |(one, two): (&&str, &&str)| one == two || two.starts_with('{');
                one.len() == two.len() && one.iter().zip(&two).all(same)
            };
            let known = ROUTES.iter().map(|(method, path, _)| (*method, *path));
            let mut known = known.chain(OPEN.iter().copied());
            assert!(
                known.any(|(verb, path)| verb == method && is_it(path)),
                "{method} {pattern} is in no list here: who may ask it?"
            );
        }
    }
    assert!(found >= 20, "only {found} routes were found");
}

#[test]
fn a_token_of_a_subject_pushes_under_its_name_until_it_is_revoked() {
    let cache = Cache::new();
    let (token, id) = made(&cache, &["push", "pin"], 3600);
    let sample = Sample::tree('a', "x", 1000, &[]);
    let narinfo = sample.narinfo_url();
    let put = |path: &str, body: &[u8]| {
        let bearer = format!("Bearer {token}");
        cache.send("PUT", path, &[("Authorization", &bearer)], body)
    };
    assert_eq!(put("/push/nar/x.nar", &sample.nar).status, 200);
    assert_eq!(
        put(&narinfo, sample.narinfo("nar/x.nar", "none").as_bytes()).status,
        200
    );
    let pin = json!({"roots": [sample.path.to_string()]}).to_string();
    assert_eq!(put("/api/v1/pins/web", pin.as_bytes()).status, 200);
    let pin = parsed(&cache.get("/api/v1/pins/web"));
    assert_eq!(pin["generations"][0]["subject"], "ci");

    let listed = parsed(&by_admin(&cache, "GET", "/api/v1/tokens", Value::Null));
    let listed = &listed["tokens"][0];
    assert_eq!(
        (&listed["id"], &listed["by"]),
        (&json!(id), &json!("admin"))
    );
    assert_eq!(listed["scopes"], json!(["push", "pin"]));
    assert_eq!(listed["revoked"], Value::Null);
    assert!(listed.get("token").is_none() && listed.get("secret_sha256").is_none());

    // At once: the very next request is refused. Revoked again it stays as it was.
    let revoked = parsed(&revoke(&cache, &id));
    let refused = put("/push/nar/y.nar", &sample.nar);
    assert_eq!(refused.status, 401);
    assert!(
        refused.text().contains("of ci was revoked"),
        "{}",
        refused.text()
    );
    assert_eq!(parsed(&revoke(&cache, &id)), revoked);
    assert_eq!(revoke(&cache, "0123456789abcdef").status, 404);
    assert_eq!(revoke(&cache, "no-id").status, 400);
    assert_eq!(cache.get(&narinfo).status, 200, "what was pushed stays");
}

#[test]
fn tokens_outlive_a_restart_and_the_loss_of_the_index() {
    let mut cache = Cache::new();
    let (good, _) = made(&cache, &["admin"], 3600);
    let (revoked, id) = made(&cache, &["admin"], 3600);
    assert_eq!(revoke(&cache, &id).status, 200);
    let list = |cache: &Cache| by_admin(cache, "GET", "/api/v1/tokens", Value::Null).body;
    let before = list(&cache);
    for lost in [None, Some("depot/index")] {
        let dir: PathBuf = cache.dir.path().to_owned();
        cache.server.stop_and_wait();
        if let Some(lost) = lost {
            std::fs::remove_dir_all(dir.join(lost)).unwrap();
        }
        cache.server = start(&dir, |_| {});
        assert_eq!(with(&cache, &good, "GET", "/api/v1/tokens", "").status, 200);
        assert_eq!(
            with(&cache, &revoked, "GET", "/api/v1/tokens", "").status,
            401
        );
        assert_eq!(list(&cache), before);
    }
}

#[test]
fn a_read_only_cache_lets_tokens_be_revoked() {
    let cache = Cache::with(|config| config.read_only = true);
    let (token, id) = made(&cache, &["push", "admin"], 3600);
    let push = with(&cache, &token, "PUT", "/push/nar/x.nar", "x");
    assert!(
        push.status == 403 && push.text().contains("read-only"),
        "{}",
        push.text()
    );
    assert_eq!(revoke(&cache, &id).status, 200);
    assert_eq!(
        with(&cache, &token, "GET", "/api/v1/tokens", "").status,
        401
    );
}

#[test]
fn a_wish_that_cannot_be_met_is_refused_with_a_reason() {
    let cache = Cache::new();
    for (wish, status, says) in [
        (json!({}), 400, "missing field"),
        (
            json!({"subject": "a/b", "scopes": ["push"], "expires_in_s": 9}),
            400,
            "begin with",
        ),
        (
            json!({"subject": "admin", "scopes": ["push"], "expires_in_s": 9}),
            400,
            "taken by",
        ),
        (
            json!({"subject": "ci", "scopes": [], "expires_in_s": 9}),
            400,
            "at least one",
        ),
        (
            json!({"subject": "ci", "scopes": ["root"], "expires_in_s": 9}),
            400,
            "root",
        ),
        (
            json!({"subject": "ci", "scopes": ["push"], "expires_in_s": 0}),
            422,
            "366 days",
        ),
        (
            json!({"subject": "ci", "scopes": ["push"], "expires_in_s": u64::MAX}),
            422,
            "366 days",
        ),
        (
            json!({"subject": "ci", "scopes": ["push"], "expires_in_s": 9, "x": 1}),
            400,
            "x",
        ),
    ] {
        let answer = by_admin(&cache, "POST", "/api/v1/tokens", wish.clone());
        assert_eq!(answer.status, status, "{wish}: {}", answer.text());
        assert!(answer.text().contains(says), "{wish}: {}", answer.text());
    }
    let tokens = parsed(&by_admin(&cache, "GET", "/api/v1/tokens", Value::Null));
    assert_eq!(tokens, json!({"tokens": []}));
}

#[test]
fn a_private_cache_tells_nothing_to_who_has_no_token() {
    let (cache, other) = (
        Cache::with(|config| config.cache.public = false),
        Cache::new(),
    );
    let sample = Sample::tree('a', "x", 1000, &[]);
    sample.push(&cache);
    let (token, id) = made(&cache, &["pull"], 60);
    let read = |token: &str, path: &str| with(&cache, token, "GET", path, "");
    let narinfo = format!("/{}.narinfo", sample.path.hash());
    let text = read(&token, &narinfo);
    let url = text
        .text()
        .lines()
        .find_map(|line| line.strip_prefix("URL: "))
        .unwrap();
    let (nar, absent) = (format!("/{url}"), format!("/{}.narinfo", "9".repeat(32)));
    // Twice, so that the second answers come out of memory.
    let reading = [
        ("/nix-cache-info", 200),
        (narinfo.as_str(), 200),
        (&narinfo, 200),
        (&nar, 200),
        (&nar, 200),
        (&absent, 404),
        (&absent, 404),
        ("/", 200),
        ("/metrics", 200),
        ("/api/v1/paths", 200),
        ("/api/v1/stats", 200),
        ("/api/v1/pins", 200),
        ("/push/nix-cache-info", 200),
        ("/no/such/url", 404),
    ];
    for (path, status) in reading {
        assert_eq!(read(&token, path).status, status, "{path}");
    }
    let bad = bad(&cache, &other);
    for (path, _) in reading {
        for method in ["GET", "HEAD"] {
            let none = cache.send(method, path, &[], b"");
            assert_eq!(none.status, 401, "{method} {path}");
            assert!(
                method == "HEAD" || none.text().contains("is private"),
                "{}",
                none.text()
            );
            for (what, header) in &bad {
                let answer = cache.send(method, path, &[("Authorization", header)], b"");
                assert_eq!(answer.status, 401, "{method} {path}, {what}");
            }
        }
    }
    for (method, path) in OPEN.iter().filter(|(_, path)| !path.ends_with("/exchange")) {
        let none = cache.send(method, path, &[], b"x");
        assert_eq!(none.status, 401, "{method} {path}");
        let asked = with(&cache, &token, method, path, "x");
        assert_eq!(asked.status, 400, "{method} {path}: {}", asked.text());
    }
    for open in ["/healthz", "/readyz"] {
        assert_eq!(cache.get(open).status, 200, "{open}");
    }
    let identity = br#"{"identity": "x"}"#;
    let exchange = cache.send("POST", "/api/v1/tokens/exchange", &[], identity);
    assert!(exchange.status == 404 && exchange.text().contains("auth.issuers_file"));
    assert_eq!(revoke(&cache, &id).status, 200);
    for (path, _) in reading {
        assert_eq!(read(&token, path).status, 401, "{path}, revoked");
    }
}
