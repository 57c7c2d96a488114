//! A server to try, and an HTTP client that does exactly what it is told.

use snowcache_server::compose::Server;
use snowcache_server::config::Config;
use snowcache_server::events::Events;
use snowcache_server::listen::Bound;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A running server; stopped when dropped.
pub struct Running {
    pub address: SocketAddr,
    /// Where operators are told how it is, if not there.
    pub metrics: Option<SocketAddr>,
    pub banner: String,
    /// Through which it tells what happens.
    pub events: Arc<Events>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// A data folder and the server on it.
pub struct Cache {
    pub dir: TempDir,
    pub server: Running,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// Starts a server on `data`, with a configuration that differs from the default by `change`.
pub fn start(data: &Path, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = Config {
        listen: vec!["127.0.0.1:0".to_owned()],
        data: data.to_owned(),
        ..Config::default()
    };
    config.cache.key_name = "test-1".to_owned();
    change(&mut config);
    let (stop, stopped) = oneshot::channel::<()>();
    let (ready, started) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let server = Server::open(config).await.unwrap();
            let bound = server.bound().next().unwrap().clone();
            let metrics = server.metrics_bound().next().cloned();
            let banner = server.banner().to_owned();
            let events = server.app().events.clone();
            ready.send((bound, metrics, banner, events)).unwrap();
            let stopped = async { stopped.await.unwrap_or(()) };
            server.serve(stopped, std::future::pending()).await;
        });
    });
    let (bound, metrics, banner, events) = started.recv().unwrap();
    let address = |bound| match bound {
        Bound::Tcp(address) | Bound::Tls(address) => address,
        Bound::Unix(_) => panic!("these tests speak TCP"),
    };
    Running {
        address: address(bound),
        metrics: metrics.map(address),
        banner,
        events,
        stop: Some(stop),
        thread: Some(thread),
    }
}

impl Running {
    /// What SIGTERM does.
    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    /// The same, until it is gone.
    pub fn stop_and_wait(&mut self) {
        self.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.stop();
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Cache {
    pub fn new() -> Cache {
        Cache::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Cache {
        let dir = tempfile::tempdir().unwrap();
        let server = start(dir.path(), change);
        Cache { dir, server }
    }

    pub fn token(&self) -> String {
        let token = std::fs::read_to_string(self.dir.path().join("push.token")).unwrap();
        token.trim().to_owned()
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    pub fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[], b"")
    }

    /// With the push token.
    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.put_with(path, &[], body)
    }

    pub fn put_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", self.token());
        let mut all = vec![("Authorization", bearer.as_str())];
        all.extend(headers);
        self.send("PUT", path, &all, body)
    }

    /// One of the figures that Prometheus reads.
    pub fn metric(&self, series: &str) -> f64 {
        let metrics = self.get("/metrics");
        let line = metrics
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{}", metrics.text()));
        value.trim().parse().unwrap()
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        send(self.server.address, method, path, headers, body)
    }
}

/// Waits for what comes about soon.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Asks whoever listens there.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n");
    if method != "GET" && method != "HEAD" {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    // A server that has refused already may stop reading; what it says is read all the same.
    stream.write_all(body).unwrap_or_default();
    read_answer(&mut stream, method == "HEAD")
}

/// Reads one answer to the end of its connection.
pub fn read_answer(stream: &mut impl Read, is_head: bool) -> Answer {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&bytes)));
    let head = std::str::from_utf8(&bytes[..end]).unwrap().to_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let mut body = bytes.split_off(end + 4);
    if headers
        .get("transfer-encoding")
        .is_some_and(|how| how == "chunked")
    {
        body = unchunk(&body);
    } else if let (Some(length), false) = (headers.get("content-length"), is_head) {
        assert_eq!(length.parse(), Ok(body.len()), "Content-Length is exact");
    }
    Answer {
        status: status.parse().unwrap(),
        headers,
        body,
    }
}

fn unchunk(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = chunked.windows(2).position(|two| two == b"\r\n").unwrap();
        let size = std::str::from_utf8(&chunked[..line]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&chunked[line + 2..line + 2 + size]);
        chunked = &chunked[line + 2 + size + 2..];
    }
}
