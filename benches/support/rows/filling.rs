//! P14: very many paths come in: whether the index holds up what is written, and what those notice
//! who ask for narinfos meanwhile.
//!
//! ```text
//!   half of the paths | a round's part of the rest | at rest | the next part | at rest …
//!                       narinfos of the first half, at a fixed rate: p99 there / p99 here
//! ```
//! The narinfos that are asked for are different ones each time, so that they come from the index
//! and not from memory.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::super::engine::ask::{Ask, Expect};
use super::super::engine::closed::{Closed, closed};
use super::super::engine::open::{Open, Schedule, open};
use super::super::engine::procs::{Watch, used};
use super::super::engine::tally::Tally;
use super::super::engine::target::Target;
use super::super::harness::codec::Codec;
use super::super::harness::nar::{Nar, Upload, hash_part};
use super::super::harness::random::Random;
use super::super::harness::server::Snowcached;
use super::super::peers::OURS;
use super::super::report::{Limit, Row};
use super::memory::megabytes;

/// Requests on their way at once, each with so many paths.
const PUSHES_AT_ONCE: usize = 3;
const PATHS_OF_A_REQUEST: u64 = 5_000;
const BATCH: u64 = 50_000;
/// Pushes of a batch, in a run of an hour or more.
const TRIES: u32 = 4;
const TOLD_EACH: u64 = 1_000_000;
/// After a million pushes the index is in order within a minute.
const SETTLED_WITHIN_S: u32 = 120;
/// Different narinfos that are asked for: more than any cache line or block holds.
const ASKED: u64 = 50_000;
/// Narinfos asked for beside; looked up in the index that is some 6 % of a core.
const ASKED_PER_SECOND: f64 = 500.0;
const READERS: usize = 16;
/// It is asked so long at a time, until the paths are in.
const WINDOW_SECONDS: f64 = 0.25;
const A_WINDOW: usize = (ASKED_PER_SECOND * WINDOW_SECONDS) as usize;
/// And so many times the length of a measurement at rest.
const AT_REST: f64 = 4.0;
const QUIET: &str = "at rest";

/// Paths that share one NAR, on their way into a server.
pub struct Filling {
    target: Target,
    token: String,
    store_path: String,
    /// Of that path, for a commit.
    record: String,
}

impl Filling {
    /// Pushes the NAR.
    pub fn begin(server: &Snowcached) -> Filling {
        let (target, token) = (Target::plain(&server.url()), server.push_token());
        let nar = Nar::of_file(b"one file in very many paths");
        let upload = Upload::honest(0, "many", &nar, Codec::named("none"));
        let (http, narinfo) = (server.http(), upload.narinfo());
        http.put(&upload.nar_path(), &token, &upload.body).is(200);
        let whole = narinfo.as_bytes();
        http.put(&upload.narinfo_path(), &token, whole).is(200);
        let of_the_file = |line: &&str| {
            ["URL", "Compression", "File"]
                .iter()
                .any(|key| line.starts_with(key))
        };
        let lines = narinfo.lines().filter(|line| !of_the_file(line));
        Filling {
            target,
            token,
            record: lines.map(|line| format!("{line}\n")).collect(),
            store_path: upload.store_path,
        }
    }

    /// Pushes the paths of these numbers.
    pub fn paths(&self, numbers: Range<u64>) -> Result<(), String> {
        for batch in numbers.clone().step_by(BATCH as usize) {
            let end = numbers.end.min(batch + BATCH);
            let firsts = (batch..end).step_by(PATHS_OF_A_REQUEST as usize);
            let post = |first: u64| {
                let body = self.request(first..end.min(first + PATHS_OF_A_REQUEST));
                Ask::post(&self.target, "api/v1/uploads/commit", &self.token, body)
            };
            let asks: Arc<[Ask]> = firsts.map(post).collect();
            let push = || {
                let all = Closed::once(PUSHES_AT_ONCE, &asks, None);
                closed(&self.target, &asks, all).flaw().map_or(Ok(()), Err)
            };
            // As a client does whose connection broke: what was committed is committed again.
            (1..TRIES).fold(push(), |pushed, _| pushed.or_else(|_| push()))?;
            if batch / TOLD_EACH < end / TOLD_EACH {
                eprintln!("{end} paths");
            }
        }
        Ok(())
    }

    fn request(&self, numbers: Range<u64>) -> Arc<[u8]> {
        let path = |number| format!("/nix/store/{}-many", hash_part(number));
        let records = numbers.map(|number| self.record.replace(&self.store_path, &path(number)));
        let body = serde_json::json!({ "paths": records.collect::<Vec<_>>() });
        body.to_string().into_bytes().into()
    }
}

/// P13, and the memory for narinfos, which is configured: 64 MiB by default.
const OWN_AT_MOST_MB: f64 = 200.0 + 67.2;

/// What is noticed while many paths come in.
pub struct Noticed {
    memory: Row,
    stalls: Row,
    p99: Row,
    longest: Row,
}

