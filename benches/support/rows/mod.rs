//! The rows of the table: what each goal's work is, measured on every server in turn.

mod beside;
mod closure;
mod cold;
mod filling;
mod memory;
mod narinfo;
mod nars;
mod ranges;
mod scale;
mod slow;
mod stage;
mod storage;
mod storms;
mod tls;

use super::peers::Subject;
use super::report::{Curve, Row};
pub use stage::Stage;

/// What a group of rows brings.
#[derive(Default)]
pub struct Findings {
    pub rows: Vec<Row>,
    pub curves: Vec<Curve>,
}

impl Findings {
    fn rows(rows: impl IntoIterator<Item = Row>) -> Findings {
        Findings {
            rows: rows.into_iter().collect(),
            curves: Vec::new(),
        }
    }
}

type Group = fn(&mut Stage) -> Findings;

/// The goals, and names for parts of them, in the order in which they are measured.
pub const GROUPS: [(&[&str], Group); 13] = [
    (&["P1", "P2"], narinfo::measure),
    (&["P2", "P5"], storms::measure),
    (&["P2", "storm"], beside::measure),
    (&["P3", "P4"], nars::measure),
    (&["P3", "cold"], cold::measure),
    (&["P3", "ranges"], ranges::measure),
    (&["P5", "P10"], closure::measure),
    (&["P12"], storage::measure),
    (&["P13"], memory::measure),
    (&["P14", "many"], scale::many),
    (&["P14", "restore"], scale::old),
    (&["P17"], tls::measure),
    (&["S4"], slow::measure),
];

/// Each subject in each round; who begins changes from round to round.
fn interleaved(subjects: &[Subject], rounds: usize, mut measure: impl FnMut(&Subject)) {
    for round in 0..rounds {
        for turn in 0..subjects.len() {
            measure(&subjects[(round + turn) % subjects.len()]);
        }
    }
}
