//! On what it was measured: without it no figure means anything.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::peers::nginx;

/// The machine and what ran on it.
#[derive(Debug, Clone)]
pub struct Machine {
    pub date: String,
    pub processor: String,
    pub cores: usize,
    pub memory: String,
    pub kernel: String,
    pub system: String,
    pub nginx: String,
    pub nix: String,
    pub commit: String,
    /// What the machine did before: 1, 5 and 15 minutes.
    pub load_before: String,
}

impl Machine {
    pub fn now() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once([':', '=']));
            value
                .map_or("unknown", |(_, value)| value)
                .trim()
                .trim_matches('"')
                .to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory: f64 = memory.trim_end_matches(" kB").parse().unwrap_or(0.0);
        Machine {
            date: printed("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            processor: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory: format!("{:.0} GiB", memory / 1048576.0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            system: field(&read("/etc/os-release"), "PRETTY_NAME"),
            nginx: nginx::version().unwrap_or_else(|| "not installed".to_owned()),
            nix: printed("nix", &["--version"]),
            commit: printed("git", &["rev-parse", "--short=12", "HEAD"]),
            load_before: load(),
        }
    }

    /// (what, value), in the order in which they are shown.
    pub fn facts(&self) -> [(&'static str, String); 10] {
        [
            ("date", self.date.clone()),
            ("processor", self.processor.clone()),
            ("cores", self.cores.to_string()),
            ("memory", self.memory.clone()),
            ("kernel", self.kernel.clone()),
            ("system", self.system.clone()),
            ("nginx", self.nginx.clone()),
            ("nix", self.nix.clone()),
            ("commit", self.commit.clone()),
            ("load before", self.load_before.clone()),
        ]
    }
}

/// What the machine does now: 1, 5 and 15 minutes.
pub fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// A name for the folder of a run that sorts by time: seconds since 1970 as a date.
pub fn stamp() -> String {
    let stamp = printed("date", &["-u", "+%Y-%m-%dT%H%M%S"]);
    match stamp.as_str() {
        "unknown" => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            now.map_or(0, |now| now.as_secs()).to_string()
        }
        _ => stamp,
    }
}

fn printed(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().ok();
    let output = output.filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".to_owned())
}
