//! P14: a cache of very many paths: its start, what a narinfo costs, and whether an old generation
//! can be had as fast as the newest.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::super::corpus::Corpus;
use super::super::engine::ask::{Ask, Expect};
use super::super::engine::catalog::Catalog;
use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::every_nar;
use super::super::engine::procs::used;
use super::super::engine::target::Target;
use super::super::harness::codec::Codec;
use super::super::harness::folder_on_disk;
use super::super::harness::nar::{Nar, Upload, hash_part};
use super::super::harness::random::Random;
use super::super::harness::server::Snowcached;
use super::super::peers::{OURS, snowcache};
use super::super::report::{Limit, Row};
use super::{Findings, Stage};

const START_AT_MOST_S: f64 = 1.0;
const COST_AT_MOST: f64 = 1.3;
const RESTORE_AT_LEAST: f64 = 0.5;
/// Requests on their way at once, each with so many paths.
const PUSHES_AT_ONCE: usize = 3;
const PATHS_OF_A_REQUEST: u64 = 5_000;
const BATCH: u64 = 50_000;
/// Pushes of a batch, in a run of an hour or more.
const TRIES: u32 = 4;
const TOLD_EACH: u64 = 1_000_000;
/// Different paths asked for: more than any cache line or block holds.
const ASKED: u64 = 50_000;
/// After a million pushes the index is in order within a minute.
const SETTLED_WITHIN_S: u32 = 120;
const CONNECTIONS: usize = 16;
/// A small system, since each of its generations is kept.
const LINEAGE_PACKAGES: usize = 20;
const FIRST: &str = "generation 1";

pub fn measure(stage: &mut Stage) -> Findings {
    let [start, cost, stalls] = many_paths(stage);
    Findings::rows([start, cost, stalls, restore(stage)])
}

// ---- many paths ----

fn many_paths(stage: &Stage) -> [Row; 3] {
    let (many, few) = (stage.settings.scale, stage.settings.scale_small);
    let yardstick = format!("{few} paths");
    let limit = Limit::AtMost(START_AT_MOST_S);
    let mut start = Row::new("P14", format!("start with {many} paths"), "s", limit);
    let work = format!("narinfo hit, {many} paths");
    let mut cost =
        Row::new("P14", work, "CPU us", Limit::RatioAtMost(COST_AT_MOST)).against(&yardstick);
    let work = format!("writes of the index held up while {many} paths came in");
    let mut stalls = Row::new("P14", work, "", Limit::AtMost(0.0));
    stalls.plot = false;
    if many < 10_000_000 {
        let note = "the goal is about 1 M paths for the start and 10 M for the cost: \
                    SNOWCACHE_BENCH_SCALE=10000000";
        start.notes.push(note.to_owned());
    }
    let mut servers = [(OURS, many), (&yardstick, few)].map(|(name, paths)| {
        let mut server = Snowcached::start_with(folder_on_disk(), "warn", &[]);
        let begin = Instant::now();
        if let Err(flaw) = fill(&server, paths) {
            cost.notes.push(format!("{paths} paths: {flaw}"));
        }
        let rate = paths as f64 / begin.elapsed().as_secs_f64();
        eprintln!("{paths} paths at {rate:.0} a second");
        if name == OURS {
            stalls.add(OURS, held_up(&server));
        }
        server.stop();
        server.start_again();
        (name, paths, server)
    });
    for _ in 0..stage.settings.rounds {
        let server = &mut servers[0].2;
        server.stop();
        server.start_again();
        start.add(OURS, server.ready_in.as_secs_f64());
    }
    for (_, paths, server) in &servers {
        if !still(server.pid()) {
            let note = format!("{paths} paths: the server was still at work by itself");
            cost.notes.push(note);
        }
    }
    for round in 0..stage.settings.rounds {
        for turn in 0..2 {
            let (name, paths, server) = &servers[(round + turn) % 2];
            let target = Target::plain(&server.url());
            let asks = random_narinfos(&target, *paths, round as u64);
            let plan = Closed::seconds(CONNECTIONS, stage.settings.seconds, Some(server.pid()));
            // The first pass brings what is asked for into memory.
            closed(&target, &asks, Closed::once(CONNECTIONS, &asks, None));
            let tally = closed(&target, &asks, plan);
            cost.remark(name, &tally);
            if let Some(us) = tally
                .server_us_per_answer()
                .filter(|_| tally.flaw().is_none())
            {
                cost.add(name, us);
            }
        }
    }
    [start, cost, stalls]
}

