//! NARs that are too big to keep: made while they are read, hashed while they arrive, with an eye
//! on the server's memory meanwhile.

use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::codec::Codec;
use super::corpus::sha256;
use super::http::Http;
use super::nar::{Nar, Upload, base32, hash_part};
use super::random::Random;
use super::server::Snowcached;

/// A NAR of one file whose content is made while it is read.
pub struct Generated {
    head: Vec<u8>,
    content_bytes: u64,
    seed: u64,
    tail: Vec<u8>,
}

pub fn nar_of(content_bytes: u64, seed: u64) -> Generated {
    let mut head = Nar::new().words(&["(", "type", "regular", "contents"]).0;
    head.extend_from_slice(&content_bytes.to_le_bytes());
    let padding = (content_bytes.next_multiple_of(8) - content_bytes) as usize;
    let tail = [vec![0; padding], Nar::default().text(")").0].concat();
    Generated {
        head,
        content_bytes,
        seed,
        tail,
    }
}

impl Generated {
    pub fn count(&self) -> u64 {
        self.head.len() as u64 + self.content_bytes + self.tail.len() as u64
    }

    pub fn reader(self) -> impl Read + Send {
        let content = Content {
            random: Random::seeded(self.seed),
            block: Vec::new(),
            at: 0,
        };
        io::Cursor::new(self.head)
            .chain(content.take(self.content_bytes))
            .chain(io::Cursor::new(self.tail))
    }
}

/// Like the insides of a big package: stretches that compress, stretches that do not, store paths
/// here and there.
struct Content {
    random: Random,
    block: Vec<u8>,
    at: usize,
}

const BLOCK_BYTES: usize = 256 << 10;

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() {
            let kind = self.random.below(4);
            self.block = match kind {
                0 | 1 => self.random.bytes(BLOCK_BYTES),
                2 => self.random.bytes(512).repeat(BLOCK_BYTES / 512),
                _ => {
                    let path = format!("/nix/store/{}-lib\0", hash_part(self.random.below(1000)));
                    [
                        path.as_bytes(),
                        &self.random.bytes(BLOCK_BYTES - path.len()),
                    ]
                    .concat()
                }
            };
            self.at = 0;
        }
        let length = buffer.len().min(self.block.len() - self.at);
        buffer[..length].copy_from_slice(&self.block[self.at..][..length]);
        self.at += length;
        Ok(length)
    }
}

// ---- up and down ----

/// A narinfo for a NAR that is too big to keep.
pub fn described(seed: u64, name: &str, nar_hash: &[u8; 32], nar_size: u64, url: &str) -> Upload {
    let mut upload = Upload::honest(seed, name, &Nar::default(), Codec::named("none"));
    upload.nar_hash = format!("sha256:{}", base32(nar_hash));
    upload.nar_size = nar_size;
    upload.url = url.to_owned();
    upload
}

pub fn download(http: Http, path: &str) -> [u8; 32] {
    let hash = http.request("GET", path).exchange(|answer, body| {
        assert_eq!(answer.status, 200, "{path}");
        Ok(sha256(body))
    });
    hash.unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn download_zstd(http: Http, path: &str) -> [u8; 32] {
    let mut child = Command::new("zstd")
        .args(["-d", "-q", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("zstd runs");
    let (mut stdin, stdout) = (
        child.stdin.take().expect("a pipe"),
        child.stdout.take().expect("a pipe"),
    );
    let hash = thread::scope(|scope| {
        scope.spawn(move || {
            let copied = http.request("GET", path).exchange(|answer, mut body| {
                assert_eq!(answer.status, 200, "{path}");
                io::copy(&mut body, &mut stdin)
            });
            copied.unwrap_or_else(|error| panic!("{path}: {error}"))
        });
        sha256(stdout)
    });
    assert!(child.wait().expect("zstd ends").success());
    hash
}

// ---- memory ----

/// Watches what the server holds: its own memory (RssAnon) and all that is resident (VmRSS), four
/// times a second.
pub struct Memory {
    over: Arc<AtomicBool>,
    watcher: thread::JoinHandle<(u64, u64)>,
}

impl Memory {
    pub fn watched(server: &Snowcached) -> Memory {
        let over = Arc::new(AtomicBool::new(false));
        let (end, path) = (over.clone(), format!("/proc/{}/status", server.pid()));
        let watcher = thread::spawn(move || {
            let (mut own, mut resident) = (0, 0);
            while !end.load(Ordering::Relaxed) {
                let status = std::fs::read_to_string(&path).unwrap_or_default();
                let kib = |what: &str| -> u64 {
                    let line = status.lines().find(|line| line.starts_with(what));
                    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
                        .unwrap_or(0)
                };
                own = own.max(kib("RssAnon"));
                resident = resident.max(kib("VmRSS"));
                thread::sleep(Duration::from_millis(250));
            }
            (own, resident)
        });
        Memory { over, watcher }
    }

    pub fn assert_at_most(self, kib: u64) {
        self.over.store(true, Ordering::Relaxed);
        let (own, resident) = self.watcher.join().expect("the watcher");
        println!(
            "memory: {} MiB of its own, {} MiB resident",
            own >> 10,
            resident >> 10
        );
        assert!(
            resident <= kib,
            "{resident} KiB resident, {own} KiB of its own"
        );
    }
}
