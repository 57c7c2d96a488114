//! What a fleet does besides: requests at a fixed rate, misses only, a mix, whole closures; P2 and
//! P5 from another side, since a closed loop is kind to whoever is slow.

use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{Kind, Mix};
use super::super::engine::open::{Open, Schedule, open};
use super::super::engine::tally::Tally;
use super::super::engine::walk::{Walk, walk};
use super::super::peers::Subject;
use super::super::report::{Curve, Limit, Row};
use super::{Findings, Stage, interleaved};

/// narinfos a second that a fleet of some thousand nodes asks for while it is deployed; far below
/// what any of the servers can, so that latency is told and not a queue.
const PER_SECOND: f64 = 3_000.0;
const OPEN_CONNECTIONS: usize = 64;
const STORM_CONNECTIONS: usize = 256;
const MIX: &str = "narinfo-hit=60,narinfo-miss=25,nar-small=15";
/// Nodes that fetch a closure at once, and connections of each.
const WALKERS: usize = 8;
const CONNECTIONS_OF_A_WALKER: usize = 16;
const SHARES: [f64; 11] = [
    0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999,
];

pub fn measure(stage: &mut Stage) -> Findings {
    let mut findings = fixed_rate(stage);
    findings.rows.extend(closed_loops(stage));
    findings.rows.extend(walks(stage));
    findings
}

fn fixed_rate(stage: &Stage) -> Findings {
    let title = format!("narinfo hits at {PER_SECOND} a second, open loop");
    let named = |what: &str| Row::new("P2", format!("{title}, {what}"), "ms", Limit::Told);
    let mut rows = [named("p50"), named("p99"), named("p99.9")];
    rows[1].limit = Limit::RatioAtMost(1.0);
    let mut all: Vec<(String, Tally)> = Vec::new();
    interleaved(&stage.subjects, stage.settings.rounds, |subject| {
        let served = &subject.packed;
        let asks = Mix::only(Kind::NarinfoHit).asks(&served.target, &served.generations[0], 11);
        let plan = Open {
            schedule: Schedule::Rate(PER_SECOND, stage.settings.seconds * 2.0),
            connections: OPEN_CONNECTIONS,
            pid: Some(subject.pid),
        };
        let Ok(tally) = open(&served.target, &asks, plan) else {
            rows[0]
                .notes
                .push(format!("{}: cannot be connected to", subject.name));
            return;
        };
        rows[0].remark(&subject.name, &tally);
        if tally.flaw().is_some() {
            return;
        }
        for (row, share) in rows.iter_mut().zip([0.5, 0.99, 0.999]) {
            row.add(&subject.name, tally.latency_ms(share));
        }
        match all.iter_mut().find(|(name, _)| *name == subject.name) {
            Some((_, total)) => total.add(&tally),
            None => all.push((subject.name.clone(), tally)),
        }
    });
    for row in &mut rows {
        // Beside the closed loop's bars they would be a crowd: they have a plot of their own.
        row.plot = false;
    }
    let curve = |(subject, tally): (String, Tally)| Curve {
        title: title.clone(),
        subject,
        points: SHARES
            .map(|share| (share, tally.latency_ms(share)))
            .to_vec(),
    };
    Findings {
        curves: all.into_iter().map(curve).collect(),
        rows: rows.into(),
    }
}

fn closed_loops(stage: &Stage) -> Vec<Row> {
    let storm = format!("a storm of misses, {STORM_CONNECTIONS} connections");
    let works = [
        (Mix::only(Kind::NarinfoMiss), storm),
        (
            MIX.parse().expect("invariant: a mix"),
            format!("a mix ({MIX}), {STORM_CONNECTIONS} connections"),
        ),
    ];
    let mut rows = Vec::new();
    for (mix, work) in works {
        let mut rate = Row::new("P2", work.clone(), "1/s", Limit::RatioAtLeast(1.0));
        let mut cpu = Row::new("P2", work, "CPU us", Limit::Told);
        (rate.plot, cpu.plot) = (false, false);
        interleaved(&stage.subjects, stage.settings.rounds, |subject| {
            let served = &subject.packed;
            let asks = mix.asks(&served.target, &served.generations[0], 13);
            let (seconds, pid) = (stage.settings.seconds, Some(subject.pid));
            let plan = Closed::seconds(STORM_CONNECTIONS, seconds, pid);
            let tally = closed(&served.target, &asks, plan);
            rate.remark(&subject.name, &tally);
            if tally.flaw().is_none() {
                rate.add(&subject.name, tally.per_second());
                let us = tally.server_us_per_answer();
                us.into_iter().for_each(|us| cpu.add(&subject.name, us));
            }
        });
        rows.extend([rate, cpu]);
    }
    rows
}

fn walks(stage: &Stage) -> [Row; 2] {
    let work = format!("{WALKERS} clients walk the closure at once");
    let mut wall = Row::new("P5", format!("{work}, wall"), "s", Limit::RatioAtMost(1.0));
    wall.label = format!("{WALKERS} walks at once");
    let mut cpu = Row::new("P5", format!("{work}, a closure"), "CPU s", Limit::Told);
    let root = stage.corpus.generations[0].hashes.last();
    let roots = vec![root.expect("invariant: a top").clone()];
    interleaved(
        &stage.subjects,
        stage.settings.rounds,
        |subject: &Subject| {
            let plan = Walk {
                clients: WALKERS,
                closures_each: 1,
                connections: CONNECTIONS_OF_A_WALKER,
                roots: roots.clone(),
                pid: Some(subject.pid),
            };
            let walked = walk(&subject.packed.target, &plan);
            wall.remark(&subject.name, &walked.tally);
            if walked.tally.flaw().is_none() {
                let seconds = walked.closures.iter().copied().fold(0.0, f64::max);
                wall.add(&subject.name, seconds);
                let used = walked.tally.server.map(|server| server.cpu_seconds);
                let each = used.map(|seconds| seconds / WALKERS as f64);
                each.into_iter()
                    .for_each(|each| cpu.add(&subject.name, each));
            }
        },
    );
    [wall, cpu]
}
