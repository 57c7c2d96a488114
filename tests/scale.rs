//! Big and many: a NAR of 20 GB, a path with 10,000 references, 64 uploads and 256 downloads at once. Byte for byte right, in
//! bounded memory.
//!
//! Heavy, so ignored unless asked for: `make test-long`. A small sibling of each runs always.

mod support;

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::codec::Codec;
use support::corpus::sha256;
use support::http::Http;
use support::nar::{Nar, Upload, base32, hash_part};
use support::random::Random;
use support::server::Snowcached;

const MEMORY_KIB_AT_MOST: u64 = 200 << 10;
const GIB: u64 = 1 << 30;

#[test]
fn a_nar_of_256_megabytes_passes_through_in_bounded_memory() {
    one_big_nar(GIB / 4);
}

#[test]
#[ignore = "20 GB in and 40 GB out: make test-long"]
fn a_nar_of_20_gigabytes_passes_through_in_bounded_memory() {
    one_big_nar(20 * GIB);
}

#[test]
fn a_path_may_have_500_references() {
    many_references(500);
}

#[test]
#[ignore = "10,001 uploads: make test-long"]
fn a_path_may_have_10_000_references() {
    many_references(10_000);
}

#[test]
fn overlapping_closures_may_come_and_go_at_once() {
    crowd(&Crowd {
        uploaders: 16,
        downloaders: 32,
        paths: 24,
        biggest_bytes: 16 << 20,
    });
}

#[test]
#[ignore = "64 uploads with sizes to 2 GB, 256 downloads: make test-long"]
fn sixty_four_uploads_and_256_downloads_at_once() {
    crowd(&Crowd {
        uploaders: 64,
        downloaders: 256,
        paths: 96,
        biggest_bytes: 2 * GIB,
    });
}

// ---- one big NAR ----

fn one_big_nar(content_bytes: u64) {
    let server = Snowcached::start();
    let memory = Memory::watched(&server);
    let (http, token) = (server.http(), server.push_token());
    let nar_size = nar_of(content_bytes, 1).count();
    let nar_hash = sha256(nar_of(content_bytes, 1).reader());

    let begin = Instant::now();
    let put = http.request("PUT", "/push/nar/big.nar").bearer(&token);
    put.stream(Some(nar_size), nar_of(content_bytes, 1).reader())
        .send()
        .is(200);
    println!("{} MiB in: {:?}", nar_size >> 20, begin.elapsed());
    // The NAR's 2xx says that everything is done: the narinfo must not have to wait for it.
    let begin = Instant::now();
    let upload = described(1, "big", &nar_hash, nar_size, "nar/big.nar");
    http.put(&upload.narinfo_path(), &token, upload.narinfo().as_bytes())
        .is(200);
    assert!(
        begin.elapsed() < Duration::from_secs(10),
        "the narinfo took {:?}",
        begin.elapsed()
    );

    let begin = Instant::now();
    let raw = format!("/nar/{}.nar", base32(&nar_hash));
    assert_eq!(
        http.head(&raw).is(200).header("content-length"),
        Some(&*nar_size.to_string())
    );
    assert_eq!(download(http, &raw), nar_hash, ".nar");
    println!("{} MiB out as .nar: {:?}", nar_size >> 20, begin.elapsed());
    let begin = Instant::now();
    let narinfo = http
        .get(&format!("/{}.narinfo", upload.hash_part()))
        .is(200)
        .text();
    let url = narinfo
        .lines()
        .find_map(|line| line.strip_prefix("URL: "))
        .expect("a URL");
    assert_eq!(
        download_zstd(http, &format!("/{url}")),
        nar_hash,
        ".nar.zst"
    );
    println!(
        "{} MiB out as .nar.zst: {:?}",
        nar_size >> 20,
        begin.elapsed()
    );

    // A range from the middle of both encodings costs no more than the range.
    let begin = Instant::now();
    let range = format!("bytes={}-{}", nar_size / 2, nar_size / 2 + 999);
    let part = http
        .request("GET", &raw)
        .header("Range", &range)
        .send()
        .is(206);
    let mut expected = Vec::new();
    let mut reader = nar_of(content_bytes, 1).reader();
    io::copy(&mut (&mut reader).take(nar_size / 2), &mut io::sink()).expect("a generator");
    reader
        .take(1000)
        .read_to_end(&mut expected)
        .expect("a generator");
    assert!(part.body == expected, "a range of the .nar");
    println!(
        "a range from the middle: {:?} with making it again",
        begin.elapsed()
    );
    memory.assert_bounded();
}

