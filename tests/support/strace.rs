//! The faults of a disk, by `strace -e inject`: one call of the server's on its data folder fails
//! as the kernel would fail it, or is the last thing that the server ever tried.
//!
//! strace counts calls for each thread by itself. Points are therefore taken within a *stage*
//! whose calls of one kind come from one thread, and within an *area* of the data folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Calls that change a disk, and those that open files to do so.
pub const CALLS: [&str; 16] = [
    "write",
    "pwrite64",
    "writev",
    "pwritev",
    "fsync",
    "fdatasync",
    "ftruncate",
    "fallocate",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "open",
    "openat",
];

/// Parts of the data folder whose files belong to one thing.
pub const AREAS: [&str; 3] = ["segments", "index", "rest"];

/// What happens at a call.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Sigkill,
    /// ENOSPC
    Full,
    /// EIO
    Broken,
}

pub const KINDS: [Kind; 3] = [Kind::Sigkill, Kind::Full, Kind::Broken];

/// One point: the `nth` call of a kind, in one area.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub area: &'static str,
    pub call: &'static str,
    pub kind: Kind,
    pub nth: u32,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fault {
            area,
            call,
            kind,
            nth,
        } = self;
        write!(f, "{kind:?} at {call} #{nth} in {area}")
    }
}

/// What a stage without faults did: how often each call came from one thread at most, and on
/// which paths.
#[derive(Default, Clone)]
pub struct Counted {
    pub calls: BTreeMap<(&'static str, &'static str), u32>,
    paths: BTreeMap<&'static str, BTreeSet<PathBuf>>,
}

impl Counted {
    /// From the log of [`count`].
    pub fn read(log: &Path, data: &Path) -> Counted {
        let (mut counted, mut of_thread) = (Counted::default(), BTreeMap::new());
        let text = fs::read_to_string(log).expect("strace wrote its log");
        let data = data.to_str().expect("a path in UTF-8");
        for line in text.lines() {
            let Some((thread, rest)) = line.split_once(' ') else {
                continue;
            };
            let rest = rest.trim_start();
            let Some(&call) = CALLS.iter().find(|call| {
                rest.strip_prefix(**call)
                    .is_some_and(|rest| rest.starts_with('('))
            }) else {
                continue;
            };
            let paths = paths_below(rest, data);
            let Some(first) = paths.first() else { continue };
            let area = area_of(first, data);
            let of_area = counted.paths.entry(area).or_default();
            of_area.extend(paths.iter().map(PathBuf::from));
            let times = of_thread
                .entry((area, call, thread.to_owned()))
                .or_insert(0);
            *times += 1;
            let most = counted.calls.entry((area, call)).or_insert(0);
            *most = (*most).max(*times);
        }
        counted
    }

    /// Every point of the stage.
    pub fn points(&self) -> Vec<Fault> {
        let mut points = Vec::new();
        for (&(area, call), &most) in &self.calls {
            for kind in KINDS {
                points.extend((1..=most).map(|nth| Fault {
                    area,
                    call,
                    kind,
                    nth,
                }));
            }
        }
        points
    }

    /// strace's arguments that bring `fault` about, and log to `log`. What the counted server's
    /// data folder was called must be what this one's is.
    pub fn inject(&self, fault: &Fault, log: &Path) -> Vec<String> {
        let what = match fault.kind {
            Kind::Sigkill => "signal=SIGKILL",
            Kind::Full => "error=ENOSPC",
            Kind::Broken => "error=EIO",
        };
        let mut arguments = vec![
            "-e".to_owned(),
            format!("trace={}", fault.call),
            "-e".to_owned(),
            format!("inject={}:{what}:when={}", fault.call, fault.nth),
        ];
        for path in &self.paths[fault.area] {
            arguments.extend(["-P".to_owned(), path.display().to_string()]);
        }
        arguments.extend(["-o".to_owned(), log.display().to_string()]);
        arguments
    }
}

/// strace's arguments that only look.
pub fn count(log: &Path) -> Vec<String> {
    let calls = CALLS.join(",");
    [
        "-y",
        "-e",
        &format!("trace={calls}"),
        "-o",
        &log.display().to_string(),
    ]
    .map(str::to_owned)
    .to_vec()
}

/// What stands before the server's command when it is traced from its start. (Not with
/// --seccomp-bpf, under which strace 6.1 sends no signal but the first.)
pub fn wrapper(arguments: Vec<String>) -> Vec<String> {
    let strace = ["strace", "-f", "-qq"].map(str::to_owned);
    strace.into_iter().chain(arguments).collect()
}

/// Whether the fault of this log came about: a call failed that would not have.
pub fn was_injected(log: &Path) -> bool {
    fs::read_to_string(log).is_ok_and(|text| text.contains("(INJECTED)"))
}

/// Every path of a call that lies in the data folder, quoted or behind a descriptor.
fn paths_below(call: &str, data: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in call.match_indices(data) {
        let opening = call[..at].chars().next_back();
        let closing = match opening {
            Some('"') => '"',
            Some('<') => '>',
            _ => continue,
        };
        if let Some(end) = call[at..].find(closing) {
            found.push(call[at..at + end].to_owned());
        }
    }
    found
}

fn area_of(path: &str, data: &str) -> &'static str {
    let below = path[data.len()..].trim_start_matches('/');
    let area = |name: &str| below.starts_with(&format!("depot/{name}"));
    AREAS.into_iter().find(|name| area(name)).unwrap_or("rest")
}

/// A strace that looks at a server that runs already.
pub struct Attached(Child);

impl Attached {
    pub fn to(pid: u32, arguments: &[String]) -> Attached {
        let mut child = Command::new("strace")
            .args(["-f", "-p", &pid.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace runs");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut all = String::new();
        while !all.contains(" attached") {
            let read = said.read_line(&mut all).expect("strace says what it does");
            assert!(read > 0, "strace does not attach: {all}");
        }
        // Whatever else it says must not block it.
        thread::spawn(move || said.lines().map_while(Result::ok).for_each(drop));
        Attached(child)
    }

    /// Lets the server go, if it is still there. (A strace whose tracee died may wait for ever
    /// for one of its threads: then it is killed, which lets go as well.)
    pub fn detach(mut self) {
        Command::new("kill")
            .args(["-INT", &self.0.id().to_string()])
            .stderr(Stdio::null())
            .status()
            .expect("kill runs");
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(2) {
            if self.0.try_wait().expect("our own child").is_some() {
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
