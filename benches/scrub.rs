//! What a scrub costs: bytes a second against what the disk gives and one core can hash, and what
//! requests notice of it.
//!
//! ```text
//! cargo bench --bench scrub                        the quick corpus that `make test-setup` makes
//! cargo bench --bench scrub -- CORPUS-FOLDER       one that tests/corpus/make-corpus.sh made
//! ```
//!
//! Both generations are pushed by stock nix. Each round reads the segments past the cache with dd
//! (the disk), scrubs as fast as it can from a cold cache (root) and a warm one, and asks for
//! narinfos at a fixed rate: without a scrub, with one at the default rate beside, and again
//! without, a second each in turn. The ratio of the two without is the machine's own noise.

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::corpus::closure;
use support::nix::{Nix, Node, User, inputs};
use support::server::Snowcached;

const ROUNDS: usize = 5;
/// Requests for a narinfo a second.
const RATE: u32 = 1_000;
/// Requests in a row without, with and again without a scrub: a second.
const IN_A_ROW: u32 = 1_000;
/// How often that changes in a round: noise of the machine then meets all three alike.
const TURNS: usize = 8;
/// What `scrub.rate_bytes_per_s` is by default.
const DEFAULT_RATE: u64 = 32 << 20;
const UNBOUNDED: u64 = 1 << 40;
const QUANTILES: &str = " p50, p99 alone | beside it | alone again | p99 beside | p99 again |";
/// Clock ticks a second in /proc/PID/stat (man 5 proc).
const TICKS: f64 = 100.0;

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let folder = folder.map_or(inputs().join("corpus-120"), PathBuf::from);
    let server = Snowcached::start();
    let mut paths = Vec::new();
    for top in ["top1", "top2"] {
        paths.extend(closure(&resolve(&folder.join(top))));
        push(&server, &paths);
    }
    let hashes: Vec<String> = paths.iter().map(|path| path[11..43].to_owned()).collect();
    println!("| round | disk | cold scrub | of the disk | cores | warm | cores |{QUANTILES}");
    println!("|{}", "---|".repeat(12));
    let (mut beside_ratios, mut again_ratios) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let disk = disk_rate(&server.depot().join("segments"));
        forget_cache();
        let cold = scrub(&server, UNBOUNDED);
        let warm = scrub(&server, UNBOUNDED);
        let [alone, beside, again] = three_ways(&server, &hashes);
        let ratio = |p99: u128| p99 as f64 / alone.1 as f64;
        beside_ratios.push(ratio(beside.1));
        again_ratios.push(ratio(again.1));
        let row = [
            round.to_string(),
            format!("{:.0} MB/s", disk / 1e6),
            cold.text(),
            format!("{:.0} %", cold.per_second() / disk * 100.0),
            format!("{:.2}", cold.cpu_s / cold.wall_s),
            warm.text(),
            format!("{:.2}", warm.cpu_s / warm.wall_s),
            format!("{}, {} us", alone.0, alone.1),
            format!("{}, {} us", beside.0, beside.1),
            format!("{}, {} us", again.0, again.1),
            format!("{:.2}x", ratio(beside.1)),
            format!("{:.2}x", ratio(again.1)),
        ];
        println!("| {} |", row.join(" | "));
    }
    println!(
        "p99 of narinfos beside a scrub: {}; noise: {}",
        middle(beside_ratios),
        middle(again_ratios)
    );
}

/// The middle of the ratios, and their ends.
fn middle(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    format!("{:.2}x ({least:.2} to {most:.2})", ratios[ratios.len() / 2])
}

struct Scrubbed {
    bytes: f64,
    wall_s: f64,
    cpu_s: f64,
}

impl Scrubbed {
    fn per_second(&self) -> f64 {
        self.bytes / self.wall_s
    }

    fn text(&self) -> String {
        let (second, cpu_second) = (self.per_second() / 1e6, self.bytes / self.cpu_s / 1e6);
        format!("{second:.0} MB/s, {cpu_second:.0} MB a CPU-s")
    }
}

fn scrub(server: &Snowcached, rate: u64) -> Scrubbed {
    let question = serde_json::json!({ "rate_bytes_per_s": rate }).to_string();
    let (cpu, begin) = (cpu_s(server), Instant::now());
    let token = server.admin_token();
    let request = server
        .http()
        .request("POST", "/api/v1/scrub")
        .bearer(&token);
    let answer = request.bytes(question.as_bytes()).send().is(200).text();
    let (wall_s, cpu_s) = (begin.elapsed().as_secs_f64(), cpu_s(server) - cpu);
    let last = answer.trim_end().lines().last().unwrap_or_default();
    let last: serde_json::Value = serde_json::from_str(last).expect("a summary");
    let summary = &last["summary"];
    assert_eq!(summary["damaged"], 0, "{last}");
    let bytes = summary["bytes"].as_u64().expect("bytes") as f64;
    Scrubbed {
        bytes,
        wall_s,
        cpu_s,
    }
}

