//! P3 where the kernel holds nothing of the files: every NAR of a generation once, from the disk.
//!
//! Ours checks what comes from the disk against its checksums before it sends it; nginx does not,
//! so that the ratio is told and no goal.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::engine::closed::{Closed, closed};
use super::super::engine::mix::every_nar;
use super::super::peers::{OURS, Subject, YARDSTICK};
use super::super::report::{Limit, Row};
use super::nars::{CONNECTIONS, OF_GENERATION};
use super::{Findings, Stage, interleaved};

pub fn measure(stage: &mut Stage) -> Findings {
    let row = |generation: usize, unit| {
        let (work, _) = OF_GENERATION[generation];
        let mut row = Row::new("P3", format!("{work}, from the disk"), unit, Limit::Told);
        row.plot = false;
        row
    };
    let mut rows = [0, 1].map(|generation| {
        [
            row(generation, "CPU s per NAR GB"),
            row(generation, "NAR MB/s"),
        ]
    });
    interleaved(&stage.subjects, stage.settings.rounds, |subject| {
        let Some(files) = files(stage, subject) else {
            return;
        };
        for (generation, [cost, rate]) in rows.iter_mut().enumerate() {
            let catalog = &subject.packed.generations[generation];
            let asks = every_nar(&subject.packed.target, catalog);
            if asks.is_empty() {
                continue;
            }
            forget(&files);
            let once = Closed::once(CONNECTIONS, &asks, Some(subject.pid));
            let tally = closed(&subject.packed.target, &asks, once);
            cost.remark(&subject.name, &tally);
            let server = tally.server.filter(|_| tally.flaw().is_none());
            if let Some(server) = server {
                let bytes = catalog.nar_bytes() as f64;
                cost.add(&subject.name, server.cpu_seconds / (bytes / 1e9));
                rate.add(&subject.name, bytes / 1e6 / tally.seconds);
            }
        }
    });
    Findings::rows(rows.into_iter().flatten())
}

/// Where a server has its NARs, of those whose files are known.
fn files(stage: &Stage, subject: &Subject) -> Option<PathBuf> {
    match subject.name.as_str() {
        OURS => Some(stage.ours.depot()),
        YARDSTICK => Some(stage.corpus.zst()),
        _ => None,
    }
}

/// Has the kernel forget what it holds of these files.
pub fn forget(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            forget(&path);
        } else if let Ok(file) = fs::File::open(&path) {
            file.sync_all().ok();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).ok();
        }
    }
}
