//! P1, P2: narinfos. CPU per request, requests a second at several numbers of connections, and the
//! latency that 99 of 100 do not exceed; closed loop. CPU beside the least that hyper costs, too.

use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{Kind, Mix};
use super::super::engine::tally::Tally;
use super::super::peers::least::LEAST;
use super::super::peers::{OURS, Subject};
use super::super::report::{Limit, Row};
use super::{Findings, Stage, interleaved};

/// One person, a nix (25 at most), a CI, a fleet.
const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
/// At this many CPU per request is told: enough to keep the server busy.
const USUAL: usize = 16;
/// Times what a hyper costs that always gives the same answer.
const OF_THE_LEAST: f64 = 1.25;

pub fn measure(stage: &mut Stage) -> Findings {
    let (rounds, seconds) = (stage.settings.rounds, stage.settings.seconds);
    let mut hit = Cpu::new("hit");
    let mut miss = Cpu::new("miss");
    let mut rates = CONNECTIONS.map(|connections| {
        let work = format!("narinfo hits, {}", label(connections));
        Row::new("P2", work, "1/s", Limit::RatioAtLeast(1.0)).label(label(connections))
    });
    let mut p99s = CONNECTIONS.map(|connections| {
        let work = format!("narinfo hits, {}, p99", label(connections));
        Row::new("P2", work, "ms", Limit::RatioAtMost(1.0)).label(label(connections))
    });
    interleaved(&stage.with_least(), rounds, |subject| {
        for (number, connections) in CONNECTIONS.into_iter().enumerate() {
            if subject.name == LEAST && connections != USUAL {
                continue;
            }
            let mut rows = [&mut rates[number], &mut p99s[number]];
            let tally = run(subject, Kind::NarinfoHit, connections, seconds, &mut rows);
            let Some(tally) = tally else { continue };
            if connections == USUAL {
                hit.add(subject, &tally);
            }
            if subject.name != LEAST {
                rates[number].add(&subject.name, tally.per_second());
                p99s[number].add(&subject.name, tally.latency_ms(0.99));
            }
        }
        let rows = &mut [&mut miss.all];
        if let Some(tally) = run(subject, Kind::NarinfoMiss, USUAL, seconds, rows) {
            miss.add(subject, &tally);
        }
    });
    let cpu = [hit.all, hit.of_the_least, miss.all, miss.of_the_least];
    Findings::rows(cpu.into_iter().chain(rates).chain(p99s))
}

/// What one kind of request takes of a server's CPU time.
struct Cpu {
    all: Row,
    of_the_least: Row,
}

impl Cpu {
    fn new(kind: &str) -> Cpu {
        let work = format!("narinfo {kind}");
        let least = format!("{work}, of the least that hyper costs");
        let least = Row::new("P1", least, "CPU us", Limit::RatioAtMost(OF_THE_LEAST));
        let mut of_the_least = least.against(LEAST);
        of_the_least.plot = false;
        Cpu {
            all: Row::new("P1", work, "CPU us", Limit::RatioAtMost(1.0)),
            of_the_least,
        }
    }

    fn add(&mut self, subject: &Subject, tally: &Tally) {
        let Some(us) = tally.server_us_per_answer() else {
            return;
        };
        if subject.name != LEAST {
            self.all.add(&subject.name, us);
        }
        if [OURS, LEAST].contains(&subject.name.as_str()) {
            self.of_the_least.add(&subject.name, us);
        }
    }
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
) -> Option<Tally> {
    let served = &subject.packed;
    let target = match kind {
        Kind::NarinfoMiss => &subject.absent,
        _ => &served.target,
    };
    let asks = Mix::only(kind).asks(target, &served.generations[0], 7);
    let tally = closed(
        target,
        &asks,
        Closed::seconds(connections, seconds, Some(subject.pid)),
    );
    for row in rows.iter_mut() {
        row.remark(&subject.name, &tally);
    }
    tally.flaw().is_none().then_some(tally)
}
