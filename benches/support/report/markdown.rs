//! The report as Markdown: the machine, one table, what must be said besides.

use super::super::peers::{OURS, YARDSTICK};
use super::{Limit, Report, Row, Spread};
use std::collections::BTreeSet;

/// The whole report; `plots` are (file, title).
pub fn markdown(report: &Report, plots: &[(String, String)]) -> String {
    let mut text = String::from("# Snowcache against nginx\n\n");
    for (what, value) in report.machine.facts() {
        text += &format!("- {what}: {value}\n");
    }
    text += &format!("- corpus: {}\n", report.corpus);
    for line in &report.what {
        text += &format!("- {line}\n");
    }
    text += "\nFigures are the middle of the rounds (smallest to largest); ratios are to the \
             yardstick in the same round. The yardstick is nginx unless another is named.\n\n";
    text += &table(&report.rows);
    text += &others(&report.rows);
    text += &notes(&report.rows);
    for (file, title) in plots {
        text += &format!("\n![{title}]({file})\n");
    }
    text
}

/// The table alone.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| goal | work | unit | snowcached | yardstick | ratio | asked | |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let figure = |subject| match Spread::of(row.samples(subject)) {
            Some(spread) => show(spread),
            None => "-".to_owned(),
        };
        let ratio = row
            .ratio(OURS)
            .map_or("-".to_owned(), |ratio| format!("{}x", show(ratio)));
        text += &format!(
            "| {} | {} | {} | {} | {} | {ratio} | {} | {} |\n",
            row.goal,
            row.work,
            row.unit,
            figure(OURS),
            yardstick(row),
            asked(row),
            verdict(row),
        );
    }
    text
}

/// Its figure, and its name where it is not nginx.
fn yardstick(row: &Row) -> String {
    let Some(spread) = Spread::of(row.samples(&row.yardstick)) else {
        return "-".to_owned();
    };
    match row.yardstick.as_str() {
        YARDSTICK => show(spread),
        other => format!("{other}: {}", show(spread)),
    }
}

fn asked(row: &Row) -> String {
    match row.limit {
        Limit::RatioAtMost(most) => format!("<= {most}x"),
        Limit::RatioAtLeast(least) => format!(">= {least}x"),
        Limit::AtMost(most) => format!("<= {}", number(most)),
        Limit::AtLeast(least) => format!(">= {}", number(least)),
        Limit::Told => String::new(),
    }
}

fn verdict(row: &Row) -> &'static str {
    match row.met() {
        Some(true) => "met",
        Some(false) => "**MISSED**",
        None if row.series.is_empty() => "not measured",
        None => "",
    }
}

/// Other caches side by side, where there are any: each one's figure, and ours to it.
pub fn others(rows: &[Row]) -> String {
    let is_other = |row: &Row, subject: &str| subject != OURS && subject != row.yardstick;
    let subjects = rows.iter().flat_map(|row| {
        let subjects = row.series.iter().map(|series| series.subject.as_str());
        subjects.filter(|subject| is_other(row, subject))
    });
    let names: BTreeSet<&str> = subjects.collect();
    if names.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| goal | work | unit | snowcached |");
    names
        .iter()
        .for_each(|name| text += &format!(" {name} | ratio |"));
    text += &format!("\n|---|---|---|---|{}\n", "---|---|".repeat(names.len()));
    let figure = |spread: Option<Spread>, unit: &str| {
        spread.map_or("-".to_owned(), |spread| format!("{}{unit}", show(spread)))
    };
    for row in rows {
        let measured = |name: &&str| is_other(row, name) && !row.samples(name).is_empty();
        if !names.iter().any(measured) {
            continue;
        }
        let ours = figure(Spread::of(row.samples(OURS)), "");
        text += &format!("| {} | {} | {} | {ours} |", row.goal, row.work, row.unit);
        for name in &names {
            let own = figure(Spread::of(row.samples(name)), "");
            let ratio = figure(row.against_each_other(OURS, name), "x");
            text += &format!(" {own} | {ratio} |");
        }
        text += "\n";
    }
    text
}

/// What the rows have to say besides.
fn notes(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        for note in &row.notes {
            text += &format!("- {}, {}: {note}\n", row.goal, row.work);
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("\n{text}"),
    }
}

/// `12.3 (11.9 to 14.0)`, or the figure alone when it was measured once.
pub fn show(spread: Spread) -> String {
    match spread.min == spread.max {
        true => number(spread.median),
        false => format!(
            "{} ({} to {})",
            number(spread.median),
            number(spread.min),
            number(spread.max)
        ),
    }
}

/// Three digits that count.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size >= 100.0 || value == value.trunc() && size < 1e9 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}
