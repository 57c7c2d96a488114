//! Which plots a report has.

use super::super::peers::{OURS, YARDSTICK};
use super::svg::{BarSeries, Bars, COLOURS, LineSeries, Lines};
use super::{Report, Row, Spread};

/// (file name, title, SVG) of each.
pub fn plots(report: &Report) -> Vec<(String, String, String)> {
    let mut plots = Vec::new();
    for (file, title, goals, unit, axis) in BARS {
        let fits = |row: &&Row| goals.contains(&row.goal.as_str()) && row.unit == unit && row.plot;
        let rows: Vec<&Row> = report.rows.iter().filter(fits).collect();
        let told: Vec<&Row> = rows
            .into_iter()
            .filter(|row| !row.series.is_empty())
            .collect();
        if !told.is_empty() {
            plots.push((file.to_owned(), title.to_owned(), bars(title, axis, &told)));
        }
    }
    plots.extend(curves(report));
    plots
}

/// (file, title, goals, unit, what the value axis says)
const BARS: [(&str, &str, &[&str], &str, &str); 15] = [
    (
        "narinfo-cpu.svg",
        "One narinfo, server's CPU",
        &["P1"],
        "CPU us",
        "CPU microseconds a request",
    ),
    (
        "narinfo-rate.svg",
        "narinfo hits a second, closed loop",
        &["P2"],
        "1/s",
        "requests a second",
    ),
    (
        "narinfo-p99.svg",
        "narinfo hits, 99th percentile, closed loop",
        &["P2"],
        "ms",
        "milliseconds",
    ),
    (
        "nar-cpu.svg",
        "NARs, server's CPU",
        &["P3", "P4"],
        "CPU s per NAR GB",
        "CPU seconds for each GB of NARs",
    ),
    (
        "nar-small.svg",
        "Small NARs a second, closed loop",
        &["P4"],
        "1/s",
        "requests a second",
    ),
    (
        "closure-wall.svg",
        "A closure fetched by stock nix",
        &["P5"],
        "s",
        "seconds",
    ),
    (
        "push-wall.svg",
        "A closure pushed by stock nix",
        &["P10"],
        "s",
        "seconds",
    ),
    (
        "storage.svg",
        "On disk, against whole NARs at zstd -3",
        &["P12"],
        "MB",
        "MB",
    ),
    (
        "memory.svg",
        "The server's own memory (RssAnon)",
        &["P13"],
        "MB",
        "MB",
    ),
    (
        "slow-own.svg",
        "Connections that only cost: the server's memory",
        &["S4"],
        "KiB each",
        "KiB for each connection",
    ),
    (
        "slow-kernel.svg",
        "Connections that only cost: the kernel's memory, both ends",
        &["S4"],
        "KiB of the kernel's each",
        "KiB for each connection",
    ),
    (
        "slow-p99.svg",
        "Healthy narinfos among connections that only cost, p99",
        &["S4"],
        "ms",
        "milliseconds",
    ),
    (
        "restore.svg",
        "A generation restored, caches cold",
        &["P14"],
        "NAR MB/s",
        "MB of NARs a second",
    ),
    (
        "scale.svg",
        "One narinfo, by size of the cache",
        &["P14"],
        "CPU us",
        "CPU microseconds a request",
    ),
    (
        "tls-cpu.svg",
        "One narinfo over TLS",
        &["P17"],
        "CPU us",
        "CPU microseconds a request",
    ),
];

fn bars(title: &str, axis: &str, rows: &[&Row]) -> String {
    let mut subjects: Vec<&str> = Vec::new();
    for row in rows {
        for series in &row.series {
            if !subjects.contains(&series.subject.as_str()) {
                subjects.push(&series.subject);
            }
        }
    }
    subjects.sort_by_key(|subject| match *subject {
        OURS => (0, *subject),
        YARDSTICK => (1, *subject),
        other => (2, other),
    });
    let values = |subject: &str| {
        let spreads = rows.iter().map(|row| Spread::of(row.samples(subject)));
        spreads
            .map(|spread| spread.map(|s| (s.min, s.median, s.max)))
            .collect()
    };
    let bars = Bars {
        title: title.to_owned(),
        axis: axis.to_owned(),
        groups: rows.iter().map(|row| row.plotted().to_owned()).collect(),
        series: subjects
            .iter()
            .map(|subject| BarSeries {
                name: (*subject).to_owned(),
                colour: colour(subject, &subjects),
                values: values(subject),
            })
            .collect(),
    };
    bars.draw()
}

/// One plot for each title: shares of the answers on an axis where each step is a nine more.
fn curves(report: &Report) -> Vec<(String, String, String)> {
    let mut titles: Vec<&str> = report
        .curves
        .iter()
        .map(|curve| curve.title.as_str())
        .collect();
    titles.dedup();
    let shares = [0.0, 0.9, 0.99, 0.999, 0.9999];
    let subjects: Vec<&str> = report
        .curves
        .iter()
        .map(|curve| curve.subject.as_str())
        .collect();
    let draw = |(number, title): (usize, &&str)| {
        let curves = report.curves.iter().filter(|curve| curve.title == **title);
        let lines = Lines {
            title: (*title).to_owned(),
            x_axis: "share of the answers that were faster, %".to_owned(),
            y_axis: "latency from when it was due, ms".to_owned(),
            x_ticks: shares
                .map(|share| (nines(share), format!("{}", (share * 1e6_f64).round() / 1e4)))
                .to_vec(),
            series: curves
                .map(|curve| LineSeries {
                    colour: colour(&curve.subject, &subjects),
                    name: curve.subject.clone(),
                    points: curve
                        .points
                        .iter()
                        .map(|&(share, ms)| (nines(share), ms, ms, ms))
                        .collect(),
                })
                .collect(),
            logarithmic: true,
        };
        (
            format!("latency-{}.svg", number + 1),
            (*title).to_owned(),
            lines.draw(),
        )
    };
    titles.iter().enumerate().map(draw).collect()
}

/// Ours and nginx have the same ones everywhere, and nobody else has them.
fn colour(subject: &str, all: &[&str]) -> &'static str {
    let others = all.iter().filter(|name| ![OURS, YARDSTICK].contains(name));
    let place = match subject {
        OURS => 0,
        YARDSTICK => 1,
        other => 2 + others.take_while(|name| **name != other).count(),
    };
    COLOURS[place % COLOURS.len()]
}

fn nines(share: f64) -> f64 {
    -(1.0 - share).max(1e-6).log10()
}
