//! Big and many: a NAR of 20 GB, a path with 10,000 references, 64 uploads and 256 downloads at
//! once. Byte for byte right, in bounded memory.
//!
//! Heavy, so ignored unless asked for: `make test-long`. A small sibling of each runs always.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::big::{Memory, described, download, download_zstd, nar_of};
use support::codec::Codec;
use support::corpus::sha256;
use support::http::Http;
use support::nar::{Nar, Upload, base32, hash_part};
use support::random::Random;
use support::server::Snowcached;

const MEMORY_KIB_AT_MOST: u64 = 200 << 10;
/// 64 uploads hold 2 to 4 MiB each (a cutter's window, an encoder's), 256 downloads some hundreds
/// of KiB each.
const CROWDED_KIB_AT_MOST: u64 = 400 << 10;
const GIB: u64 = 1 << 30;
const POOL_BYTES: u64 = 64 << 20;

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

/// What is freed in one pool of the allocator serves no thread of another.
#[test]
fn the_allocator_has_no_more_pools_than_there_are_cores() {
    let server = Snowcached::start();
    let (http, token) = (server.http(), server.push_token());
    let pushed = |number| {
        let nar = Nar::of_file(&Random::seeded(number).bytes(100_000));
        let upload = Upload::honest(number, "one", &nar, Codec::named("zstd"));
        http.put(&upload.nar_path(), &token, &upload.body).is(200);
        let narinfo = upload.narinfo();
        http.put(&upload.narinfo_path(), &token, narinfo.as_bytes())
            .is(200);
    };
    thread::scope(|scope| {
        (0..16).for_each(|number| drop(scope.spawn(move || pushed(number))));
    });
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
    let (pools, threads) = (pools_of(&server), server.threads());
    println!("{pools} pools for {threads} threads on {cores} cores");
    assert!(threads > cores, "{threads}: too few to ask for a pool each");
    assert!(pools <= cores, "{pools} pools for {threads} threads");
}

/// The pools of glibc: the first, and for each other one a place of 64 MiB at a multiple of that,
/// of which the rest is kept free behind what is used (malloc/arena.c, `HEAP_MAX_SIZE`).
fn pools_of(server: &Snowcached) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).expect("it runs");
    let maps: Vec<(u64, u64, &str)> = maps.lines().map(mapping).collect();
    let is_pool = |pair: &[(u64, u64, &str)]| {
        let [(start, used, first), (rest, end, second)] = pair else {
            return false;
        };
        let whole = start % POOL_BYTES == 0 && end - start == POOL_BYTES;
        whole && used == rest && *first == "rw-p" && *second == "---p"
    };
    1 + maps.windows(2).filter(|pair| is_pool(pair)).count()
}

/// Start, end and permissions in a line of proc(5)'s maps.
fn mapping(line: &str) -> (u64, u64, &str) {
    let mut words = line.split(' ');
    let places = words.next().and_then(|places| places.split_once('-'));
    let (start, end) = places.expect("places");
    let number = |digits| u64::from_str_radix(digits, 16).expect("a place");
    (
        number(start),
        number(end),
        words.next().expect("permissions"),
    )
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

    range_from_the_middle(http, &raw, content_bytes, nar_size);
    memory.assert_at_most(MEMORY_KIB_AT_MOST);
}

/// A range costs no more than itself, wherever it begins.
fn range_from_the_middle(http: Http, raw: &str, content_bytes: u64, nar_size: u64) {
    let begin = Instant::now();
    let range = format!("bytes={}-{}", nar_size / 2, nar_size / 2 + 999);
    let part = http
        .request("GET", raw)
        .header("Range", &range)
        .send()
        .is(206);
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "it took {:?}",
        begin.elapsed()
    );
    let mut expected = Vec::new();
    let mut reader = nar_of(content_bytes, 1).reader();
    io::copy(&mut (&mut reader).take(nar_size / 2), &mut io::sink()).expect("a generator");
    reader
        .take(1000)
        .read_to_end(&mut expected)
        .expect("a generator");
    assert!(part.body == expected, "a range of the .nar");
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
    memory.assert_at_most(MEMORY_KIB_AT_MOST);
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
    let hash = |number| sha256(nar_of(crowd.size(number), number).reader());
    let hashes: Vec<[u8; 32]> = (0..crowd.paths).map(hash).collect();

    let begin = Instant::now();
    thread::scope(|scope| {
        for uploader in 0..crowd.uploaders {
            let (hashes, token) = (&hashes, &token);
            scope.spawn(move || crowd.push(uploader, http, token, hashes));
        }
    });
    println!("{} uploaders: {:?}", crowd.uploaders, begin.elapsed());

    let begin = Instant::now();
    let pushed = crowd.pushed();
    let fetch = |number: u64| {
        let hash = hashes[number as usize];
        let raw = format!("/nar/{}.nar", base32(&hash));
        assert_eq!(download(http, &raw), hash, "path {number}");
    };
    thread::scope(|scope| {
        for downloader in 0..crowd.downloaders {
            let (fetch, pushed) = (&fetch, &pushed);
            scope.spawn(move || {
                let mut random = Random::seeded(downloader);
                for _ in 0..4 {
                    fetch(pushed[random.below(pushed.len() as u64) as usize]);
                }
            });
        }
    });
    println!(
        "{} downloaders, 4 paths each: {:?}",
        crowd.downloaders,
        begin.elapsed()
    );
    pushed.into_iter().for_each(fetch);
    memory.assert_at_most(CROWDED_KIB_AT_MOST);
}

impl Crowd {
    /// Pushes one closure, references first, as nix does; what is there already is left out.
    fn push(&self, uploader: u64, http: Http, token: &str, hashes: &[[u8; 32]]) {
        for number in Self::closure(self.top_of(uploader)) {
            let path = format!("/push/{}.narinfo", hash_part(number));
            if http.head(&path).status == 200 {
                continue;
            }
            let nar_size = nar_of(self.size(number), number).count();
            let url = format!("nar/{number}-by-{uploader}.nar");
            let body = nar_of(self.size(number), number).reader();
            let put = http.request("PUT", &format!("/push/{url}")).bearer(token);
            put.stream(Some(nar_size), body).send().is(200);
            let mut upload = described(number, "crowd", &hashes[number as usize], nar_size, &url);
            upload.references = Self::references(number);
            http.put(&path, token, upload.narinfo().as_bytes()).is(200);
        }
    }

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
