//! What operators see and do: probes, figures, read-only, several sockets, a graceful end.

use crate::client::{Cache, eventually, read_answer, send, start};
use crate::sample::Sample;
use snowcache_server::compose::Server;
use snowcache_server::config::Config;
use snowcache_server::observe::with_causes;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

#[test]
fn requests_are_counted_by_route_method_and_status() {
    let cache = Cache::new();
    let sample = Sample::tree('a', "counted", 50_000, &[]);
    sample.push(&cache);
    let published = sample.published(&cache);
    cache.head(&format!("/{}.narinfo", sample.path.hash()));
    cache.get(&format!("/{}.narinfo", "z".repeat(32)));
    cache.get("/wp-login.php?token=secret");
    let nar = cache.get(&published.url);
    for (series, value) in [
        (
            "requests_total{route=\"narinfo\",method=\"GET\",code=\"200\"}",
            1,
        ),
        (
            "requests_total{route=\"narinfo\",method=\"HEAD\",code=\"200\"}",
            1,
        ),
        (
            "requests_total{route=\"narinfo\",method=\"GET\",code=\"404\"}",
            1,
        ),
        (
            "requests_total{route=\"push_nar\",method=\"PUT\",code=\"200\"}",
            1,
        ),
        (
            "requests_total{route=\"push_narinfo\",method=\"PUT\",code=\"200\"}",
            1,
        ),
        (
            "requests_total{route=\"other\",method=\"GET\",code=\"404\"}",
            1,
        ),
        ("response_bytes_total{route=\"nar\"}", nar.body.len()),
        ("request_duration_seconds_count{route=\"narinfo\"}", 3),
        (
            "request_duration_seconds_bucket{route=\"nar\",le=\"+Inf\"}",
            1,
        ),
    ] {
        let series = format!("snowcache_http_{series}");
        eventually(&series, || cache.metric(&series) == value as f64);
    }
    for (series, value) in [
        ("uploads_total", 1),
        ("upload_nar_bytes_total", sample.nar.len()),
        ("upload_received_bytes_total", sample.nar.len()),
        ("depot_paths", 1),
        ("depot_nars", 1),
        ("ready", 1),
        ("gc_running", 0),
    ] {
        assert_eq!(
            cache.metric(&format!("snowcache_{series}")),
            value as f64,
            "{series}"
        );
    }
    assert!(cache.metric("snowcache_depot_stored_bytes") > 50_000.0);
    assert!(cache.metric("process_resident_memory_bytes") > 1e6);
    let metrics = cache.get("/metrics");
    assert_eq!(
        metrics.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(!metrics.text().contains("secret") && !metrics.text().contains("wp-login"));
}

#[test]
fn every_figure_reads_as_prometheus_wants_it() {
    let cache = Cache::new();
    Sample::tree('a', "x", 10, &[]).push(&cache);
    let metrics = cache.get("/metrics");
    let (mut family, mut seen) = (String::new(), std::collections::BTreeSet::new());
    for line in metrics.text().lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(seen.insert(family.clone()), "{family} comes twice");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            assert!(kind.starts_with(&format!("{family} ")), "{line}");
            let total = kind.ends_with(" counter");
            assert_eq!(total, family.ends_with("_total"), "{line}");
            continue;
        }
        assert!(line.starts_with(&family), "{line} is not of {family}");
        let (_, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap();
    }
}

