//! What a process and its children use: CPU time, memory, bytes of disk, from /proc.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// What a process and all its children have used; or, as a difference, used meanwhile.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// User and system time, in seconds; the kernel tells it in steps of 10 ms.
    pub cpu_seconds: f64,
    /// All that is resident now, shared pages of children counted for each.
    pub resident_kib: u64,
    /// Its own memory now: RssAnon.
    pub own_kib: u64,
    /// Read from and written to disks.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl Used {
    /// CPU and bytes since `before`; memory as it is now.
    pub fn since(&self, before: &Used) -> Used {
        Used {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            read_bytes: self.read_bytes.saturating_sub(before.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
            ..*self
        }
    }
}

/// What `pid` and its children have used; nothing when it is gone.
pub fn used(pid: u32) -> Option<Used> {
    let mut total = Used::default();
    for pid in tree(pid)? {
        // A child may end between the two looks; its parent then has its time.
        let Some(cpu) = cpu_seconds(pid) else {
            continue;
        };
        total.cpu_seconds += cpu;
        let status = read(pid, "status").unwrap_or_default();
        total.resident_kib += figure(&status, "VmRSS:");
        total.own_kib += figure(&status, "RssAnon:");
        let io = read(pid, "io").unwrap_or_default();
        total.read_bytes += figure(&io, "read_bytes:");
        total.written_bytes += figure(&io, "write_bytes:");
    }
    Some(total)
}

/// CPU seconds of this process.
pub fn own_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    times(&stat).map_or(0.0, |times| times[0] + times[1])
}

/// CPU seconds of children of this process that have ended and been waited for.
pub fn ended_children_cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    times(&stat).map_or(0.0, |times| times[2] + times[3])
}

/// Of the process and of its children that have ended.
fn cpu_seconds(pid: u32) -> Option<f64> {
    Some(times(&read(pid, "stat")?)?.iter().sum())
}

/// utime, stime, cutime, cstime: fields 14 to 17 of proc(5)'s stat, in seconds.
fn times(stat: &str) -> Option<[f64; 4]> {
    let ticks = rustix::param::clock_ticks_per_second() as f64;
    let after_the_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_the_name.split_whitespace().skip(11);
    let mut next = || Some(fields.next()?.parse::<f64>().ok()? / ticks);
    Some([next()?, next()?, next()?, next()?])
}

/// The process and all below it.
fn tree(root: u32) -> Option<Vec<u32>> {
    let mut below: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Some(stat) = read(pid, "stat") else {
            continue;
        };
        let fields = &stat[stat.rfind(')').unwrap_or(0)..];
        let parent = fields
            .split_whitespace()
            .nth(2)
            .and_then(|text| text.parse().ok());
        below.entry(parent.unwrap_or(0)).or_default().push(pid);
    }
    read(root, "stat")?;
    let mut tree = vec![root];
    let mut at = 0;
    while let Some(pid) = tree.get(at) {
        tree.extend(below.remove(pid).unwrap_or_default());
        at += 1;
    }
    Some(tree)
}

fn read(pid: u32, what: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/{what}")).ok()
}

fn figure(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    number.unwrap_or(0)
}

/// Watches the memory of a process, five times a second; `most` says the highest it saw.
pub struct Watch {
    over: Arc<AtomicBool>,
    watcher: thread::JoinHandle<(u64, u64)>,
}

impl Watch {
    pub fn begin(pid: u32) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&over);
        let watcher = thread::spawn(move || {
            let (mut own, mut resident) = (0, 0);
            while !end.load(Ordering::Relaxed) {
                if let Some(used) = used(pid) {
                    own = own.max(used.own_kib);
                    resident = resident.max(used.resident_kib);
                }
                thread::sleep(Duration::from_millis(200));
            }
            (own, resident)
        });
        Watch { over, watcher }
    }

    /// (RssAnon, VmRSS) in KiB.
    pub fn most(self) -> (u64, u64) {
        self.over.store(true, Ordering::Relaxed);
        self.watcher.join().expect("the watcher")
    }
}