impl Noticed {
    /// Nothing yet, of so many paths.
    pub fn of(many: u64) -> Noticed {
        let asked = format!("{ASKED_PER_SECOND:.0} narinfos a second out of the index");
        let beside = |which: &str| {
            let work = format!("{asked} while {many} paths come in, {which}");
            Row::new("P14", work, "ms", Limit::Told).against(QUIET)
        };
        let work = format!("writes of the index held up while {many} paths came in");
        let memory = format!("own memory at most while {many} paths come in, narinfos included");
        let mut rows = Noticed {
            memory: Row::new("P13", memory, "MB", Limit::AtMost(OWN_AT_MOST_MB)),
            stalls: Row::new("P14", work, "", Limit::AtMost(0.0)),
            p99: beside("p99"),
            longest: beside("the longest"),
        };
        for row in [
            &mut rows.memory,
            &mut rows.stalls,
            &mut rows.p99,
            &mut rows.longest,
        ] {
            row.plot = false;
        }
        rows
    }

    pub fn rows(self) -> [Row; 4] {
        [self.memory, self.stalls, self.p99, self.longest]
    }

    /// Fills a server, and asks it for narinfos meanwhile.
    pub fn fill(
        &mut self,
        server: &Snowcached,
        paths: u64,
        rounds: usize,
        seconds: f64,
    ) -> Result<(), String> {
        let (filling, half) = (Filling::begin(server), paths / 2);
        let watch = Watch::begin(server.pid());
        let begin = Instant::now();
        filling.paths(0..half)?;
        let rate = half as f64 / begin.elapsed().as_secs_f64();
        self.stalls
            .notes
            .push(format!("{rate:.0} a second, with nothing beside"));
        let part = |round: usize| half + (paths - half) * round as u64 / rounds as u64;
        for round in 0..rounds {
            let numbers = part(round)..part(round + 1);
            let asks = random_narinfos(&filling.target, half, 2 * round as u64);
            let beside = while_filling(&filling, numbers, &asks)?;
            if !still(server.pid()) {
                let note = format!("round {round}: the server did not come to rest");
                self.p99.notes.push(note);
            }
            let asks = random_narinfos(&filling.target, half, 2 * round as u64 + 1);
            let at_rest = ask(&filling.target, &asks, AT_REST * seconds)?;
            for (name, tally) in [(OURS, beside), (QUIET, at_rest)] {
                self.p99.remark(name, &tally);
                self.p99.add(name, tally.latency_ms(0.99));
                self.longest.add(name, tally.latency_ms(1.0));
            }
        }
        self.stalls.add(OURS, held_up(server));
        self.memory.add(OURS, megabytes(watch.most().0));
        Ok(())
    }
}

/// Asks for narinfos until the paths are in.
fn while_filling(
    filling: &Filling,
    numbers: Range<u64>,
    asks: &Arc<[Ask]>,
) -> Result<Tally, String> {
    let filled = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut all, mut from) = (Tally::default(), 0);
            while !filled.load(Ordering::Relaxed) {
                let these = asks.iter().cycle().skip(from).take(A_WINDOW).cloned();
                all.add(&ask(&filling.target, &these.collect(), WINDOW_SECONDS)?);
                from = (from + A_WINDOW) % asks.len();
            }
            Ok(all)
        });
        let pushed = filling.paths(numbers);
        filled.store(true, Ordering::Relaxed);
        let read = reader.join().expect("the readers' thread");
        pushed.and(read)
    })
}

fn ask(target: &Target, asks: &Arc<[Ask]>, seconds: f64) -> Result<Tally, String> {
    let plan = Open {
        schedule: Schedule::Rate(ASKED_PER_SECOND, seconds),
        connections: READERS,
        pid: None,
    };
    let tally = open(target, asks, plan).map_err(|error| error.to_string())?;
    tally.flaw().map_or(Ok(tally), Err)
}

/// Narinfos of the first so many paths, in an order of chance.
pub fn random_narinfos(target: &Target, paths: u64, seed: u64) -> Arc<[Ask]> {
    let mut random = Random::seeded(seed + 1);
    let one = |_| {
        let path = format!("{}.narinfo", hash_part(random.below(paths)));
        Ask::get(target, &path, Expect::status(200))
    };
    (0..ASKED.min(paths)).map(one).collect()
}

/// Waits until a server has put its index in order after so many pushes: that is no cost of a
/// narinfo's. Whether it came to rest.
pub fn still(pid: u32) -> bool {
    let busy_seconds = || {
        let before = used(pid)?;
        thread::sleep(Duration::from_secs(1));
        Some(used(pid)?.since(&before).cpu_seconds)
    };
    (0..SETTLED_WITHIN_S).any(|_| busy_seconds().is_some_and(|seconds| seconds < 0.05))
}

/// How often the index made a write wait until it was put in order.
fn held_up(server: &Snowcached) -> f64 {
    let told = server.http().get("/metrics").is(200).text();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("snowcache_index_stalls_total "));
    let count = line.and_then(|count| count.parse().ok());
    count.unwrap_or(f64::NAN)
}