#[test]
fn a_cache_without_room_is_not_ready_and_one_that_is_read_only_is() {
    let mut cache = Cache::with(|config| config.depot.max_size_bytes = 2_000_000);
    assert_eq!(cache.get("/readyz").text(), "ready\n");
    let mut letters = "0123456789abcdfghijklmnpqrsvwxyz".chars();
    for size in [190_000, 60_000, 20_000] {
        loop {
            let letter = letters.next().unwrap();
            let nar = Sample::tree(letter, "big", size, &[]).nar;
            if cache.put(&format!("/push/nar/{letter}.nar"), &nar).status == 507 {
                break;
            }
        }
    }
    let unready = cache.get("/readyz");
    assert_eq!(unready.status, 503, "{}", cache.get("/metrics").text());
    assert!(unready.text().contains("no room"), "{}", unready.text());
    assert_eq!(cache.get("/healthz").status, 200);
    assert_eq!(cache.metric("snowcache_ready"), 0.0);
    let path = cache.dir.path().to_owned();
    drop(cache.server);
    cache.server = start(&path, |config| {
        config.depot.max_size_bytes = 2_000_000;
        config.read_only = true;
    });
    assert_eq!(cache.get("/readyz").text(), "ready\n");
}

#[test]
fn a_read_only_cache_serves_and_changes_nothing() {
    let mut cache = Cache::new();
    let sample = Sample::tree('a', "kept", 100, &[]);
    sample.push(&cache);
    let path = cache.dir.path().to_owned();
    drop(cache.server);
    cache.server = start(&path, |config| {
        config.read_only = true;
        config.retention.grace_s = 0;
        config.retention.max_age_s = 1;
        config.retention.gc_interval_s = 1;
    });
    let admin = std::fs::read_to_string(path.join("admin.token")).unwrap();
    let admin = format!("Bearer {}", admin.trim());
    for (method, url) in [
        ("PUT", "/push/nix-cache-info"),
        ("PUT", "/push/nar/x.nar"),
        ("PUT", "/api/v1/pins/x"),
        ("POST", "/api/v1/gc"),
        ("POST", "/api/v1/recompress"),
        ("POST", "/api/v1/scrub"),
        ("POST", "/api/v1/remove"),
        ("DELETE", "/api/v1/pins/x"),
    ] {
        let refused = cache.send(method, url, &[("Authorization", &admin)], b"{}");
        assert_eq!(refused.status, 403, "{method} {url}: {}", refused.text());
        assert!(refused.text().contains("read-only"), "{}", refused.text());
    }
    assert_eq!(cache.metric("snowcache_read_only"), 1.0);
    std::thread::sleep(Duration::from_millis(3500)); // three collections would have come
    assert_eq!(
        cache.metric("snowcache_gc_runs_total{result=\"ended\"}"),
        0.0
    );
    assert_eq!(cache.get(&sample.published(&cache).url).status, 200);
}

#[test]
fn figures_may_have_a_socket_of_their_own_or_none() {
    let cache = Cache::with(|config| {
        config.metrics.listen = vec!["127.0.0.1:0".to_owned()];
        config.http.max_connections = 1;
    });
    assert_eq!(cache.get("/metrics").status, 404);
    let metrics = cache.server.metrics.unwrap();
    let _idle = TcpStream::connect(cache.server.address).unwrap();
    let told = |path| send(metrics, "GET", path, &[], b"");
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(
            told(path).status,
            200,
            "also when all connections are taken"
        );
    }
    assert_eq!(told("/nix-cache-info").status, 404);
    let without = Cache::with(|config| config.metrics.enabled = false);
    assert_eq!(without.get("/metrics").status, 404);
    assert_eq!(without.get("/readyz").status, 200);
}

