//! Who may do what at which URL, and what a start prints and leaves.

use crate::client::{Cache, start};
use crate::sample::Sample;
use snowcache_server::compose::Server;
use snowcache_server::config::Config;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

#[test]
fn the_cache_says_what_it_is() {
    let cache = Cache::with(|config| config.cache.priority = 25);
    for url in ["/nix-cache-info", "/push/nix-cache-info"] {
        let info = cache.get(url);
        assert_eq!(
            info.text(),
            "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 25\nGetNarInfosV1: get-narinfos-v1\n"
        );
        assert_eq!(
            cache.head(url).header("content-length"),
            info.body.len().to_string()
        );
    }
    let ours = cache.put("/push/nix-cache-info", b"StoreDir: /nix/store\n");
    assert_eq!(ours.status, 200, "{}", ours.text());
    let other = cache.put("/push/nix-cache-info", b"StoreDir: /gnu/store\n");
    assert!(
        other.status == 400 && other.text().contains("/gnu/store"),
        "{}",
        other.text()
    );
    assert_eq!(cache.get("/healthz").text(), "ok\n");
}

#[test]
fn writing_anywhere_else_names_the_right_url() {
    let cache = Cache::new();
    let hash = "0".repeat(32);
    for path in [
        "/nix-cache-info",
        &format!("/{hash}.narinfo"),
        "/nar/x.nar",
        "/log/x",
        "/a/b/c",
    ] {
        for method in ["PUT", "POST", "DELETE"] {
            let answer = cache.send(method, path, &[], b"x");
            assert_eq!(answer.status, 405, "{method} {path}");
            let right = format!("http://{}/push{path}", cache.server.address);
            assert!(answer.text().contains(&right), "{}", answer.text());
            assert_eq!(answer.header("allow"), "GET, HEAD");
        }
    }
    let answer = cache.send("DELETE", "/push/nar/x.nar", &[], b"");
    assert_eq!(
        (answer.status, answer.header("allow")),
        (405, "GET, HEAD, PUT")
    );
}

#[test]
fn writing_needs_a_token() {
    let cache = Cache::new();
    let nar = Sample::tree('a', "x", 3 << 20, &[]).nar;
    let wrong = [("Authorization", "Bearer wrong")];
    for (headers, says) in [(&[][..], "needs a token"), (&wrong[..], "not this cache's")] {
        let put = cache.send("PUT", "/push/nar/x.nar", headers, &nar);
        assert_eq!(put.status, 401);
        assert!(put.header("www-authenticate").starts_with("Basic"));
        assert!(put.text().contains(says), "{}", put.text());
    }
    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let admin = format!("Bearer {}", admin.trim());
    let put = cache.send("PUT", "/push/nar/x.nar", &[("Authorization", &admin)], &nar);
    assert_eq!(put.status, 200, "{}", put.text());
    use base64::Engine;
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("push:{}", cache.token()));
    let basic = format!("Basic {pair}");
    let put = cache.send("PUT", "/push/nar/x.nar", &[("Authorization", &basic)], &nar);
    assert_eq!(put.status, 200, "{}", put.text());
}

#[test]
fn the_banner_says_where_the_push_token_is_and_never_shows_the_admin_token() {
    let cache = Cache::new();
    let banner = &cache.server.banner;
    let first = format!("snowcached ready on http://{}", cache.server.address);
    assert_eq!(banner.lines().next(), Some(first.as_str()));
    // The token itself is for terminals: the banner's own tests look at both.
    assert!(banner.contains("/push.token in a netrc"), "{banner}");
    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    assert!(!banner.contains(admin.trim()));
    let public = std::fs::read_to_string(cache.dir.path().join("keys/test-1.pub")).unwrap();
    assert!(banner.contains(public.trim()) && cache.get("/").text().contains(public.trim()));
}

#[test]
fn paths_are_listed_page_by_page_and_what_is_missing_is_told() {
    let cache = Cache::new();
    let samples: Vec<Sample> = ('0'..='4')
        .map(|letter| Sample::tree(letter, "listed", 10, &[]))
        .collect();
    samples.iter().for_each(|sample| sample.push(&cache));
    let mut found = Vec::new();
    let mut query = "/api/v1/paths?limit=2".to_owned();
    loop {
        let page = cache.get(&query);
        let page: serde_json::Value = serde_json::from_slice(&page.body).unwrap();
        let paths = page["paths"].as_array().unwrap().clone();
        assert!(paths.len() <= 2);
        found.extend(paths.iter().map(|path| path.as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => query = format!("/api/v1/paths?limit=2&after={next}"),
            None => break,
        }
    }
    found.sort();
    let pushed: Vec<String> = samples
        .iter()
        .map(|sample| sample.path.to_string())
        .collect();
    assert_eq!(found, pushed);

    let absent = "9".repeat(32);
    let body = format!(
        "{{\"hashes\":[\"{}\",\"{absent}\"]}}",
        samples[0].path.hash()
    );
    let missing = cache.send("POST", "/api/v1/missing", &[], body.as_bytes());
    assert_eq!(missing.text(), format!("{{\"missing\":[\"{absent}\"]}}"));
    for bad in ["", "[]", "{\"hashes\":[\"x\"]}"] {
        let status = cache
            .send("POST", "/api/v1/missing", &[], bad.as_bytes())
            .status;
        assert_eq!(status, 400, "{bad}");
    }
    assert_eq!(cache.get("/api/v1/paths?limit=x").status, 400);
    assert_eq!(cache.get("/api/v1/paths?after=x").status, 400);
}

#[test]
fn every_answer_bears_its_requests_id() {
    let cache = Cache::new();
    let ours = cache.send("GET", "/healthz", &[("X-Request-Id", "deploy-17")], b"");
    assert_eq!(ours.header("x-request-id"), "deploy-17");
    let bad = cache.send("GET", "/healthz", &[("X-Request-Id", "a b\"c")], b"");
    assert_ne!(bad.header("x-request-id"), "a b\"c");
    assert!(!cache.get("/missing").header("x-request-id").is_empty());
}

#[test]
fn two_servers_never_share_a_folder() {
    let cache = Cache::new();
    let config = Config {
        data: cache.dir.path().to_owned(),
        listen: vec!["127.0.0.1:0".to_owned()],
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(Server::open(config)).err().unwrap();
    assert!(
        refused.to_string().contains("in use by another snowcached"),
        "{refused}"
    );
    let path = cache.dir.path().to_owned();
    drop(cache.server);
    drop(start(&path, |_| {}));
}

#[test]
fn a_unix_socket_serves_and_takes_writes() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let config = Config {
        data: dir.path().join("var"),
        listen: vec![format!("unix:{}", socket.display())],
        ..Config::default()
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::open(config)).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async { stopped.await.unwrap_or(()) };
    let serving = runtime.spawn(server.serve(stopped, std::future::pending()));
    let token = std::fs::read_to_string(dir.path().join("var/push.token")).unwrap();
    let mut stream = UnixStream::connect(&socket).unwrap();
    let body = "StoreDir: /nix/store\n";
    let request = format!(
        "PUT /push/nix-cache-info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
        token.trim(),
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    stop.send(()).unwrap();
    runtime.block_on(serving).unwrap();
}
