//! TLS: which certificate, since when, and what becomes of those that cannot be used.

use crate::client::{Answer, Cache, Running, read_answer, start};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What tls/make.sh made.
const FIRST_ENDS_UNIX_S: f64 = 3_523_387_823.0;
const SECOND_ENDS_UNIX_S: f64 = 4_387_387_823.0;

fn made(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/server/tls")
        .join(name)
}

/// A data folder with a certificate beside it.
pub struct Encrypted {
    dir: tempfile::TempDir,
    server: Running,
}

impl Encrypted {
    pub fn with(reload_interval_s: u64) -> Encrypted {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("var");
        Encrypted::in_folder(dir, &data, reload_interval_s)
    }

    /// On data that is there.
    pub fn on(data: &Path) -> Encrypted {
        Encrypted::in_folder(tempfile::tempdir().unwrap(), data, 0)
    }

    fn in_folder(dir: tempfile::TempDir, data: &Path, reload_interval_s: u64) -> Encrypted {
        let (certificate, key) = (dir.path().join("c.pem"), dir.path().join("c.key"));
        std::fs::copy(made("first.pem"), &certificate).unwrap();
        std::fs::copy(made("first.key"), &key).unwrap();
        let server = start(data, |config| {
            config.tls.certificate_file = certificate;
            config.tls.key_file = key;
            config.tls.reload_interval_s = reload_interval_s;
            config.tls.handshake_timeout_s = 1;
            config.metrics.listen = vec!["127.0.0.1:0".to_owned()];
        });
        Encrypted { dir, server }
    }

    fn put(&self, name: &str, file: &str) {
        // As certificate managers do it: another file under the same name.
        let new = self.dir.path().join("new");
        std::fs::copy(made(name), &new).unwrap();
        std::fs::rename(new, self.dir.path().join(file)).unwrap();
    }

    pub fn get(&self, path: &str) -> Answer {
        ask(self.server.address, path).0
    }

    pub fn metrics(&self) -> String {
        let metrics = ask(self.server.metrics.unwrap(), "/metrics").0;
        metrics.text().to_owned()
    }

    fn metric(&self, series: &str) -> f64 {
        let metrics = self.metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        let value = line.unwrap_or_else(|| panic!("no {series} in\n{metrics}"));
        value.trim().parse().unwrap()
    }

    fn eventually(&self, series: &str, value: f64) {
        let begin = Instant::now();
        while self.metric(series) != value {
            assert!(
                begin.elapsed() < Duration::from_secs(60),
                "never {series} {value}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn connect(address: SocketAddr) -> StreamOwned<ClientConnection, TcpStream> {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(made("ca.pem")).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let name = "localhost".try_into().unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(connection, TcpStream::connect(address).unwrap())
}

/// The answer, and the certificate that it came with.
fn ask(address: SocketAddr, path: &str) -> (Answer, Vec<u8>) {
    let mut stream = connect(address);
    let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(ask.as_bytes()).unwrap();
    let answer = read_answer(&mut stream, false);
    let certificates = stream.conn.peer_certificates().unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    (answer, certificates[0].to_vec())
}

fn der(name: &str) -> Vec<u8> {
    CertificateDer::from_pem_file(made(name)).unwrap().to_vec()
}

#[test]
fn a_cache_with_a_certificate_is_private_and_says_so() {
    let cache = Encrypted::with(0);
    let (answer, certificate) = ask(cache.server.address, "/nix-cache-info");
    assert!(answer.text().starts_with("StoreDir: /nix/store\n"));
    assert_eq!(certificate, der("first.pem"));
    let banner = &cache.server.banner;
    let url = format!("https://{}", cache.server.address);
    assert!(
        banner.starts_with(&format!("snowcached ready on {url}\n")),
        "{banner}"
    );
    assert!(
        banner.contains(&format!("substituters = {url} ")),
        "{banner}"
    );
    let ends = cache.metric("snowcache_tls_certificate_end_time_seconds");
    assert_eq!(ends, FIRST_ENDS_UNIX_S);
    // Who speaks plain HTTP gets no answer of ours.
    let mut plain = TcpStream::connect(cache.server.address).unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    let mut said = Vec::new();
    plain.read_to_end(&mut said).unwrap_or_default();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    cache.eventually("snowcache_tls_handshakes_failed_total", 1.0);
}

#[test]
fn a_new_certificate_is_taken_and_one_that_cannot_be_used_is_not() {
    let cache = Encrypted::with(1);
    let mut began_before = connect(cache.server.address);
    began_before
        .write_all(b"GET /healthz HTTP/1.1\r\n")
        .unwrap();
    // The certificate comes before its key: for a moment they do not fit.
    cache.put("second.pem", "c.pem");
    cache.eventually("snowcache_tls_certificate_outdated", 1.0);
    let (_, certificate) = ask(cache.server.address, "/healthz");
    assert_eq!(certificate, der("first.pem"), "the old one stays");
    cache.put("second.key", "c.key");
    cache.eventually("snowcache_tls_certificate_outdated", 0.0);
    let (_, certificate) = ask(cache.server.address, "/healthz");
    assert_eq!(certificate, der("second.pem"));
    let ends = cache.metric("snowcache_tls_certificate_end_time_seconds");
    assert_eq!(ends, SECOND_ENDS_UNIX_S);
    assert_eq!(
        cache.metric("snowcache_tls_reloads_total{result=\"used\"}"),
        1.0
    );
    let rest = b"Host: x\r\nConnection: close\r\n\r\n";
    began_before.write_all(rest).unwrap();
    assert_eq!(read_answer(&mut began_before, false).text(), "ok\n");
    std::fs::remove_file(cache.dir.path().join("c.pem")).unwrap();
    cache.eventually("snowcache_tls_certificate_outdated", 1.0);
    assert_eq!(ask(cache.server.address, "/healthz").0.status, 200);
}

#[test]
fn a_client_that_agrees_on_nothing_loses_its_connection() {
    let cache = Encrypted::with(0);
    let mut silent = TcpStream::connect(cache.server.address).unwrap();
    let mut said = Vec::new();
    silent.read_to_end(&mut said).unwrap_or_default(); // ends by the server's doing
    cache.eventually("snowcache_tls_handshakes_failed_total", 1.0);
}

#[test]
fn a_start_without_a_certificate_that_can_be_used_says_why() {
    let data = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refusal = |certificate: &str, key: &str| {
        let mut config = snowcache_server::config::Config {
            data: data.path().to_owned(),
            ..Default::default()
        };
        config.tls.certificate_file = made(certificate);
        config.tls.key_file = made(key);
        let opened = runtime.block_on(snowcache_server::compose::Server::open(config));
        snowcache_server::observe::with_causes(&opened.err().unwrap())
    };
    let mixed = refusal("first.pem", "second.key");
    assert!(mixed.contains("cannot be used together"), "{mixed}");
    let swapped = refusal("first.key", "first.key");
    assert!(
        swapped.contains("first.key: no PEM certificate in it"),
        "{swapped}"
    );
    let missing = refusal("none.pem", "first.key");
    assert!(missing.contains("none.pem: cannot be read"), "{missing}");
}

#[test]
fn plain_caches_stay_plain() {
    let cache = Cache::new();
    assert_eq!(cache.get("/healthz").text(), "ok\n");
    assert!(!cache.get("/metrics").text().contains("tls_certificate"));
}
