//! P1, P2: narinfos. CPU per request, requests a second at several numbers of connections, and the
//! latency that 99 of 100 do not exceed; closed loop.

use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{Kind, Mix};
use super::super::peers::Subject;
use super::super::report::{Limit, Row};
use super::{Findings, Stage, interleaved};

/// One person, a nix (25 at most), a CI, a fleet.
const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
/// At this many CPU per request is told: enough to keep the server busy.
const USUAL: usize = 16;

pub fn measure(stage: &mut Stage) -> Findings {
    let (rounds, seconds) = (stage.settings.rounds, stage.settings.seconds);
    let mut hit = Row::new("P1", "narinfo hit", "CPU us", Limit::RatioAtMost(1.0));
    let mut miss = Row::new("P1", "narinfo miss", "CPU us", Limit::RatioAtMost(1.0));
    let mut rates = CONNECTIONS.map(|connections| {
        let work = format!("narinfo hits, {}", label(connections));
        Row::new("P2", work, "1/s", Limit::RatioAtLeast(1.0)).label(label(connections))
    });
    let mut p99s = CONNECTIONS.map(|connections| {
        let work = format!("narinfo hits, {}, p99", label(connections));
        Row::new("P2", work, "ms", Limit::RatioAtMost(1.0)).label(label(connections))
    });
    interleaved(&stage.subjects, rounds, |subject| {
        for (number, connections) in CONNECTIONS.into_iter().enumerate() {
            let mut rows = [&mut rates[number], &mut p99s[number]];
            let tally = run(subject, Kind::NarinfoHit, connections, seconds, &mut rows);
            let Some(tally) = tally else { continue };
            rates[number].add(&subject.name, tally.per_second());
            p99s[number].add(&subject.name, tally.latency_ms(0.99));
            if let Some(us) = tally
                .server_us_per_answer()
                .filter(|_| connections == USUAL)
            {
                hit.add(&subject.name, us);
            }
        }
        let tally = run(subject, Kind::NarinfoMiss, USUAL, seconds, &mut [&mut miss]);
        if let Some(us) = tally.and_then(|tally| tally.server_us_per_answer()) {
            miss.add(&subject.name, us);
        }
    });
    Findings::rows([hit, miss].into_iter().chain(rates).chain(p99s))
}

fn label(connections: usize) -> String {
    let plural = if connections == 1 { "" } else { "s" };
    format!("{connections} connection{plural}")
}

fn run(
    subject: &Subject,
    kind: Kind,
    connections: usize,
    seconds: f64,
    rows: &mut [&mut Row],
) -> Option<super::super::engine::tally::Tally> {
    let served = &subject.packed;
    let asks = Mix::only(kind).asks(&served.target, &served.generations[0], 7);
    let tally = closed(
        &served.target,
        &asks,
        Closed::seconds(connections, seconds, Some(subject.pid)),
    );
    for row in rows.iter_mut() {
        row.remark(&subject.name, &tally);
    }
    tally.flaw().is_none().then_some(tally)
}
