//! P2: what narinfo hits notice of a storm of misses beside them: a fleet that asks for 50,000
//! paths which this cache does not have must not be felt by those who get what they ask for.
//!
//! Hits come at a fixed rate (open loop), alone and with the storm, in the same round. Of the storm
//! there are two: one spread over ten seconds, as from 200 nodes that each ask for 250 paths; and
//! one as fast as it goes, which takes half a second of all the cores of a small machine, the
//! generator's part included, so that every hit of that time waits for a core whoever serves it.

use std::io;
use std::sync::Arc;
use std::thread;

use super::super::engine::ask::Ask;
use super::super::engine::closed::{Closed, Until, closed};
use super::super::engine::mix::{Kind, Mix, misses};
use super::super::engine::open::{Open, Schedule, open};
use super::super::engine::tally::Tally;
use super::super::engine::target::Target;
use super::super::peers::{OURS, Subject};
use super::super::report::markdown::show;
use super::super::report::{Limit, Row, Spread};
use super::{Stage, interleaved};

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
/// What it is compared with.
const ALONE: &str = "alone";

/// How a storm comes.
#[derive(Clone, Copy, PartialEq)]
enum Storm {
    /// Spread evenly over the measurement.
    Spread,
    /// Each connection asks again when it has its answer.
    Unbridled,
}

pub fn measure(stage: &Stage) -> [Row; 2] {
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
    interleaved(&stage.subjects, stage.settings.rounds, |subject| {
        let Some(alone) = p99(subject, seconds, None, &mut rows[0]) else {
            return;
        };
        let storms = [Storm::Spread, Storm::Unbridled];
        for ((row, others), storm) in rows.iter_mut().zip(&mut others).zip(storms) {
            let Some(beside) = p99(subject, seconds, Some(storm), row) else {
                continue;
            };
            if subject.name == OURS {
                row.add(OURS, beside);
                row.add(ALONE, alone);
            } else {
                others.push((subject.name.clone(), beside, alone));
            }
        }
    });
    for (row, others) in rows.iter_mut().zip(others) {
        compare(row, &others);
    }
    rows
}

/// The 99th percentile of hits, in milliseconds; None where an answer was wrong, to them or to the
/// storm.
fn p99(subject: &Subject, seconds: f64, storm: Option<Storm>, row: &mut Row) -> Option<f64> {
    let served = &subject.packed;
    let asks = Mix::only(Kind::NarinfoHit).asks(&served.target, &served.generations[0], 17);
    let absent = misses(&served.target, (seconds * MISSES_PER_SECOND) as usize, 19);
    let hits = Open {
        schedule: Schedule::Rate(HITS_PER_SECOND, seconds),
        connections: HIT_CONNECTIONS,
        pid: None,
    };
    let raging = |storm| rage(&served.target, &absent, storm, seconds);
    let (hits, raged) = thread::scope(|scope| {
        let raging = &raging;
        let storm = storm.map(|storm| scope.spawn(move || raging(storm)));
        let hits = open(&served.target, &asks, hits);
        (hits, storm.map(|it| it.join().expect("the storm's thread")))
    });
    for tally in [Some(&hits), raged.as_ref()].into_iter().flatten() {
        match tally {
            Ok(tally) => row.remark(&subject.name, tally),
            Err(error) => row.notes.push(format!("{}: {error}", subject.name)),
        }
    }
    let right = |tally: io::Result<Tally>| tally.ok().filter(|tally| tally.flaw().is_none());
    if let Some(raged) = raged {
        right(raged)?;
    }
    Some(right(hits)?.latency_ms(0.99))
}

fn rage(target: &Target, asks: &Arc<[Ask]>, storm: Storm, seconds: f64) -> io::Result<Tally> {
    match storm {
        Storm::Spread => {
            let plan = Open {
                schedule: Schedule::Rate(MISSES_PER_SECOND, seconds),
                connections: STORM_CONNECTIONS,
                pid: None,
            };
            open(target, asks, plan)
        }
        Storm::Unbridled => {
            let plan = Closed {
                until: Until::Requests(asks.len() as u64),
                ..Closed::seconds(STORM_CONNECTIONS, seconds, None)
            };
            Ok(closed(target, asks, plan))
        }
    }
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
