//! A machine of its own with a real systemd as its first process, which shares this one's kernel
//! and network; gone when it goes out of scope.
//!
//! It knows the units that a test gives it and no others. Its root is this machine's under a layer
//! in memory, so that nothing it writes stays.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
/// What units of a usual machine order themselves by.
const TARGETS: [&str; 6] = [
    "sysinit",
    "basic",
    "sockets",
    "multi-user",
    "shutdown",
    "test",
];

/// A booted machine.
pub struct Machine {
    process: Child,
    /// systemd, as this machine numbers it.
    init: u32,
    slice: PathBuf,
    units: tempfile::TempDir,
}

impl Machine {
    /// With these units: (name below the folder of units, text).
    pub fn boot(units: &[(&str, String)]) -> Machine {
        let folder = super::folder_on_disk();
        // systemd's services run as users that must see what they log to and run.
        set_mode(folder.path(), 0o755);
        for target in TARGETS {
            let text = "[Unit]\nDefaultDependencies=no\n".to_owned();
            write(&folder.path().join(format!("{target}.target")), &text);
        }
        for (name, text) in units {
            write(&folder.path().join(name), text);
        }
        let name = folder.path().file_name().expect("a name");
        let slice = cgroup2().join(name);
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(super::root().join("tests/systemd/boot.sh"))
            .arg(&slice)
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("setpriv (util-linux) runs");
        let booted = wait_for(|| {
            let dead = process.try_wait().expect("our own child");
            assert!(dead.is_none(), "it did not boot: {dead:?}");
            first_child(process.id()).filter(|init| program(*init) == "systemd")
        });
        let init = booted.expect("systemd is the one child of unshare");
        let machine = Machine {
            process,
            init,
            slice,
            units: folder,
        };
        let running = || machine.systemctl(&["is-system-running"]).stdout == b"running\n";
        wait_for(|| running().then_some(())).expect("systemd comes up");
        machine
    }

    /// Runs a program inside.
    pub fn run(&self, command: &[&str]) -> Output {
        Command::new("nsenter")
            .args(["--target", &self.init.to_string(), "--all", "--"])
            .args(command)
            .stdin(Stdio::null())
            .output()
            .expect("nsenter (util-linux) runs")
    }

    pub fn systemctl(&self, arguments: &[&str]) -> Output {
        self.run(&[&["systemctl"], arguments].concat())
    }

    /// The same, and it must go well.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) {
        let output = self.systemctl(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let log = fs::read_to_string(self.units().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{arguments:?}: {said}\n{log}");
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        let output = self.systemctl(&["show", "--value", "--property", property, unit]);
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The main process of a unit, as this machine numbers it.
    pub fn main_pid(&self, unit: &str) -> Option<u32> {
        let inside = self.show(unit, "MainPID");
        let procs = self.slice.join("system.slice").join(unit);
        let procs = fs::read_to_string(procs.join("cgroup.procs")).unwrap_or_default();
        let mut pids = procs.lines().filter_map(|line| line.parse().ok());
        pids.find(|pid| status(*pid, "NSpid").split_whitespace().last() == Some(&inside))
    }

    /// The folder with the units, the same inside as /run/units.
    pub fn units(&self) -> &Path {
        self.units.path()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // unshare takes its child with it, and with its first process all of the machine goes.
        self.process.kill().ok();
        self.process.wait().ok();
        let gone = wait_for(|| {
            let mut folders = Vec::new();
            folders_below(&self.slice, &mut folders);
            let removed = folders.iter().all(|folder| fs::remove_dir(folder).is_ok());
            removed.then_some(())
        });
        if gone.is_none() && !thread::panicking() {
            panic!("{} is still in use", self.slice.display());
        }
    }
}

/// A line of /proc/PID/status.
pub fn status(pid: u32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(name, _)| *name == field);
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

/// Looks until there is something, for a while.
pub fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(found) = look() {
            return Some(found);
        }
        thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Where cgroup2 is: a machine of its own wants a part of it of its own.
fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("a /proc");
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let found = mounts.find_map(|mut words| {
        let path = words.nth(1)?;
        (words.next() == Some("cgroup2")).then(|| PathBuf::from(path))
    });
    found.expect("cgroup2 is mounted somewhere")
}

fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn program(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

/// The deepest first.
fn folders_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            folders_below(&entry.path(), found);
        }
    }
    if folder.exists() {
        found.push(folder.to_owned());
    }
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder of units");
    fs::write(path, text).expect("a unit");
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own folder");
}