/// A NAR of one file whose content is made while it is read.
struct Generated {
    head: Vec<u8>,
    content_bytes: u64,
    seed: u64,
    tail: Vec<u8>,
}

fn nar_of(content_bytes: u64, seed: u64) -> Generated {
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
    fn count(&self) -> u64 {
        self.head.len() as u64 + self.content_bytes + self.tail.len() as u64
    }

    fn reader(self) -> impl Read + Send {
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

/// Like the insides of a big package: stretches that compress, stretches that do not, store paths here and there.
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

/// A narinfo for a NAR that is too big to keep.
fn described(seed: u64, name: &str, nar_hash: &[u8; 32], nar_size: u64, url: &str) -> Upload {
    let mut upload = Upload::honest(seed, name, &Nar::default(), Codec::named("none"));
    upload.nar_hash = format!("sha256:{}", base32(nar_hash));
    upload.nar_size = nar_size;
    upload.url = url.to_owned();
    upload
}

fn download(http: Http, path: &str) -> [u8; 32] {
    let hash = http.request("GET", path).exchange(|answer, body| {
        assert_eq!(answer.status, 200, "{path}");
        Ok(sha256(body))
    });
    hash.unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn download_zstd(http: Http, path: &str) -> [u8; 32] {
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

// ---- many references ----

fn many_references(count: u64) {
    let server = Snowcached::start();
    let memory = Memory::watched(&server);
    let (http, token) = (server.http(), server.push_token());
    let next = AtomicU64::new(0);
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    let nar = Nar::of_file(format!("leaf {number}").as_bytes());
                    publish(
                        http,
                        &token,
                        &Upload::honest(number, "leaf", &nar, Codec::named("none")),
                    );
                }
            });
        }
    });
    println!("{count} small paths: {:?}", begin.elapsed());
    let mut references: Vec<String> = (0..count)
        .map(|number| format!("{}-leaf", hash_part(number)))
        .collect();
    references.sort();
    let links = references
        .iter()
        .fold(Nar::new().directory(), |nar, reference| {
            nar.entry(reference.as_bytes(), |nar| {
                nar.symlink(format!("/nix/store/{reference}").as_bytes())
            })
        });
    let mut top = Upload::honest(count, "top", &links.end(), Codec::named("zstd"));
    top.references.clone_from(&references);
    publish(http, &token, &top);
    let narinfo = http
        .get(&format!("/{}.narinfo", top.hash_part()))
        .is(200)
        .text();
    let line = narinfo
        .lines()
        .find_map(|line| line.strip_prefix("References: "))
        .expect("References");
    assert!(
        line.split(' ').eq(references.iter().map(String::as_str)),
        "its references, sorted"
    );
    let raw = format!("/nar/{}.nar", top.nar_hash.trim_start_matches("sha256:"));
    assert_eq!(download(http, &raw), sha256(top.nar.as_slice()));
    memory.assert_bounded();
}

fn publish(http: Http, token: &str, upload: &Upload) {
    http.put(&upload.nar_path(), token, &upload.body).is(200);
    http.put(&upload.narinfo_path(), token, upload.narinfo().as_bytes())
        .is(200);
}

// ---- many at once ----

struct Crowd {
    uploaders: u64,
    downloaders: u64,
    /// Path n refers to the paths n/2 and n/3: every closure overlaps every other.
    paths: u64,
    biggest_bytes: u64,
}

