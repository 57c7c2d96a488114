//! The queue's spool on a disk that fails: the power is cut while hooks queue, and each call of
//! theirs that changes the disk is their last, or fails. What a hook acknowledged is queued; what
//! was queued or put aside is never lost; whatever is left, the next command can work with.
//!
//! `SNOWCACHE_CUTS` asks for more power cuts, `SNOWCACHE_LONG=1` for every fault at every call.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::disk::{self, Disk};
use support::oracle::{self, setting};
use support::random::Random;
use support::server::binary;

/// Of each filesystem.
const CUTS: u64 = 3;
const HOOKS: u64 = 4;
const DISK_MIB: u64 = 512;
/// Calls that change a disk, or open what is to be changed.
const CALLS: [&str; 12] = [
    "openat",
    "write",
    "fsync",
    "fdatasync",
    "mkdir",
    "rename",
    "renameat",
    "renameat2",
    "symlink",
    "symlinkat",
    "unlink",
    "unlinkat",
];
const FAULTS: [&str; 3] = ["signal=SIGKILL", "error=ENOSPC", "error=EIO"];

/// A spool, and Nix's state beside it.
struct Place {
    folder: PathBuf,
}

impl Place {
    fn below(folder: &Path) -> Place {
        let folder = folder.join("place");
        fs::create_dir_all(folder.join("nix/gcroots/auto")).expect("a folder");
        Place { folder }
    }

    fn spool(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// `snowcache` with these arguments, behind these words.
    fn command(&self, before: &[String], arguments: &[&str]) -> Command {
        let program = binary("snowcache").to_string_lossy().into_owned();
        let mut words = before.to_vec();
        words.push(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments);
        command.env("SNOWCACHE_SPOOL", self.spool());
        command.env("NIX_STATE_DIR", self.folder.join("nix"));
        // No daemon of this machine is to be asked.
        command.env("NIX_DAEMON_SOCKET_PATH", self.folder.join("no-socket"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(&[], arguments).output();
        output.expect("snowcache runs")
    }

    fn names(&self, below: &str) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.spool().join(below)) else {
            return BTreeSet::new();
        };
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.into_string().expect("ASCII"));
        names.filter(|name| !name.starts_with('.')).collect()
    }

    /// What waits and what is put aside, as the disk has it; each link leads where its name says.
    fn state(&self) -> State {
        let (queued, failed) = (self.names("queued"), self.names("failed"));
        for name in &queued {
            let target = fs::read_link(self.spool().join("queued").join(name));
            let target = target.expect("a link");
            assert_eq!(target, Path::new("/nix/store").join(name));
        }
        State { queued, failed }
    }

    /// It can be looked at, and something else can be queued in it.
    fn assert_usable(&self, number: u64) {
        let status = self.run(&["queue", "status", "--json"]);
        assert!(status.status.success(), "{status:?}");
        let other = path(number);
        let hook = self.run(&["hook", "--strict", &other]);
        assert!(hook.status.success(), "{hook:?}");
        assert!(self.state().queued.contains(name(&other)));
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    queued: BTreeSet<String>,
    failed: BTreeSet<String>,
}

/// A store path that need not be there.
fn path(number: u64) -> String {
    let mut random = Random::seeded(number);
    let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
    let hash = (0..32).map(|_| char::from(alphabet[random.below(32) as usize]));
    format!("/nix/store/{}-path-{number}", hash.collect::<String>())
}

fn name(path: &str) -> &str {
    &path["/nix/store/".len()..]
}

#[test]
fn a_power_cut_loses_nothing_that_a_hook_acknowledged() {
    if !disk::can_be_had() {
        return;
    }
    let mut random = Random::announced("power cuts of the spool");
    for kind in ["ext4", "xfs"] {
        let (mut acknowledged, mut number) = (BTreeSet::new(), 0);
        let disk = Disk::of(kind, DISK_MIB);
        for _ in 0..setting("SNOWCACHE_CUTS", CUTS) {
            number += 1_000_000;
            let place = Place::below(&disk.path());
            acknowledged.extend(hooks_until_a_cut(&place, &disk, number, &mut random));
            disk.unmount();
            disk.mount();
            let queued = place.state().queued;
            let lost: Vec<_> = acknowledged.difference(&queued).collect();
            assert!(lost.is_empty(), "{kind}: lost {lost:?}");
            place.assert_usable(number - 1);
        }
        println!("{kind}: {} acknowledged, none lost", acknowledged.len());
        assert!(acknowledged.len() > 20, "hardly a hook came through");
    }
}

/// Which paths were acknowledged before the cut.
fn hooks_until_a_cut(place: &Place, disk: &Disk, number: u64, random: &mut Random) -> Vec<String> {
    let (over, acknowledged) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let cut = thread::scope(|scope| {
        for hook in 0..HOOKS {
            let (over, acknowledged) = (&over, &acknowledged);
            scope.spawn(move || {
                let mut next = number + hook * 100_000;
                while !over.load(Ordering::Relaxed) {
                    let path = path(next);
                    next += 1;
                    if place.run(&["hook", "--strict", &path]).status.success() {
                        let told = (Instant::now(), name(&path).to_owned());
                        acknowledged.lock().expect("no poison").push(told);
                    }
                }
            });
        }
        let switch = disk.switch();
        thread::sleep(Duration::from_millis(100 + random.below(500)));
        let cut = switch.cut();
        over.store(true, Ordering::Relaxed);
        cut
    });
    let acknowledged = acknowledged.into_inner().expect("no poison").into_iter();
    let before = acknowledged.filter(|(at, _)| *at < cut);
    before.map(|(_, name)| name).collect()
}

/// What somebody does to a spool, and what it may come to.
struct Stage {
    what: &'static str,
    arguments: fn(&str) -> Vec<String>,
    /// Whether the path is put aside before.
    from_failed: bool,
    /// What holds when it ended well.
    done: fn(&State, &str) -> bool,
    /// What holds however it ended.
    always: fn(&State, &str) -> bool,
}

fn words(arguments: &[&str]) -> Vec<String> {
    arguments.iter().map(|&it| it.to_owned()).collect()
}

const STAGES: [Stage; 4] = [
    Stage {
        what: "a first hook",
        arguments: |path| words(&["hook", "--strict", path]),
        from_failed: false,
        done: |state, name| state.queued.contains(name),
        always: |_, _| true,
    },
    Stage {
        what: "a hook for what had failed",
        arguments: |path| words(&["hook", "--strict", path]),
        from_failed: true,
        done: |state, name| state.queued.contains(name) && !state.failed.contains(name),
        always: |state, name| state.queued.contains(name),
    },
    Stage {
        what: "queue retry",
        arguments: |_| words(&["queue", "retry"]),
        from_failed: true,
        done: |state, name| state.queued.contains(name) && !state.failed.contains(name),
        always: |state, name| state.queued.contains(name),
    },
    Stage {
        what: "queue forget",
        arguments: |path| words(&["queue", "forget", path]),
        from_failed: true,
        done: |state, name| !state.queued.contains(name) && !state.failed.contains(name),
        // It lets go of the path first: a reason without a path says what became of it.
        always: |state, name| !state.queued.contains(name) || state.failed.contains(name),
    },
];

impl Stage {
    /// A spool as it is before; one that waits besides is there in the end.
    fn place(&self, folder: &Path) -> Place {
        let place = Place::below(folder);
        if self.from_failed {
            let (queued, failed) = (place.spool().join("queued"), place.spool().join("failed"));
            for folder in [&queued, &failed] {
                fs::create_dir_all(folder).expect("a folder");
            }
            let (path, waiting) = (path(1), path(2));
            for path in [&path, &waiting] {
                symlink(path, queued.join(name(path))).expect("a link");
            }
            let reason = format!(
                r#"{{"path":"{}","why":"x","since_s":1,"attempts":6,"held":true}}"#,
                name(&path)
            );
            fs::write(failed.join(name(&path)), reason).expect("a reason");
        }
        place
    }

