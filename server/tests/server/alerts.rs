//! Dashboard and alerts speak of figures that there are, and of chapters of the runbook that are
//! written.

use crate::client::Cache;
use crate::encrypted::Encrypted;
use crate::sample::Sample;
use std::collections::BTreeSet;
use std::path::Path;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// All figures that a server may print: one that has collected and scrubbed, and one with a
/// certificate.
fn figures() -> BTreeSet<String> {
    let cache = Cache::new();
    Sample::tree('a', "x", 100, &[]).push(&cache);
    let admin = std::fs::read_to_string(cache.dir.path().join("admin.token")).unwrap();
    let admin = format!("Bearer {}", admin.trim());
    for url in ["/api/v1/gc", "/api/v1/scrub"] {
        let done = cache.send("POST", url, &[("Authorization", &admin)], b"");
        assert_eq!(done.status, 200, "{}", done.text());
    }
    let told = cache.get("/metrics").text().to_owned() + &Encrypted::with(0).metrics();
    let types = told.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|it| it.split(' ').next().unwrap().to_owned())
        .collect()
}

/// What an expression names.
fn named(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("snowcache_") || word.starts_with("process_"))
}

#[test]
fn dashboard_and_alerts_name_figures_that_there_are() {
    let figures = figures();
    let dashboard: serde_json::Value =
        serde_json::from_str(&file("config/grafana/dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    let mut expressions: Vec<String> = targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect();
    assert!(expressions.len() > 30, "that is no dashboard");
    let alerts = file("config/prometheus/alerts.yaml");
    let lines = alerts.lines().map(str::trim_start);
    let lines = lines.filter(|line| !line.starts_with('#') && !line.starts_with("summary:"));
    expressions.extend(lines.map(str::to_owned));
    let mut used = BTreeSet::new();
    for expression in &expressions {
        for name in named(expression) {
            let family = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(
                figures.contains(family),
                "{name} is printed by nobody: {expression}"
            );
            used.insert(family.to_owned());
        }
    }
    assert!(used.len() > 30, "{used:?}");
}

#[test]
fn every_alert_has_its_chapter_of_the_runbook() {
    each_leads_to_a_chapter("config/prometheus/alerts.yaml", "docs/operating.md");
    each_leads_to_a_chapter("config/prometheus/agent-alerts.yaml", "docs/agent.md");
}

fn each_leads_to_a_chapter(alerts: &str, guide_name: &str) {
    let (alerts, guide) = (file(alerts), file(guide_name));
    let headings = guide.lines().filter_map(|line| line.strip_prefix("### "));
    let anchors: BTreeSet<String> = headings
        .map(|heading| {
            heading
                .to_ascii_lowercase()
                .replace(' ', "-")
                .replace(':', "")
        })
        .collect();
    let mut linked = BTreeSet::new();
    for alert in alerts.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        let runbook = alert
            .lines()
            .find_map(|line| line.trim().strip_prefix("runbook: "));
        let runbook = runbook.unwrap_or_else(|| panic!("{name} has no runbook"));
        let (in_guide, anchor) = runbook.split_once('#').unwrap();
        assert_eq!(in_guide, guide_name, "{name}");
        assert_eq!(anchor, format!("runbook-{}", name.to_ascii_lowercase()));
        assert!(
            anchors.contains(anchor),
            "{name}: no heading makes #{anchor}"
        );
        linked.insert(anchor.to_owned());
    }
    let written = anchors
        .iter()
        .filter(|anchor| anchor.starts_with("runbook-"));
    for chapter in written {
        assert!(linked.contains(chapter), "no alert leads to #{chapter}");
    }
}
