//! S4: thousands of connections that only cost, and what they cost those who work: memory of the
//! server's and of the kernel's for each, and the latency of the healthy.

use std::fs;
use std::thread;
use std::time::Duration;

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
/// Until the last one's buffers are full.
const UNTIL_STILL: Duration = Duration::from_millis(500);
/// Stalled readers that the yardstick is asked to hold: it lets the kernel hold 2.3 MB for each,
/// and TCP may have a tenth of a machine's memory.
const OF_YARDSTICK_AT_MOST: usize = 1000;
const HEALTHY_CONNECTIONS: usize = 16;
const ALONE: &str = "without them";
/// What they do, and of which NARs. What costs the most comes last: memory that a server has had
/// once it may keep, and what follows would look cheaper than it is.
const KINDS: [(slow::Kind, &str, Nars); 4] = [
    (slow::Kind::Idle, "idle connections", Nars::Packed),
    (slow::Kind::Heads, "slow heads", Nars::Packed),
    (
        slow::Kind::Readers,
        "stalled readers of .nar.zst",
        Nars::Packed,
    ),
    (slow::Kind::Readers, "stalled readers of .nar", Nars::Plain),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nars {
    Packed,
    Plain,
}

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
    let served = |url: &str| Served::read(Target::plain(url), &parts);
    let packed = served(&server.url());
    let plain = Served {
        target: packed.target.clone(),
        generations: vec![packed.generations[0].clone().uncompressed()],
    };
    let mut subjects = vec![subject(OURS, server.pid(), packed, plain)];
    let nginx = Nginx::start(&stage.corpus.folder, None).ok();
    if let Some(nginx) = &nginx {
        let [packed, plain] = ["zst", "raw"].map(|way| served(&format!("{}/{way}", nginx.url())));
        subjects.push(subject(YARDSTICK, nginx.pid(), packed, plain));
    }
    let kinds = KINDS
        .iter()
        .flat_map(|kind| one(stage, &subjects, *kind, count));
    Findings::rows(kinds.collect::<Vec<Row>>())
}

fn subject(name: &str, pid: u32, packed: Served, plain: Served) -> Subject {
    Subject {
        name: name.to_owned(),
        pid,
        absent: packed.target.clone(),
        packed,
        plain: Some(plain),
    }
}

fn rows(name: &str, count: usize) -> [Row; 3] {
    let many = format!("{count} {name}");
    let limit = Limit::AtMost(OWN_AT_MOST_KIB);
    let own = Row::new(
        "S4",
        format!("{many}: the server's memory"),
        "KiB each",
        limit,
    )
    .label(name);
    let limit = Limit::AtMost(KERNEL_AT_MOST_KIB);
    let work = format!("{many}: the kernel's memory, both ends");
    let kernel = Row::new("S4", work, "KiB of the kernel's each", limit).label(name);
    let limit = Limit::RatioAtMost(LATENCY_AT_MOST);
    let work = format!("{many}: p99 of healthy narinfos");
    let healthy = Row::new("S4", work, "ms", limit).against(ALONE).label(name);
    [own, kernel, healthy]
}

fn one(
    stage: &Stage,
    subjects: &[Subject],
    (kind, name, nars): (slow::Kind, &str, Nars),
    count: usize,
) -> [Row; 3] {
    let [mut own, mut kernel, mut healthy] = rows(name, count);
    for subject in subjects {
        let unbounded = subject.name == YARDSTICK && kind == slow::Kind::Readers;
        if unbounded && count > OF_YARDSTICK_AT_MOST {
            let most = OF_YARDSTICK_AT_MOST;
            own.notes
                .push(format!("{YARDSTICK}: not asked for more than {most}"));
            continue;
        }
        let alone = p99(stage, subject, &mut healthy);
        let before = memory(subject);
        let served = match (&subject.plain, nars) {
            (Some(plain), Nars::Plain) => plain,
            _ => &subject.packed,
        };
        let all = &served.generations[0].items;
        let biggest = all
            .iter()
            .max_by_key(|item| item.nar_size)
            .expect("a corpus");
        let path = match kind {
            slow::Kind::Idle => all[0].narinfo_path(),
            _ => biggest.url.clone(),
        };
        let held = Held::hold(&served.target, kind, count, &path);
        thread::sleep(UNTIL_STILL);
        if held.count < count {
            let why = held.complaint.clone().unwrap_or_default();
            own.notes.push(format!(
                "{}: only {} stand: {why}",
                subject.name, held.count
            ));
        }
        let after = memory(subject);
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

/// The server's own and the kernel's, in KiB.
fn memory(subject: &Subject) -> (u64, u64) {
    let own = used(subject.pid).unwrap_or_default().own_kib;
    (own, kernel_tcp_kib())
}

fn p99(stage: &Stage, subject: &Subject, row: &mut Row) -> Option<f64> {
    let served = &subject.packed;
    let asks = Mix::only(Kind::NarinfoHit).asks(&served.target, &served.generations[0], 17);
    let plan = Closed::seconds(HEALTHY_CONNECTIONS, stage.settings.seconds, None);
    let tally = closed(&served.target, &asks, plan);
    row.remark(&subject.name, &tally);
    tally.flaw().is_none().then(|| tally.latency_ms(0.99))
}
