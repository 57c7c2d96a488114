//! P3, P4: NARs as they lie compressed, uncompressed, and small ones; closed loop.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::super::engine::ask::Ask;
use super::super::engine::catalog::Catalog;
use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{Kind, Mix, every_nar};
use super::super::engine::procs::ended_children_cpu_seconds;
use super::super::engine::tally::Tally;
use super::super::engine::target::Target;
use super::super::peers::{OURS, Served, Subject};
use super::super::report::{Limit, Row};
use super::{Findings, Stage, interleaved};

/// NARs of one closure at once, as nix fetches them.
pub const CONNECTIONS: usize = 8;
const SMALL_CONNECTIONS: usize = 16;
pub const OF_GENERATION: [(&str, f64); 2] = [
    ("NARs of generation 1, .nar.zst", 1.0),
    ("NARs that generation 2 adds, .nar.zst", 1.5),
];

pub fn measure(stage: &mut Stage) -> Findings {
    let (rounds, seconds) = (stage.settings.rounds, stage.settings.seconds);
    let unit = "CPU s per NAR GB";
    let mut packed =
        OF_GENERATION.map(|(work, limit)| Row::new("P3", work, unit, Limit::RatioAtMost(limit)));
    let mut plain = Row::new("P4", "NARs of generation 1, .nar", unit, Limit::Told);
    let mut decoded = Row::new(
        "P4",
        "the same, against zstd -d",
        unit,
        Limit::RatioAtMost(1.2),
    )
    .against("zstd -d");
    let mut small = Row::new(
        "P4",
        "small NARs (< 64 KiB), .nar",
        "1/s",
        Limit::RatioAtLeast(1.0),
    );
    let mut small_cpu = Row::new("P4", "small NARs, .nar", "CPU us", Limit::Told);
    let zstd = Zstd::of(stage);
    interleaved(&stage.subjects, rounds, |subject| {
        for (generation, row) in packed.iter_mut().enumerate() {
            let cost = whole(subject, &subject.packed, generation, seconds, row);
            cost.into_iter()
                .for_each(|cost| row.add(&subject.name, cost));
        }
        let Some(served) = &subject.plain else { return };
        if let Some(cost) = whole(subject, served, 0, seconds, &mut plain) {
            plain.add(&subject.name, cost);
            if let Some(floor) = zstd
                .as_ref()
                .filter(|_| subject.name == OURS)
                .map(Zstd::cost)
            {
                decoded.add(OURS, cost);
                decoded.add("zstd -d", floor);
            }
        }
        let asks = Mix::only(Kind::NarSmall).asks(&served.target, &served.generations[0], 7);
        let (rows, target) = ([&mut small, &mut small_cpu], &served.target);
        if let Some(tally) = run(subject, target, &asks, SMALL_CONNECTIONS, seconds, rows) {
            small.add(&subject.name, tally.per_second());
            let us = tally.server_us_per_answer();
            us.into_iter()
                .for_each(|us| small_cpu.add(&subject.name, us));
        }
    });
    let rows = packed.into_iter().chain([plain, decoded, small, small_cpu]);
    Findings::rows(rows)
}

/// CPU seconds for each GB of NARs, of fetching a whole generation again and again.
fn whole(
    subject: &Subject,
    served: &Served,
    generation: usize,
    seconds: f64,
    row: &mut Row,
) -> Option<f64> {
    let catalog: &Catalog = &served.generations[generation];
    let asks = every_nar(&served.target, catalog);
    if asks.is_empty() {
        return None;
    }
    // Whole passes only: a part of one would not have the closure's mix of sizes.
    let first = Closed::once(CONNECTIONS, &asks, Some(subject.pid));
    let warm = closed(&served.target, &asks, first);
    let passes = (seconds / warm.seconds).ceil().max(1.0);
    let again = Closed {
        until: super::super::engine::closed::Until::Requests(asks.len() as u64 * passes as u64),
        ..first
    };
    let tally = closed(&served.target, &asks, again);
    row.remark(&subject.name, &tally);
    if tally.flaw().is_some() {
        return None;
    }
    let gigabytes = catalog.nar_bytes() as f64 * passes / 1e9;
    Some(tally.server?.cpu_seconds / gigabytes)
}

fn run<const N: usize>(
    subject: &Subject,
    target: &Target,
    asks: &Arc<[Ask]>,
    connections: usize,
    seconds: f64,
    rows: [&mut Row; N],
) -> Option<Tally> {
    if asks.is_empty() {
        return None;
    }
    let tally = closed(
        target,
        asks,
        Closed::seconds(connections, seconds, Some(subject.pid)),
    );
    for row in rows {
        row.remark(&subject.name, &tally);
    }
    tally.flaw().is_none().then_some(tally)
}

/// The floor of serving uncompressed NARs from compressed bytes: Debian's `zstd -d` of the same
/// files.
struct Zstd {
    list: tempfile::NamedTempFile,
    gigabytes: f64,
}

impl Zstd {
    fn of(stage: &Stage) -> Option<Zstd> {
        Command::new("zstd")
            .arg("--version")
            .stdout(Stdio::null())
            .status()
            .ok()?;
        let folder = stage.corpus.zst();
        let items = stage.corpus.added(0);
        let items = items
            .iter()
            .map(|hash| super::super::corpus::read_item(&folder, hash));
        let (mut files, mut bytes) = (String::new(), 0);
        for item in items {
            files += &format!("{}\n", folder.join(&item.url).display());
            bytes += item.nar_size;
        }
        let list = tempfile::NamedTempFile::new().ok()?;
        fs::write(list.path(), files).ok()?;
        Some(Zstd {
            list,
            gigabytes: bytes as f64 / 1e9,
        })
    }

    /// CPU seconds for each GB of NARs.
    fn cost(&self) -> f64 {
        let before = ended_children_cpu_seconds();
        let status = Command::new("zstd")
            .args(["-d", "-q", "-c", "--single-thread", "--filelist"])
            .arg(self.list.path())
            .stdout(Stdio::null())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "zstd -d of the corpus"
        );
        (ended_children_cpu_seconds() - before) / self.gigabytes
    }
}
