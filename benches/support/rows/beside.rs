//! P2: what narinfo hits notice of a storm of misses beside them: a fleet that asks for 50,000
//! paths which this cache does not have must not be felt by those who get what they ask for.
//!
//! Hits come at a fixed rate (open loop), alone and with the storm, in the same round. Storms are
//! two. One is spread as from 200 nodes that each ask for 250 paths within ten seconds; it rages
//! every other half second, so that what the machine does besides falls on both:
//!
//! ```text
//!   hits     ____ ____ ____ ____ ____ ____     alone, beside, alone, beside …
//!   misses        ____      ____      ____
//! ```
//! The other comes as fast as it goes, which takes half a second of all the cores of a small
//! machine, the generator's part included, so that every hit of that time waits for a core whoever
//! serves it.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::engine::ask::Ask;
use super::super::engine::closed::{Closed, Until, closed};
use super::super::engine::mix::{Kind, Mix, misses};
use super::super::engine::open::{Open, Schedule, open};
use super::super::engine::tally::Tally;
use super::super::engine::target::Target;
use super::super::peers::{OURS, Subject};
use super::super::report::markdown::show;
use super::super::report::{Limit, Row, Spread};
use super::{Findings, Stage, interleaved};

/// Paths that are asked for and not here, where a measurement has its full length.
const MISSES: f64 = 50_000.0;
/// So many of them a second, where they are spread.
const MISSES_PER_SECOND: f64 = 5_000.0;
/// The full length of a measurement.
const FULL_SECONDS: f64 = 1.5;
const STORM_CONNECTIONS: usize = 256;
/// Hits a second; far below what any of the servers can.
const HITS_PER_SECOND: f64 = 3_000.0;
const HIT_CONNECTIONS: usize = 64;
/// Of the 99th percentile without a storm.
const AT_MOST: f64 = 1.1;
/// A spread storm rages so long, and rests as long.
const HALF: Duration = Duration::from_millis(500);
/// What it is compared with.
const ALONE: &str = "alone";

/// What hits noticed, in milliseconds.
struct Noticed {
    alone: f64,
    spread: f64,
    unbridled: f64,
}

pub fn measure(stage: &mut Stage) -> Findings {
    let misses = MISSES * (stage.settings.seconds / FULL_SECONDS).min(1.0);
    let seconds = misses / MISSES_PER_SECOND;
    let hits = format!("p99 of hits beside {misses:.0} misses");
    let row = |how: String, limit| {
        let mut row = Row::new("P2", format!("{hits}, {how}"), "ms", limit).against(ALONE);
        row.plot = false;
        row
    };
    let mut rows = [
        row(
            format!("{MISSES_PER_SECOND:.0} a second"),
            Limit::RatioAtMost(AT_MOST),
        ),
        row("as fast as they go".to_owned(), Limit::Told),
    ];
    let mut others: [Vec<(String, f64, f64)>; 2] = Default::default();
    interleaved(&stage.with_least(), stage.settings.rounds, |subject| {
        let Some(noticed) = noticed(subject, seconds, &mut rows) else {
            return;
        };
        let beside = [noticed.spread, noticed.unbridled];
        for ((row, others), beside) in rows.iter_mut().zip(&mut others).zip(beside) {
            if subject.name == OURS {
                row.add(OURS, beside);
                row.add(ALONE, noticed.alone);
            } else {
                others.push((subject.name.clone(), beside, noticed.alone));
            }
        }
    });
    for (row, others) in rows.iter_mut().zip(others) {
        compare(row, &others);
    }
    Findings::rows(rows)
}

