//! S4: thousands of connections that only cost, and what they cost those who work: memory of the
//! server's and of the kernel's for each, and the latency of the healthy.

use std::fs;

use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::{Kind, Mix};
use super::super::engine::procs::used;
use super::super::engine::slow::{self, Held, kernel_tcp_kib, most_connections};
use super::super::engine::target::Target;
use super::super::harness::folder_on_disk;
use super::super::harness::server::Snowcached;
use super::super::peers::nginx::Nginx;
use super::super::peers::{OURS, Served, Subject, YARDSTICK, snowcache};
use super::super::report::{Limit, Row};
use super::{Findings, Stage};

const OWN_AT_MOST_KIB: f64 = 16.0;
const KERNEL_AT_MOST_KIB: f64 = 256.0;
const LATENCY_AT_MOST: f64 = 2.0;
const HEALTHY_CONNECTIONS: usize = 16;
const ALONE: &str = "without them";
const KINDS: [(slow::Kind, &str); 3] = [
    (slow::Kind::Heads, "slow heads"),
    (slow::Kind::Readers, "stalled readers"),
    (slow::Kind::Idle, "idle connections"),
];

pub fn measure(stage: &mut Stage) -> Findings {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("snowcached.toml");
    let count = stage.settings.slow_readers.min(most_connections());
    fs::write(&config, "[http]\nmax_connections = 19000\n").expect("a small file");
    let arguments = ["--config", &config.to_string_lossy()];
    let server = Snowcached::start_with(folder_on_disk(), "info", &arguments);
    let pushed = snowcache::push(&server, &stage.corpus.zst(), &stage.corpus.added(0));
    if let Err(flaw) = pushed {
        return Findings::rows([Row::untold("S4", "slow connections", flaw)]);
    }
    let parts = [stage.corpus.added(0)];
    let mut subjects = vec![subject(OURS, server.pid(), &server.url(), &parts, true)];
    let nginx = Nginx::start(&stage.corpus.folder, None).ok();
    if let Some(nginx) = &nginx {
        let url = format!("{}/raw", nginx.url());
        subjects.push(subject(YARDSTICK, nginx.pid(), &url, &parts, false));
    }
    let kinds = KINDS
        .iter()
        .flat_map(|(kind, name)| one(stage, &subjects, *kind, name, count));
    Findings::rows(kinds.collect::<Vec<Row>>())
}

fn subject(name: &str, pid: u32, url: &str, parts: &[Vec<String>], ours: bool) -> Subject {
    let mut packed = Served::read(Target::plain(url), parts);
    if ours {
        packed.generations = packed
            .generations
            .into_iter()
            .map(|all| all.uncompressed())
            .collect();
    }
    Subject {
        name: name.to_owned(),
        pid,
        packed,
        plain: None,
    }
}

fn one(
    stage: &Stage,
    subjects: &[Subject],
    kind: slow::Kind,
    name: &str,
    count: usize,
) -> [Row; 3] {
    let many = format!("{count} {name}");
    let limit = Limit::AtMost(OWN_AT_MOST_KIB);
    let mut own = Row::new(
        "S4",
        format!("{many}: the server's memory"),
        "KiB each",
        limit,
    );
    let limit = Limit::AtMost(KERNEL_AT_MOST_KIB);
    let work = format!("{many}: the kernel's memory, both ends");
    let mut kernel = Row::new("S4", work, "KiB of the kernel's each", limit).label(name);
    let limit = Limit::RatioAtMost(LATENCY_AT_MOST);
    let work = format!("{many}: p99 of healthy narinfos");
    let mut healthy = Row::new("S4", work, "ms", limit).against(ALONE).label(name);
    for subject in subjects {
        let before = (
            used(subject.pid).unwrap_or_default().own_kib,
            kernel_tcp_kib(),
        );
        let alone = p99(stage, subject, &mut healthy);
        let all = &subject.packed.generations[0].items;
        let biggest = all
            .iter()
            .max_by_key(|item| item.nar_size)
            .expect("a corpus");
        let path = match kind {
            slow::Kind::Idle => all[0].narinfo_path(),
            _ => biggest.url.clone(),
        };
        let held = Held::hold(&subject.packed.target, kind, count, &path);
        if held.count < count {
            let why = held.complaint.clone().unwrap_or_default();
            own.notes.push(format!(
                "{}: only {} stand: {why}",
                subject.name, held.count
            ));
        }
        let after = (
            used(subject.pid).unwrap_or_default().own_kib,
            kernel_tcp_kib(),
        );
        let each = |before: u64, after: u64| {
            after.saturating_sub(before) as f64 / held.count.max(1) as f64
        };
        own.add(&subject.name, each(before.0, after.0));
        kernel.add(&subject.name, each(before.1, after.1));
        let among = p99(stage, subject, &mut healthy);
        if let (Some(alone), Some(among)) = (alone, among) {
            match subject.name.as_str() {
                OURS => {
                    healthy.add(ALONE, alone);
                    healthy.add(OURS, among);
                }
                other => healthy
                    .notes
                    .push(format!("{other}: {alone:.2} ms, {among:.2} ms among them")),
            }
        }
    }
    [own, kernel, healthy]
}

fn p99(stage: &Stage, subject: &Subject, row: &mut Row) -> Option<f64> {
    let served = &subject.packed;
    let asks = Mix::only(Kind::NarinfoHit).asks(&served.target, &served.generations[0], 17);
    let plan = Closed::seconds(HEALTHY_CONNECTIONS, stage.settings.seconds, None);
    let tally = closed(&served.target, &asks, plan);
    row.remark(&subject.name, &tally);
    tally.flaw().is_none().then(|| tally.latency_ms(0.99))
}