/// Waits until a server has put its index in order after so many pushes: that is no cost of a
/// narinfo's. Whether it came to rest.
fn still(pid: u32) -> bool {
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

/// So many paths that share one NAR.
fn fill(server: &Snowcached, paths: u64) -> Result<(), String> {
    let (target, token) = (Target::plain(&server.url()), server.push_token());
    let nar = Nar::of_file(b"one file in very many paths");
    let mut upload = Upload::honest(0, "many", &nar, Codec::named("none"));
    server
        .http()
        .put(&upload.nar_path(), &token, &upload.body)
        .is(200);
    upload.body.clear();
    let narinfo = upload.narinfo();
    let whole = narinfo.as_bytes();
    server
        .http()
        .put(&upload.narinfo_path(), &token, whole)
        .is(200);
    let of_the_file = |line: &&str| {
        ["URL", "Compression"]
            .iter()
            .any(|key| line.starts_with(key))
    };
    let lines = narinfo.lines().filter(|line| !of_the_file(line));
    let record: String = lines.map(|line| format!("{line}\n")).collect();
    let request = |first: u64| -> Arc<[u8]> {
        let path = |number| format!("/nix/store/{}-many", hash_part(number));
        let last = paths.min(first + PATHS_OF_A_REQUEST);
        let records = (first..last).map(|number| record.replace(&upload.store_path, &path(number)));
        let body = serde_json::json!({ "paths": records.collect::<Vec<_>>() });
        body.to_string().into_bytes().into()
    };
    for batch in (0..paths).step_by(BATCH as usize) {
        let firsts = (batch..paths.min(batch + BATCH)).step_by(PATHS_OF_A_REQUEST as usize);
        let post = |first| Ask::post(&target, "api/v1/uploads/commit", &token, request(first));
        let asks: Arc<[Ask]> = firsts.map(post).collect();
        let push = || {
            closed(&target, &asks, Closed::once(PUSHES_AT_ONCE, &asks, None))
                .flaw()
                .map_or(Ok(()), Err)
        };
        // As a client does whose connection broke: what was committed before is committed again.
        (1..TRIES).fold(push(), |pushed, _| pushed.or_else(|_| push()))?;
        if batch % TOLD_EACH == 0 {
            eprintln!("{batch} of {paths} paths");
        }
    }
    Ok(())
}

fn random_narinfos(target: &Target, paths: u64, seed: u64) -> Arc<[Ask]> {
    let mut random = Random::seeded(seed + 1);
    let one = |_| {
        let path = format!("{}.narinfo", hash_part(random.below(paths)));
        Ask::get(target, &path, Expect::status(200))
    };
    (0..ASKED.min(paths)).map(one).collect()
}

// ---- an old cache's newest generation ----

fn restore(stage: &Stage) -> Row {
    let generations = stage.settings.generations;
    let work = format!("cold restore of generation {generations}");
    let limit = Limit::RatioAtLeast(RESTORE_AT_LEAST);
    let mut row = Row::new("P14", work, "NAR MB/s", limit).against(FIRST);
    let corpus = Corpus::lineage(stage.settings.seed, LINEAGE_PACKAGES, generations);
    let mut server = snowcache::start(&[]);
    for generation in 0..generations {
        let pushed = snowcache::push(&server, &corpus.zst(), &corpus.added(generation));
        if let Err(flaw) = pushed {
            row.notes
                .push(format!("generation {}: {flaw}", generation + 1));
            return row;
        }
    }
    let ends = [(FIRST, 0), (OURS, generations - 1)];
    for round in 0..stage.settings.rounds {
        for turn in 0..2 {
            let (name, generation) = ends[(round + turn) % 2];
            server.stop();
            forget(&server.depot());
            server.start_again();
            let target = Target::plain(&server.url());
            let begin = Instant::now();
            let catalog = Catalog::read(&target, &corpus.generations[generation].hashes);
            let catalog = catalog.expect("what was pushed");
            let asks = every_nar(&target, &catalog);
            let tally = closed(&target, &asks, Closed::once(8, &asks, None));
            row.remark(name, &tally);
            row.add(
                name,
                catalog.nar_bytes() as f64 / 1e6 / begin.elapsed().as_secs_f64(),
            );
        }
    }
    row
}

/// Has the kernel forget what it holds of these files.
fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            forget(&path);
        } else if let Ok(file) = fs::File::open(&path) {
            file.sync_all().ok();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).ok();
        }
    }
}