/// None where an answer was wrong, to hits or to a storm.
fn noticed(subject: &Subject, seconds: f64, rows: &mut [Row; 2]) -> Option<Noticed> {
    let target = &subject.packed.target;
    let hits = Mix::only(Kind::NarinfoHit).asks(target, &subject.packed.generations[0], 17);
    let absent = misses(&subject.absent, (seconds * MISSES_PER_SECOND) as usize, 19);
    let every_other = |target: &Target, asks: &Arc<[Ask]>, per_second, connections, first| {
        let plan = Open {
            schedule: Schedule::At(halves(per_second, seconds, first)),
            connections,
            pid: None,
        };
        open(target, asks, plan)
    };
    let spread = together([
        &|| every_other(target, &hits, HITS_PER_SECOND, HIT_CONNECTIONS, 0),
        &|| every_other(target, &hits, HITS_PER_SECOND, HIT_CONNECTIONS, 1),
        &|| {
            every_other(
                &subject.absent,
                &absent,
                MISSES_PER_SECOND,
                STORM_CONNECTIONS,
                1,
            )
        },
    ]);
    let at_a_rate = Open {
        schedule: Schedule::Rate(HITS_PER_SECOND, seconds),
        connections: HIT_CONNECTIONS,
        pid: None,
    };
    let all = Closed {
        until: Until::Requests(absent.len() as u64),
        ..Closed::seconds(STORM_CONNECTIONS, seconds, None)
    };
    let unbridled = together([&|| open(target, &hits, at_a_rate.clone()), &|| {
        Ok(closed(&subject.absent, &absent, all))
    }]);
    let [alone, beside, _] = right(&subject.name, spread, &mut rows[0])?;
    let [hurried, _] = right(&subject.name, unbridled, &mut rows[1])?;
    Some(Noticed {
        alone: alone.latency_ms(0.99),
        spread: beside.latency_ms(0.99),
        unbridled: hurried.latency_ms(0.99),
    })
}

/// So many a second for so many seconds, which are every other half second: from the first one or
/// from the second.
fn halves(per_second: f64, seconds: f64, first: u32) -> Arc<[Duration]> {
    let due = |number: u64| {
        let at = Duration::from_secs_f64(number as f64 / per_second);
        let passed = (at.as_nanos() / HALF.as_nanos()) as u32;
        at + HALF * (passed + first)
    };
    (0..(per_second * seconds) as u64).map(due).collect()
}

/// Runs loads at the same time.
fn together<const N: usize>(
    loads: [&(dyn Fn() -> io::Result<Tally> + Sync); N],
) -> [io::Result<Tally>; N] {
    thread::scope(|scope| {
        let threads = loads.map(|load| scope.spawn(load));
        threads.map(|thread| thread.join().expect("a load's thread"))
    })
}

/// The tallies, if all answers in them were right.
fn right<const N: usize>(
    subject: &str,
    tallies: [io::Result<Tally>; N],
    row: &mut Row,
) -> Option<[Tally; N]> {
    for tally in &tallies {
        match tally {
            Ok(tally) => row.remark(subject, tally),
            Err(error) => row.notes.push(format!("{subject}: {error}")),
        }
    }
    let right = |tally: io::Result<Tally>| tally.ok().filter(|tally| tally.flaw().is_none());
    let all: Vec<Tally> = tallies.into_iter().filter_map(right).collect();
    all.try_into().ok()
}

/// Notes what the storm did to the others.
fn compare(row: &mut Row, others: &[(String, f64, f64)]) {
    let mut names: Vec<&String> = others.iter().map(|(name, _, _)| name).collect();
    names.sort();
    names.dedup();
    for name in names {
        let own = others.iter().filter(|(other, _, _)| other == name);
        let spread = |of: fn(&(String, f64, f64)) -> f64| {
            Spread::of(&own.clone().map(of).collect::<Vec<f64>>()).map_or(String::new(), show)
        };
        let (beside, alone) = (spread(|it| it.1), spread(|it| it.2));
        let ratio = spread(|it| it.1 / it.2);
        let note = format!("{name}: {beside} ms, {ALONE} {alone}: {ratio}x");
        row.notes.push(note);
    }
}
