//! The report as JSON: everything, each sample of each round too.

use serde_json::{Value, json};

use super::{Limit, Report, Row, Spread};

/// The whole report. `format` changes when a reader would have to.
pub fn json(report: &Report) -> Value {
    let facts = report.machine.facts().into_iter();
    let machine: serde_json::Map<String, Value> = facts
        .map(|(what, value)| (what.to_owned(), value.into()))
        .collect();
    let curves = report.curves.iter().map(
        |curve| json!({ "title": curve.title, "subject": curve.subject, "points": curve.points }),
    );
    json!({
        "format": 1,
        "machine": machine,
        "corpus": report.corpus,
        "what": report.what,
        "rows": report.rows.iter().map(row).collect::<Vec<Value>>(),
        "curves": curves.collect::<Vec<Value>>(),
    })
}

fn row(row: &Row) -> Value {
    let series = row.series.iter().map(|series| {
        json!({
            "subject": series.subject,
            "samples": series.samples,
            "spread": Spread::of(&series.samples).map(spread),
            "ratio": row.ratio(&series.subject).map(spread),
        })
    });
    let (rule, limit) = match row.limit {
        Limit::RatioAtMost(limit) => ("ratio at most", Some(limit)),
        Limit::RatioAtLeast(limit) => ("ratio at least", Some(limit)),
        Limit::AtMost(limit) => ("at most", Some(limit)),
        Limit::AtLeast(limit) => ("at least", Some(limit)),
        Limit::Told => ("told", None),
    };
    json!({
        "goal": row.goal,
        "work": row.work,
        "unit": row.unit,
        "yardstick": row.yardstick,
        "rule": rule,
        "limit": limit,
        "met": row.met(),
        "series": series.collect::<Vec<Value>>(),
        "notes": row.notes,
    })
}

fn spread(spread: Spread) -> Value {
    json!({ "min": spread.min, "median": spread.median, "max": spread.max })
}