fn crowd(crowd: &Crowd) {
    let server = Snowcached::start();
    let memory = Memory::watched(&server);
    let (http, token) = (server.http(), server.push_token());
    let sizes: Vec<u64> = (0..crowd.paths).map(|number| crowd.size(number)).collect();
    let hashes: Vec<[u8; 32]> = sizes
        .iter()
        .zip(0..)
        .map(|(&size, seed)| sha256(nar_of(size, seed).reader()))
        .collect();
    let total: u64 = sizes.iter().sum();
    let pushed = crowd.pushed();

    let begin = Instant::now();
    thread::scope(|scope| {
        for uploader in 0..crowd.uploaders {
            let (hashes, sizes, token) = (&hashes, &sizes, &token);
            scope.spawn(move || {
                // Everyone pushes one closure, references first, as nix does; what is there already is left out.
                for number in Crowd::closure(crowd.top_of(uploader)) {
                    let path = format!("/push/{}.narinfo", hash_part(number));
                    if http.head(&path).status == 200 {
                        continue;
                    }
                    let size = nar_of(sizes[number as usize], number).count();
                    let url = format!("nar/{number}-by-{uploader}.nar");
                    let body = nar_of(sizes[number as usize], number).reader();
                    let put = http.request("PUT", &format!("/push/{url}")).bearer(token);
                    put.stream(Some(size), body).send().is(200);
                    let mut upload =
                        described(number, "crowd", &hashes[number as usize], size, &url);
                    upload.references = Crowd::references(number);
                    http.put(&path, token, upload.narinfo().as_bytes()).is(200);
                }
            });
        }
    });
    println!(
        "{} uploaders, {} paths, {} MiB: {:?}",
        crowd.uploaders,
        crowd.paths,
        total >> 20,
        begin.elapsed()
    );

    let begin = Instant::now();
    thread::scope(|scope| {
        for downloader in 0..crowd.downloaders {
            let (hashes, pushed) = (&hashes, &pushed);
            scope.spawn(move || {
                let mut random = Random::seeded(downloader);
                for _ in 0..4 {
                    let number = pushed[random.below(pushed.len() as u64) as usize];
                    let raw = format!("/nar/{}.nar", base32(&hashes[number as usize]));
                    assert_eq!(
                        download(http, &raw),
                        hashes[number as usize],
                        "path {number}"
                    );
                }
            });
        }
    });
    println!(
        "{} downloaders, 4 paths each: {:?}",
        crowd.downloaders,
        begin.elapsed()
    );
    for number in pushed {
        let raw = format!("/nar/{}.nar", base32(&hashes[number as usize]));
        assert_eq!(
            download(http, &raw),
            hashes[number as usize],
            "path {number}"
        );
    }
    memory.assert_bounded();
}

impl Crowd {
    /// Mostly small, and the tops of closures big: each odd number half of the one above it.
    fn size(&self, number: u64) -> u64 {
        match number % 4 {
            3 => (self.biggest_bytes >> ((self.paths - 1 - number) / 4)).max(1000),
            2 => 50_000 + number * 777,
            _ => 200 + number,
        }
    }

    /// Two uploaders push the same closure, at the same time.
    fn top_of(&self, uploader: u64) -> u64 {
        self.paths - 1 - uploader / 2
    }

    fn below(number: u64) -> Vec<u64> {
        let mut below = vec![number / 2, number / 3];
        below.retain(|&below| below < number);
        below.dedup();
        below
    }

    fn references(number: u64) -> Vec<String> {
        let name = |number: &u64| format!("{}-crowd", hash_part(*number));
        let mut references: Vec<String> = Self::below(number).iter().map(name).collect();
        references.sort();
        references
    }

    /// References first.
    fn closure(top: u64) -> BTreeSet<u64> {
        let (mut closure, mut next) = (BTreeSet::new(), vec![top]);
        while let Some(number) = next.pop() {
            if closure.insert(number) {
                next.extend(Self::below(number));
            }
        }
        closure
    }

    /// Every path that someone pushes.
    fn pushed(&self) -> Vec<u64> {
        let closures =
            (0..self.uploaders).flat_map(|uploader| Self::closure(self.top_of(uploader)));
        closures.collect::<BTreeSet<u64>>().into_iter().collect()
    }
}

// ---- memory ----

/// Watches what the server holds: its own memory (RssAnon) and all that is resident (VmRSS), four times a second.
struct Memory {
    over: std::sync::Arc<AtomicBool>,
    watcher: thread::JoinHandle<(u64, u64)>,
}

impl Memory {
    fn watched(server: &Snowcached) -> Memory {
        let over = std::sync::Arc::new(AtomicBool::new(false));
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

    fn assert_bounded(self) {
        self.over.store(true, Ordering::Relaxed);
        let (own, resident) = self.watcher.join().expect("the watcher");
        println!(
            "memory: {} MiB of its own, {} MiB resident",
            own >> 10,
            resident >> 10
        );
        assert!(
            resident <= MEMORY_KIB_AT_MOST,
            "{resident} KiB resident, {own} KiB of its own"
        );
    }
}