#[test]
fn while_it_drains_requests_are_served_and_sent_elsewhere() {
    let mut cache = Cache::with(|config| config.http.drain_delay_s = 3);
    let mut kept_alive = TcpStream::connect(cache.server.address).unwrap();
    cache.server.stop();
    eventually("not ready", || cache.get("/readyz").status == 503);
    assert!(cache.get("/readyz").text().contains("about to stop"));
    let ask = b"GET /nix-cache-info HTTP/1.1\r\nHost: x\r\n\r\n";
    kept_alive.write_all(ask).unwrap();
    let answer = read_answer(&mut kept_alive, false);
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
    let address = cache.server.address;
    drop(cache.server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_download_under_way_ends_and_one_that_does_not_is_cut_off_after_the_grace() {
    let mut cache = Cache::with(|config| config.http.shutdown_grace_s = 2);
    let sample = Sample::tree('a', "large", 32 << 20, &[]);
    sample.push(&cache);
    let url = sample.published(&cache).url;
    let ask = format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let [mut reads_on, mut stalls] = [(); 2].map(|()| {
        let mut stream = TcpStream::connect(cache.server.address).unwrap();
        stream.write_all(ask.as_bytes()).unwrap();
        stream.read_exact(&mut [0; 1000]).unwrap();
        stream
    });
    let begin = Instant::now();
    cache.server.stop();
    let mut rest = Vec::new();
    reads_on.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 32 << 20, "it came whole");
    drop(cache.server);
    assert!(
        begin.elapsed() < Duration::from_secs(30),
        "the other one is not waited for"
    );
    rest.clear();
    stalls.read_to_end(&mut rest).unwrap_or_default();
    assert!(rest.len() < 32 << 20, "it was cut off");
}

#[test]
fn several_sockets_are_one_server() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, old) = (dir.path().join("s.sock"), dir.path().join("s.sock"));
    drop(UnixListener::bind(&old).unwrap()); // left behind by a crash
    let cache = Cache::with(|config| {
        config.listen.push("[::1]:0".to_owned());
        config.listen.push(format!("unix:{}", socket.display()));
        config.http.unix_socket_mode = "0600".to_owned();
    });
    let first = cache.server.banner.lines().next().unwrap();
    assert!(
        first.contains("http://127.0.0.1:") && first.contains("http://[::1]:"),
        "{first}"
    );
    let (_, ipv6) = first.split_once("http://[").unwrap();
    let ipv6: SocketAddr = format!("[{}", ipv6.split(',').next().unwrap())
        .parse()
        .unwrap();
    assert_eq!(send(ipv6, "GET", "/healthz", &[], b"").text(), "ok\n");
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut stream = UnixStream::connect(&socket).unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).unwrap();
    assert_eq!(read_answer(&mut stream, false).text(), "ok\n");
}

#[test]
fn a_file_and_a_socket_in_use_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let [file, used] = ["file", "used"].map(|name| dir.path().join(name));
    std::fs::write(&file, "somebody's").unwrap();
    let _listener = UnixListener::bind(&used).unwrap();
    for path in [&file, &used] {
        let config = Config {
            data: dir.path().join("var"),
            listen: vec![format!("unix:{}", path.display())],
            ..Config::default()
        };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let refused = runtime.block_on(Server::open(config)).err().unwrap();
        let refused = with_causes(&refused);
        assert!(
            refused.contains("in use") && refused.contains("--listen"),
            "{refused}"
        );
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "somebody's");
    assert!(UnixStream::connect(&used).is_ok());
}

/// A port that is free at this moment for both kinds of addresses.
fn free_port() -> u16 {
    let listener = TcpListener::bind("[::]:0").unwrap();
    listener.local_addr().unwrap().port()
}

#[test]
fn the_unspecified_ipv6_address_takes_ipv4_too() {
    let port = free_port();
    let cache = Cache::with(|config| config.listen = vec![format!("[::]:{port}")]);
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let address: SocketAddr = address.parse().unwrap();
        let answer = send(address, "GET", "/healthz", &[], b"");
        assert_eq!(answer.text(), "ok\n", "{address}");
        let bearer = format!("Bearer {}", cache.token());
        let headers = [("Authorization", bearer.as_str())];
        let info = b"StoreDir: /nix/store\n";
        let put = send(address, "PUT", "/push/nix-cache-info", &headers, info);
        assert_eq!(put.status, 200, "{address} is this machine: {}", put.text());
    }
    drop(cache);
    let port = free_port();
    let both = Cache::with(|config| {
        config.listen = vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")];
    });
    for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        let answer = send(address.parse().unwrap(), "GET", "/healthz", &[], b"");
        assert_eq!(answer.text(), "ok\n", "{address}");
    }
    drop(both);
}
