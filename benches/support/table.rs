//! The whole run: everything is set up, measured row by row, written down.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::harness;
use super::report::machine::{Machine, load, stamp};
use super::report::{Report, json, markdown, plots};
use super::rows::{GROUPS, Stage};
use super::settings::Settings;

/// Measures what the settings want; where the report lies, and its Markdown.
pub fn run(settings: Settings) -> (PathBuf, String) {
    let begin = Instant::now();
    let machine = Machine::now();
    let output = settings.output.clone().unwrap_or_else(|| {
        let target = std::env::var_os("CARGO_TARGET_DIR");
        let target = target.map_or(harness::root().join("target"), PathBuf::from);
        target.join("bench").join(stamp())
    });
    let mut stage = Stage::set(settings);
    let mut report = Report {
        machine,
        corpus: stage.corpus.what.clone(),
        what: what(&stage),
        rows: Vec::new(),
        curves: Vec::new(),
    };
    for (goals, measure) in GROUPS {
        if goals.iter().any(|goal| stage.settings.wants(goal)) {
            let seconds = begin.elapsed().as_secs();
            eprintln!(
                "{}:{:02} measuring {}",
                seconds / 60,
                seconds % 60,
                goals.join(", ")
            );
            let findings = measure(&mut stage);
            report.rows.extend(findings.rows);
            report.curves.extend(findings.curves);
        }
    }
    report.rows.sort_by_key(|row| place(&row.goal));
    report.rows.append(&mut stage.remarks);
    let minutes = begin.elapsed().as_secs_f64() / 60.0;
    report.what.push(format!(
        "measured in {minutes:.1} minutes; load afterwards: {}",
        load()
    ));
    let text = write(&output, &report);
    (output, text)
}

/// P2 before P10, and S4 after all of P.
fn place(goal: &str) -> (String, u32) {
    let (letter, number) = goal.split_at(1);
    (letter.to_owned(), number.parse().unwrap_or(0))
}

fn what(stage: &Stage) -> Vec<String> {
    let settings = &stage.settings;
    let mut what =
        vec![
        format!(
            "{} rounds, every server in turn; {} s a measurement{}",
            settings.rounds,
            settings.seconds,
            if settings.quick { "; QUICK: only a first look" } else { "" }
        ),
        "the load generator shares the machine with the servers: CPU time and ratios count more \
         than rates"
            .to_owned(),
    ];
    if stage.nginx.is_some() {
        what.push("nginx: sendfile, a worker for each core, no access log".to_owned());
    }
    what
}

fn write(folder: &PathBuf, report: &Report) -> String {
    let written = fs::create_dir_all(folder);
    written.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let save = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    };
    let drawn = plots::plots(report);
    for (file, _, svg) in &drawn {
        save(file, svg);
    }
    let named: Vec<(String, String)> = drawn
        .into_iter()
        .map(|(file, title, _)| (file, title))
        .collect();
    let text = markdown::markdown(report, &named);
    save("report.md", &text);
    save("report.json", &format!("{:#}\n", json::json(report)));
    text
}
