//! P3: what 64 KiB out of the middle of a large NAR cost, beside the whole of it.

use std::sync::Arc;

use super::super::engine::ask::Ask;
use super::super::engine::catalog::{Catalog, get};
use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{BIG_BYTES, Kind, Mix};
use super::super::engine::target::Target;
use super::super::harness::random::Random;
use super::super::peers::{Served, Subject};
use super::super::report::{Limit, Row};
use super::{Findings, Stage, interleaved};

/// What resumes and deltas ask for.
const PART_BYTES: usize = 64 << 10;
/// Of each large NAR.
const PARTS: usize = 64;
const CONNECTIONS: usize = 8;

pub fn measure(stage: &mut Stage) -> Findings {
    let row = |what: &str| {
        let mut row = Row::new("P3", what, "CPU us", Limit::Told);
        row.plot = false;
        row
    };
    let mut rows = [
        row("64 KiB out of NARs of 4 MiB and more, .nar.zst"),
        row("the whole of these, .nar.zst"),
        row("64 KiB out of NARs of 4 MiB and more, .nar"),
        row("the whole of these, .nar"),
    ];
    let parts: Vec<_> = stage
        .subjects
        .iter()
        .map(|subject| {
            let served = [Some(&subject.packed), subject.plain.as_ref()];
            let asks = served.map(|served| served.map(parts));
            (subject.name.clone(), asks)
        })
        .collect();
    let seconds = stage.settings.seconds;
    interleaved(&stage.subjects, stage.settings.rounds, |subject| {
        let of = parts.iter().find(|(name, _)| *name == subject.name);
        let Some((_, asks)) = of else { return };
        let served = [Some(&subject.packed), subject.plain.as_ref()];
        for (number, (served, parts)) in served.into_iter().zip(asks).enumerate() {
            let (Some(served), Some(parts)) = (served, parts) else {
                continue;
            };
            let catalog = &served.generations[0];
            let whole = Mix::only(Kind::NarBig).asks(&served.target, catalog, 7);
            let [part_row, whole_row] = rows
                .get_disjoint_mut([2 * number, 2 * number + 1])
                .expect("invariant: two rows for each form");
            one(subject, &served.target, parts, seconds, part_row);
            one(subject, &served.target, &whole, seconds, whole_row);
        }
    });
    Findings::rows(rows)
}

fn one(subject: &Subject, target: &Target, asks: &Arc<[Ask]>, seconds: f64, row: &mut Row) {
    if asks.is_empty() {
        return;
    }
    let plan = Closed::seconds(CONNECTIONS, seconds, Some(subject.pid));
    let tally = closed(target, asks, plan);
    row.remark(&subject.name, &tally);
    if tally.flaw().is_none() {
        let cost = tally.server_us_per_answer();
        cost.into_iter().for_each(|us| row.add(&subject.name, us));
    }
}

/// Parts of all large NARs of the first generation, each with the bytes that must come.
fn parts(served: &Served) -> Arc<[Ask]> {
    let mut random = Random::seeded(3);
    let catalog: &Catalog = &served.generations[0];
    let large = catalog.items.iter();
    let large = large.filter(|item| item.nar_size >= BIG_BYTES);
    let mut asks: Vec<Ask> = Vec::new();
    for item in large {
        let body = super::super::engine::block_on(async {
            let mut wire = served.target.connect().await?;
            get(&served.target, &mut wire, &item.url).await
        });
        let (_, body) = body.expect("a NAR that was there before");
        let Some(last) = body.len().checked_sub(PART_BYTES) else {
            continue;
        };
        asks.extend((0..PARTS).map(|_| {
            let first = random.below(last as u64 + 1) as usize;
            let part = body[first..first + PART_BYTES].into();
            Ask::range(&served.target, &item.url, first, part)
        }));
    }
    // One NAR after the other would keep what it needs in the nearest memory.
    for at in (1..asks.len()).rev() {
        asks.swap(at, random.below(at as u64 + 1) as usize);
    }
    asks.into()
}