    fn trace(&self, place: &Place, strace: &[&str]) -> Output {
        let before = [&["strace", "-f", "-q"], strace].concat();
        let arguments = (self.arguments)(&path(1));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = place.command(&words(&before), &arguments).output();
        output.expect("strace runs")
    }

    /// How often each call is made.
    fn calls(&self) -> BTreeMap<&'static str, u32> {
        let folder = support::folder_on_disk();
        let (place, log) = (self.place(folder.path()), folder.path().join("log"));
        let trace = format!("trace={}", CALLS.join(","));
        let output = self.trace(&place, &["-e", &trace, "-o", &log.to_string_lossy()]);
        assert!(output.status.success(), "{}: {output:?}", self.what);
        assert!((self.done)(&place.state(), name(&path(1))), "{}", self.what);
        let log = fs::read_to_string(log).expect("a log");
        let made = |call: &str| {
            log.lines()
                .filter(|it| it.contains(&format!(" {call}(")))
                .count()
        };
        CALLS.map(|call| (call, made(call) as u32)).into()
    }

    /// One fault; whether it came about.
    fn fails(&self, call: &str, nth: u32, fault: &str) -> bool {
        let folder = support::folder_on_disk();
        let (place, log) = (self.place(folder.path()), folder.path().join("log"));
        let (trace, log_name) = (format!("trace={call}"), log.to_string_lossy());
        let inject = format!("inject={call}:{fault}:when={nth}");
        let output = self.trace(&place, &["-e", &trace, "-e", &inject, "-o", &log_name]);
        let about = format!("{}: {fault} at {call} #{nth}: {output:?}", self.what);
        let (state, name) = (place.state(), name(&path(1)).to_owned());
        if output.status.success() {
            assert!((self.done)(&state, &name), "{about}: {state:?}");
        }
        assert!((self.always)(&state, &name), "{about}: {state:?}");
        let waiting = path(2);
        assert!(
            !self.from_failed || state.queued.contains(self::name(&waiting)),
            "{about}"
        );
        place.assert_usable(3);
        // Once more, and it is done.
        let arguments = (self.arguments)(&path(1));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let again = place.run(&arguments);
        assert!(again.status.success(), "{about}: {again:?}");
        assert!((self.done)(&place.state(), &name), "{about}, then again");
        let log = fs::read_to_string(&log);
        log.is_ok_and(|log| log.contains("(INJECTED)") || log.contains("killed by SIGKILL"))
    }
}

#[test]
fn no_fault_at_any_call_loses_a_path() {
    for stage in STAGES {
        let (mut tried, mut came_about) = (0, 0);
        for (call, made) in stage.calls() {
            for nth in 1..=made {
                // The short form brings one fault about at each call, in turn.
                let all = FAULTS.iter().cycle().skip(nth as usize);
                for fault in all.take(if oracle::long() { FAULTS.len() } else { 1 }) {
                    tried += 1;
                    came_about += u32::from(stage.fails(call, nth, fault));
                }
            }
        }
        println!("{}: {tried} faults, {came_about} came about", stage.what);
        assert!(
            came_about * 2 > tried,
            "{}: hardly one came about",
            stage.what
        );
    }
}
