//! What was measured, and the ways to show it: Markdown, JSON, SVG.
//!
//! Guarantees: every figure stands with its spread (smallest, middle, largest of the rounds), every
//! ratio is of figures of the same round, and what missed its goal is called missed. Never: leaves
//! a row out because it looks bad.

pub mod json;
pub mod machine;
pub mod markdown;
pub mod plots;
pub mod svg;

use super::engine::tally::Tally;
use super::peers::{OURS, YARDSTICK};
use machine::Machine;

/// A whole run.
pub struct Report {
    pub machine: Machine,
    pub corpus: String,
    pub what: Vec<String>,
    pub rows: Vec<Row>,
    pub curves: Vec<Curve>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Of which goal: `P1`.
    pub goal: String,
    pub work: String,
    pub unit: &'static str,
    pub limit: Limit,
    /// What ratios are to.
    pub yardstick: String,
    /// What the plot calls it, where `work` is too long.
    pub label: String,
    /// Whether it stands in a bar plot.
    pub plot: bool,
    pub series: Vec<Series>,
    pub notes: Vec<String>,
}

/// What one server did in each round.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub subject: String,
    pub samples: Vec<f64>,
}

/// What the goal asks of ours.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Of the yardstick's figure in the same round.
    RatioAtMost(f64),
    RatioAtLeast(f64),
    /// In the row's unit.
    AtMost(f64),
    AtLeast(f64),
    /// Only for comparison.
    Told,
}

/// Smallest, middle, largest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

/// Latencies of a run by share of answers, for a plot.
pub struct Curve {
    pub title: String,
    pub subject: String,
    /// (share of the answers, milliseconds)
    pub points: Vec<(f64, f64)>,
}

impl Spread {
    pub fn of(samples: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = samples.to_vec();
        sorted.retain(|sample| sample.is_finite());
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            0 => (sorted.get(middle.checked_sub(1)?)? + sorted[middle]) / 2.0,
            _ => sorted[middle],
        };
        Some(Spread {
            min: sorted[0],
            median,
            max: sorted[sorted.len() - 1],
        })
    }
}

impl Row {
    pub fn new(goal: &str, work: impl Into<String>, unit: &'static str, limit: Limit) -> Row {
        Row {
            goal: goal.to_owned(),
            label: String::new(),
            plot: true,
            work: work.into(),
            unit,
            limit,
            yardstick: YARDSTICK.to_owned(),
            series: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Ratios are to this instead of nginx.
    pub fn against(mut self, yardstick: &str) -> Row {
        self.yardstick = yardstick.to_owned();
        self
    }

    pub fn label(mut self, label: impl Into<String>) -> Row {
        self.label = label.into();
        self
    }

    /// A row that says why there are no figures.
    pub fn untold(goal: &str, work: impl Into<String>, why: impl Into<String>) -> Row {
        let mut row = Row::new(goal, work, "", Limit::Told);
        row.notes.push(why.into());
        row
    }

    pub fn add(&mut self, subject: &str, sample: f64) {
        match self
            .series
            .iter_mut()
            .find(|series| series.subject == subject)
        {
            Some(series) => series.samples.push(sample),
            None => self.series.push(Series {
                subject: subject.to_owned(),
                samples: vec![sample],
            }),
        }
    }

    /// Says what is wrong with a run of this row, and when the generator was its limit.
    pub fn remark(&mut self, subject: &str, tally: &Tally) {
        let note = match tally.flaw() {
            Some(flaw) => format!("{subject}: not counted: {flaw}"),
            None if tally.generator_bound(1) => {
                format!("{subject}: the load generator was busy all the time")
            }
            None => return,
        };
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// What a plot calls it.
    pub fn plotted(&self) -> &str {
        if self.label.is_empty() {
            &self.work
        } else {
            &self.label
        }
    }

    pub fn samples(&self, subject: &str) -> &[f64] {
        let series = self.series.iter().find(|series| series.subject == subject);
        series.map_or(&[], |series| &series.samples)
    }

    /// Of this server to the yardstick, round by round.
    pub fn ratio(&self, subject: &str) -> Option<Spread> {
        self.against_each_other(subject, &self.yardstick)
    }

    /// Of one server to another, round by round.
    pub fn against_each_other(&self, one: &str, other: &str) -> Option<Spread> {
        let pairs = self.samples(one).iter().zip(self.samples(other));
        Spread::of(&pairs.map(|(one, other)| one / other).collect::<Vec<f64>>())
    }

    /// Whether ours reached its goal, by the middle of the rounds; nothing when it cannot be said.
    pub fn met(&self) -> Option<bool> {
        let ratio = || Some(self.ratio(OURS)?.median);
        let own = || Some(Spread::of(self.samples(OURS))?.median);
        match self.limit {
            Limit::RatioAtMost(most) => Some(ratio()? <= most),
            Limit::RatioAtLeast(least) => Some(ratio()? >= least),
            Limit::AtMost(most) => Some(own()? <= most),
            Limit::AtLeast(least) => Some(own()? >= least),
            Limit::Told => None,
        }
    }
}
