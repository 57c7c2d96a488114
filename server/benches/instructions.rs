//! Instructions of what a cache does most: a narinfo out of memory and one that is not here, a
//! NAR's bytes parsed and cut, a recipe read. The same on a busy machine as on a quiet one, so that
//! a few percent more are seen.
//!
//! ```text
//! cargo bench -p snowcache-server --bench instructions              against the baseline
//! SNOWCACHE_BASELINE=write cargo bench … --bench instructions       a new one
//! ```
//! Runs itself under valgrind's callgrind, which counts what happens below [`counted`]: of a
//! narinfo from the request as hyper hands it over to the response that hyper gets, its counting
//! included. Exit code 1: something takes more than [`AT_MOST`] times its baseline.

#![allow(clippy::unwrap_used, reason = "of what it shares with a test")]

#[path = "../tests/support/answering.rs"]
mod answering;

use answering::{ABSENT, HASH, request};
use axum::http::Method;
use bytes::Bytes;
use snowcache_core::cut::{Cutter, Params};
use snowcache_core::recipe::{FrameId, Op, Recipe};
use snowcache_nix::nar::{Parser, Writer};
use snowcache_server::http::front::Front;
use snowcache_server::listen::Peer;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// What is counted, and in how many pieces it is told: the count is of one.
const KINDS: [(&str, &str, u64); 5] = [
    ("hit", "of a narinfo out of memory", REQUESTS),
    ("miss", "of a narinfo that is not here", REQUESTS),
    ("parse", "to parse a KiB of NAR", NAR_BYTES as u64 / 1024),
    ("cut", "to cut a KiB of NAR", NAR_BYTES as u64 / 1024),
    ("recipe", "to read a step of a recipe", STEPS as u64),
];

/// Requests that are counted.
const REQUESTS: u64 = 1000;

/// Of the files of the NAR, each of [`FILE_BYTES`].
const NAR_BYTES: usize = 4 << 20;
const FILE_BYTES: usize = 16 << 10;

/// Of the recipe.
const STEPS: usize = 10_000;

/// Of the baseline. Hash tables are keyed by chance, which is a percent.
const AT_MOST: f64 = 1.05;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");

fn main() -> ExitCode {
    let kind = std::env::args()
        .nth(1)
        .filter(|kind| !kind.starts_with('-'));
    match kind.as_deref() {
        Some("parse") => parse(),
        Some("cut") => cut(),
        Some("recipe") => recipe(),
        Some(kind) => ask(if kind == "hit" { HASH } else { ABSENT }),
        None => return compare(),
    }
    ExitCode::SUCCESS
}

/// What callgrind looks at.
#[inline(never)]
fn counted<T>(work: impl FnOnce() -> T) {
    black_box(work());
}

fn ask(hash: &str) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = answering::server(&dir);
    let (app, front) = (server.app(), Front::new(server.app().clone()));
    let requests: Vec<_> = (0..REQUESTS).map(|_| request(&Method::GET, hash)).collect();
    for mut request in requests {
        counted(|| {
            let began = Instant::now();
            let answer = front.answer(&Peer::Unix, &mut request);
            let answer = answer.expect("known at once");
            let (method, path) = (request.method(), request.uri().path());
            app.metrics.at_once(method, path, &answer, began);
            answer
        });
    }
}

fn parse() {
    let nar = nar();
    counted(|| {
        let mut parser = Parser::new();
        let mut events = 0;
        let fed = parser.feed(&nar, &mut |_| events += 1);
        fed.and_then(|()| parser.finish()).expect("a good NAR");
        events
    });
}

fn cut() {
    let nar = nar();
    counted(|| {
        let (mut cutter, mut pieces) = (Cutter::new(Params::V1), 0);
        cutter.push(&nar, &mut |_| pieces += 1);
        cutter.finish(&mut |_| pieces += 1);
        pieces
    });
}

fn recipe() {
    let steps = (0..STEPS).map(|step| match step % 4 {
        0 => Op::Literal(Bytes::from_static(&[7; 32])),
        _ => Op::Frame {
            id: FrameId::of(&step.to_le_bytes()),
            raw_len: 40_000 + step as u32,
        },
    });
    let recipe = Recipe::new(steps.collect()).expect("a good recipe");
    let encoded = recipe.encode();
    counted(|| Recipe::decode(&encoded).expect("what was written"));
}

/// Files whose bytes have no end of different words, and a store path now and then.
fn nar() -> Vec<u8> {
    let mut nar = Writer::new(Vec::new());
    let mut state = 1_u64;
    nar.directory().expect("a folder");
    for number in 0..NAR_BYTES / FILE_BYTES {
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        while bytes.len() < FILE_BYTES {
            // Knuth's MMIX generator: the same bytes everywhere.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            match state >> 55 {
                0 => bytes.extend_from_slice(format!("/nix/store/{HASH}-hello/lib").as_bytes()),
                _ => bytes.extend_from_slice(&state.to_le_bytes()),
            }
        }
        bytes.truncate(FILE_BYTES);
        nar.entry(format!("file-{number:05}").as_bytes())
            .and_then(|()| nar.file(false, FILE_BYTES as u64))
            .and_then(|()| nar.data(&bytes))
            .expect("a file");
    }
    nar.end_directory().expect("the folder's end");
    nar.finish().expect("a whole NAR")
}

fn compare() -> ExitCode {
    let counted = KINDS.map(|(kind, _, pieces)| (kind, count(kind) / pieces));
    let counted = BTreeMap::from(counted);
    if std::env::var("SNOWCACHE_BASELINE").is_ok_and(|what| what == "write") {
        let text = serde_json::to_string_pretty(&counted).expect("numbers");
        std::fs::write(BASELINE, text + "\n").expect("the baseline is written");
    }
    let baseline = std::fs::read(BASELINE).expect("a baseline");
    let baseline: BTreeMap<String, u64> = serde_json::from_slice(&baseline).expect("its numbers");
    let mut good = true;
    for (kind, what, _) in KINDS {
        let ratio = counted[kind] as f64 / baseline[kind] as f64;
        good &= ratio <= AT_MOST;
        let counted = counted[kind];
        println!("{counted:>6} instructions {what}, {ratio:.3} of the baseline");
    }
    match good {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("more than {AT_MOST} of {BASELINE}: look at it with callgrind_annotate");
            ExitCode::FAILURE
        }
    }
}

/// Instructions below [`counted`], of all pieces.
fn count(kind: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*instructions*counted*")
        .arg(std::env::current_exe().expect("its own path"))
        .arg(kind)
        .output()
        .expect("valgrind runs (apt install valgrind)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let collected = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let (_, collected) = collected.unwrap_or_else(|| panic!("it counted nothing:\n{said}"));
    collected.trim().parse().expect("a number")
}
