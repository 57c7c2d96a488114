//! P14: a cache of very many paths: its start, what a narinfo costs, and whether an old generation
//! can be had as fast as the newest.

use std::time::Instant;

use super::super::corpus::Corpus;
use super::super::engine::catalog::Catalog;
use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::every_nar;
use super::super::engine::target::Target;
use super::super::harness::folder_on_disk;
use super::super::harness::server::Snowcached;
use super::super::peers::{OURS, snowcache};
use super::super::report::{Limit, Row};
use super::filling::{Filling, Noticed, random_narinfos, still};
use super::{Findings, Stage};

const START_AT_MOST_S: f64 = 1.0;
const COST_AT_MOST: f64 = 1.3;
const RESTORE_AT_LEAST: f64 = 0.5;
const CONNECTIONS: usize = 16;
/// A small system, since each of its generations is kept.
const LINEAGE_PACKAGES: usize = 20;
const FIRST: &str = "generation 1";

pub fn many(stage: &mut Stage) -> Findings {
    Findings::rows(many_paths(stage))
}

pub fn old(stage: &mut Stage) -> Findings {
    Findings::rows([restore(stage)])
}

// ---- many paths ----

fn many_paths(stage: &Stage) -> Vec<Row> {
    let (many, few) = (stage.settings.scale, stage.settings.scale_small);
    let yardstick = format!("{few} paths");
    let limit = Limit::AtMost(START_AT_MOST_S);
    let mut start = Row::new("P14", format!("start with {many} paths"), "s", limit);
    let work = format!("narinfo hit, {many} paths");
    let mut cost =
        Row::new("P14", work, "CPU us", Limit::RatioAtMost(COST_AT_MOST)).against(&yardstick);
    let mut noticed = Noticed::of(many);
    if many < 10_000_000 {
        let note = "the goal is about 1 M paths for the start and 10 M for the cost: \
                    SNOWCACHE_BENCH_SCALE=10000000";
        start.notes.push(note.to_owned());
    }
    let mut servers = [(OURS, many), (&yardstick, few)].map(|(name, paths)| {
        let mut server = Snowcached::start_with(folder_on_disk(), "warn", &[]);
        let filled = match name {
            OURS => noticed.fill(
                &server,
                paths,
                stage.settings.rounds,
                stage.settings.seconds,
            ),
            _ => Filling::begin(&server).paths(0..paths),
        };
        if let Err(flaw) = filled {
            cost.notes.push(format!("{paths} paths: {flaw}"));
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
    [start, cost].into_iter().chain(noticed.rows()).collect()
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
            super::cold::forget(&server.depot());
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
