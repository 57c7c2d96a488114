//! The queue at work on a disk that fails: every call with which it changes the spool is once its
//! last, or fails. A path leaves the spool only when the cache has it, or with a reason; the next
//! queue does the rest. (Of a path that is gone the link may stay beside the reason, for `forget`.)
//!
//! The short form takes a sample that the seed chooses; `SNOWCACHE_LONG=1` takes every point.

mod support;

use std::path::PathBuf;

use support::builder::Builder;
use support::nix::{Nix, Ran};
use support::oracle::{self, long};
use support::random::Random;
use support::strace::{self, Counted, Fault};

/// Points that the short form takes.
const SAMPLE: usize = 8;
/// A path that no store has.
const GONE: &str = "00000000000000000000000000000000-gone";

struct Victim {
    builder: Builder,
    /// Names of what is built and queued.
    paths: Vec<String>,
    counted: Counted,
}

impl Victim {
    /// Builds, and counts the calls of a queue that pushes it.
    fn new() -> Victim {
        let builder = Builder::new(&Nix::installed());
        builder.build();
        let spool = builder.user.home().join("spool");
        let queued = std::fs::read_dir(spool.join("queued")).expect("a folder");
        let names = queued.map(|entry| entry.expect("an entry").file_name());
        let names = names.map(|name| name.into_string().expect("ASCII"));
        let mut victim = Victim {
            builder,
            paths: names.filter(|name| !name.starts_with('.')).collect(),
            counted: Counted::default(),
        };
        assert_eq!(victim.paths.len(), 4);
        victim.queue_all();
        let log = victim.log();
        let arguments = strace::count(&log);
        let ran = victim.flush(&arguments);
        assert_eq!(
            ran.stdout, "4 paths arrived, 0 waiting, 1 failed\n",
            "{}",
            ran.stderr
        );
        victim.counted = Counted::read(&log, &victim.spool());
        victim
    }

    fn spool(&self) -> PathBuf {
        self.builder.user.home().join("spool")
    }

    fn log(&self) -> PathBuf {
        self.builder.user.home().join("strace.log")
    }

    /// A new spool where all waits, and a cache that has nothing of it.
    fn queue_all(&self) {
        let Builder { server, .. } = &self.builder;
        let there: Vec<&str> = self.paths.iter().map(String::as_str).collect();
        let there: Vec<&str> = there.into_iter().filter(|it| self.is_there(it)).collect();
        if !there.is_empty() {
            let removed = oracle::remove(server.http(), &server.admin_token(), &there);
            removed.expect("removed");
        }
        let names = self.paths.iter().map(String::as_str).chain([GONE]);
        let paths: Vec<String> = names.map(|name| format!("/nix/store/{name}")).collect();
        let script = format!(
            "rm -rf $SNOWCACHE_SPOOL && $SNOWCACHE hook --strict {}",
            paths.join(" ")
        );
        self.builder.sh(&script).ok();
    }

    /// Pushes what waits, under strace where it is told to do something.
    fn flush(&self, arguments: &[String]) -> Ran {
        let strace = match arguments {
            [] => String::new(),
            _ => format!("strace -f -qq {}", arguments.join(" ")),
        };
        self.builder.sh(&format!(
            "{strace} $SNOWCACHE --token-file push.token queue flush --wait --timeout 60"
        ))
    }

    fn is_there(&self, name: &str) -> bool {
        let url = format!("/{}.narinfo", &name[..32]);
        self.builder.server.http().get(&url).status == 200
    }

    /// One point; whether its fault came about.
    fn suffers(&self, fault: &Fault) -> bool {
        println!("{fault}");
        self.queue_all();
        let log = self.log();
        let ran = self.flush(&self.counted.inject(fault, &log));
        let about = format!("{fault}: {} {}", ran.stdout, ran.stderr);
        assert!(!ran.stderr.contains("panicked"), "{about}");
        let (queued, failed) = (self.spool().join("queued"), self.spool().join("failed"));
        let waits = |name: &str| queued.join(name).is_symlink();
        for name in &self.paths {
            assert!(
                waits(name) || self.is_there(name),
                "{about}: {name} is lost"
            );
            assert!(!failed.join(name).exists(), "{about}: {name} did not fail");
        }
        assert!(
            waits(GONE) || failed.join(GONE).exists(),
            "{about}: nobody is told"
        );
        let came_about = std::fs::read_to_string(&log);
        let came_about = came_about.expect("a log");
        let again = self.flush(&[]);
        let said = again.stdout.trim_end();
        assert!(
            said.ends_with("0 waiting, 1 failed"),
            "{about}; then {said}"
        );
        assert!(self.paths.iter().all(|name| self.is_there(name)), "{about}");
        assert!(failed.join(GONE).exists(), "{about}");
        came_about.contains("(INJECTED)") || came_about.contains("killed by SIGKILL")
    }
}

#[test]
fn no_fault_of_the_queue_loses_a_path() {
    let victim = Victim::new();
    let mut random = Random::announced("faults of the queue");
    let mut points = victim.counted.points();
    let all = points.len();
    while !long() && points.len() > SAMPLE {
        points.swap_remove(random.below(points.len() as u64) as usize);
    }
    let hit = points.iter().filter(|point| victim.suffers(point)).count();
    println!("{all} points, {} tried, {hit} came about", points.len());
    assert!(hit * 4 >= points.len() * 3, "most faults must come about");
}
