//! Instructions that a narinfo out of memory takes, and one that is not here: the same on a busy
//! machine as on a quiet one, so that a few percent more are seen.
//!
//! ```text
//! cargo bench -p snowcache-server --bench instructions              against the baseline
//! SNOWCACHE_BASELINE=write cargo bench … --bench instructions       a new one
//! ```
//! Runs itself under valgrind's callgrind, which counts what happens below [`asked`]: from the
//! request as hyper hands it over to the response that hyper gets, its counting included. Exit code
//! 1: something takes more than [`AT_MOST`] times its baseline.

#![allow(clippy::unwrap_used, reason = "of what it shares with a test")]

#[path = "../tests/support/answering.rs"]
mod answering;

use answering::{ABSENT, HASH, request};
use axum::http::Method;
use snowcache_server::http::App;
use snowcache_server::http::front::Front;
use snowcache_server::listen::Peer;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::Instant;

/// Requests that are counted.
const REQUESTS: u64 = 1000;

/// Of the baseline. Hash tables are keyed by chance, which is a percent.
const AT_MOST: f64 = 1.05;

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.json");

fn main() -> ExitCode {
    let kind = std::env::args()
        .nth(1)
        .filter(|kind| !kind.starts_with('-'));
    match kind {
        Some(kind) => ask(&kind),
        None => compare(),
    }
}

/// What callgrind looks at.
fn ask(kind: &str) -> ExitCode {
    let hash = if kind == "hit" { HASH } else { ABSENT };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let server = answering::server(&dir);
    let front = Front::new(server.app().clone());
    let requests: Vec<_> = (0..REQUESTS).map(|_| request(&Method::GET, hash)).collect();
    for request in requests {
        asked(server.app(), &front, request);
    }
    ExitCode::SUCCESS
}

#[inline(never)]
fn asked(
    app: &App,
    front: &Front,
    mut request: axum::http::Request<http_body_util::Empty<bytes::Bytes>>,
) {
    let began = Instant::now();
    let answer = front
        .answer(&Peer::Unix, &mut request)
        .expect("known at once");
    let (method, path) = (request.method(), request.uri().path());
    app.metrics.at_once(method, path, &answer, began);
    black_box(answer);
}

fn compare() -> ExitCode {
    let counted: BTreeMap<&str, u64> = ["hit", "miss"]
        .into_iter()
        .map(|kind| (kind, count(kind) / REQUESTS))
        .collect();
    if std::env::var("SNOWCACHE_BASELINE").is_ok_and(|what| what == "write") {
        let text = serde_json::to_string_pretty(&counted).expect("numbers");
        std::fs::write(BASELINE, text + "\n").expect("the baseline is written");
    }
    let baseline = std::fs::read(BASELINE).expect("a baseline");
    let baseline: BTreeMap<String, u64> = serde_json::from_slice(&baseline).expect("its numbers");
    let mut good = true;
    for (kind, counted) in counted {
        let ratio = counted as f64 / baseline[kind] as f64;
        good &= ratio <= AT_MOST;
        println!("narinfo {kind}: {counted} instructions, {ratio:.3} of the baseline");
    }
    match good {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("more than {AT_MOST} of {BASELINE}: look at it with callgrind_annotate");
            ExitCode::FAILURE
        }
    }
}

/// Instructions below [`asked`], of all requests.
fn count(kind: &str) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*instructions*asked*")
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