/// CPU seconds that the server has used.
fn cpu_s(server: &Snowcached) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("stat");
    let behind_name = stat.rsplit_once(')').expect("a name in brackets").1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / TICKS
}

/// Median and 99th percentile of narinfos' answer times in microseconds: without a scrub, beside
/// one and again without.
fn three_ways(server: &Snowcached, hashes: &[String]) -> [(u128, u128); 3] {
    let mut took = [(); 3].map(|()| Vec::new());
    for turn in 0..TURNS * 3 {
        let beside = turn % 3 == 1;
        let scrub = beside.then(|| begin_scrub(server));
        ask(server, hashes, &mut took[turn % 3]);
        if let Some(connection) = scrub {
            assert!(
                runs(server),
                "the scrub was sooner done than the requests: take a larger corpus"
            );
            drop(connection);
            wait_until(|| !runs(server));
        }
    }
    took.map(|mut took| {
        took.sort_unstable();
        (took[took.len() / 2], took[took.len() * 99 / 100])
    })
}

/// Starts a scrub at the default rate; it ends with the connection.
fn begin_scrub(server: &Snowcached) -> TcpStream {
    let mut connection = TcpStream::connect(server.address()).expect("connect");
    let (token, body) = (
        server.admin_token(),
        format!(r#"{{"rate_bytes_per_s":{DEFAULT_RATE}}}"#),
    );
    let request = format!(
        "POST /api/v1/scrub HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    connection.write_all(request.as_bytes()).expect("sent");
    wait_until(|| runs(server));
    connection
}

/// Whether a scrub is under way.
fn runs(server: &Snowcached) -> bool {
    let token = server.admin_token();
    let request = server.http().request("GET", "/api/v1/scrub").bearer(&token);
    let state: serde_json::Value =
        serde_json::from_str(&request.send().is(200).text()).expect("JSON");
    !state["running"].is_null()
}

fn wait_until(so: impl Fn() -> bool) {
    while !so() {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Narinfos at a fixed rate on one connection; how long each took, from when it was due.
fn ask(server: &Snowcached, hashes: &[String], took: &mut Vec<u128>) {
    let mut stream = TcpStream::connect(server.address()).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    let (begin, step) = (Instant::now(), Duration::from_secs(1) / RATE);
    for number in 0..IN_A_ROW {
        let due = begin + step * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let hash = &hashes[number as usize % hashes.len()];
        let request = format!("GET /{hash}.narinfo HTTP/1.1\r\nHost: bench\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        read_answer(&mut stream);
        took.push(due.elapsed().as_micros());
    }
}

fn read_answer(stream: &mut TcpStream) {
    let (mut bytes, mut part) = (Vec::new(), [0; 8192]);
    loop {
        let read = stream.read(&mut part).expect("an answer");
        assert!(read > 0, "the connection ended");
        bytes.extend_from_slice(&part[..read]);
        let Some(head) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
        assert!(text.starts_with("http/1.1 200"), "{text}");
        let length = text.split("content-length: ").nth(1).expect("a length");
        let length = length.lines().next().expect("a line").trim();
        if bytes.len() >= head + 4 + length.parse::<usize>().expect("a number") {
            return;
        }
    }
}

/// Bytes a second that dd reads past the cache.
fn disk_rate(segments: &Path) -> f64 {
    let script = format!(
        "for f in {}/*.seg; do dd if=$f of=/dev/null bs=4M iflag=direct status=none; done",
        segments.display()
    );
    let files = std::fs::read_dir(segments).expect("segments");
    let bytes: u64 = files
        .map(|file| file.and_then(|file| file.metadata()).expect("a file").len())
        .sum();
    let begin = Instant::now();
    let status = Command::new("bash").args(["-c", &script]).status();
    assert!(status.expect("bash runs").success(), "dd failed");
    bytes as f64 / begin.elapsed().as_secs_f64()
}

/// Only root may; else "cold" is warm.
fn forget_cache() {
    if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        eprintln!("not root: the cache stays warm");
    }
}

fn push(server: &Snowcached, paths: &[String]) {
    let list = server.data().join("paths-to-push");
    std::fs::write(&list, paths.join("\n")).expect("a list of paths");
    let script = format!(
        "xargs -a {} nix copy --no-check-sigs --to \"$PUSH?compression=none\"",
        list.display()
    );
    let ran = Node::this_machine().sh(&User::of(server), &Nix::installed(), &script);
    ran.ok();
    std::fs::remove_file(list).expect("our own file");
}

fn resolve(link: &Path) -> String {
    let path = std::fs::canonicalize(link);
    let path = path.unwrap_or_else(|e| panic!("{}: {e}; run: make test-setup", link.display()));
    path.to_string_lossy().into_owned()
}
