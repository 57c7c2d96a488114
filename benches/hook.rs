//! What a build waits for `snowcache hook`, with the cache down and a queue that keeps trying: real
//! builds by both versions of nix, each followed by the hook, whose folders lie on a disk.
//!
//! ```text
//! cargo bench --bench hook
//! ```
//!
//! Each hook is timed from before its process is made until it has ended. Two syncs of folders are
//! most of it, so beside it stands what two such syncs alone take on that disk at that time.

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use support::nix::{Nix, Node, User};
use support::server::binary;

const BUILDS: usize = 100;
/// Nobody listens there.
const NOWHERE: &str = "http://127.0.0.1:1";

fn main() {
    println!("| nix | | middle | 99th of 100 | longest | {BUILDS} builds |");
    println!("|---|---|---|---|---|---|");
    for nix in Nix::both() {
        let bare_s = build(&nix, None).1;
        let disk = support::folder_on_disk();
        let (mut hooks, with_s) = build(&nix, Some(disk.path()));
        assert_eq!(hooks.len(), BUILDS, "a hook for each build");
        let queued = fs::read_dir(disk.path().join("spool/queued")).expect("a spool");
        assert_eq!(queued.count(), BUILDS, "an entry for each build");
        let mut syncs: Vec<f64> = (0..BUILDS)
            .map(|at| two_syncs_ms(disk.path(), at))
            .collect();
        let version = nix.version.split_whitespace().last().unwrap_or_default();
        row(version, "no hook", &mut [], bare_s);
        row(version, "hook", &mut hooks, with_s);
        row(version, "two syncs", &mut syncs, f64::NAN);
    }
}

fn row(version: &str, what: &str, times_ms: &mut [f64], builds_s: f64) {
    times_ms.sort_by(f64::total_cmp);
    let at = |share: f64| match times_ms.len() {
        0 => String::new(),
        len => format!(
            "{:.1} ms",
            times_ms[((len as f64 * share) as usize).min(len - 1)]
        ),
    };
    let builds = match builds_s.is_nan() {
        true => String::new(),
        false => format!("{builds_s:.2} s"),
    };
    println!(
        "| {version} | {what} | {} | {} | {} | {builds} |",
        at(0.5),
        at(0.98),
        at(1.0)
    );
}

/// Milliseconds of each hook, and the seconds that all builds took.
fn build(nix: &Nix, disk: Option<&Path>) -> (Vec<f64>, f64) {
    let (node, mut user) = (Node::empty(), User::new());
    let mut queue = None;
    if let Some(disk) = disk {
        let (program, disk) = (binary("snowcache"), disk.display());
        // The hook's roots lie on the disk as well; the store itself is in memory.
        fs::create_dir_all(format!("{disk}/state/gcroots")).expect("a folder");
        let script = format!(
            "#!/bin/bash\nbegin=$EPOCHREALTIME\nNIX_STATE_DIR={disk}/state {} hook --strict \
             --spool {disk}/spool\necho $begin $EPOCHREALTIME >> {disk}/times\n",
            program.display()
        );
        let hook = format!("{disk}/hook");
        fs::write(&hook, script).expect("a hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a program");
        let run = format!(
            "exec {} --cache {NOWHERE} queue run --spool {disk}/spool 2>/dev/null",
            program.display()
        );
        let mut run = node.command(&user, nix, &run);
        queue = Some(run.stdout(Stdio::null()).spawn().expect("setpriv runs"));
        user.set("post-build-hook", &hook);
    }
    let builds = format!(
        "nix-build --no-out-link --max-jobs 1 -E 'let build = import '$FILES'/build.nix; in \
         builtins.genList (n: build \"hook-${{toString n}}\" \"echo $name > $out\" {{ }}) {BUILDS}'"
    );
    let begin = Instant::now();
    node.sh(&user, nix, &builds).ok();
    let seconds = begin.elapsed().as_secs_f64();
    if let Some(mut queue) = queue {
        queue.kill().expect("our own child");
        queue.wait().expect("our own child");
    }
    let times = disk.map(|disk| fs::read_to_string(disk.join("times")).expect("times"));
    let times = times.unwrap_or_default();
    let hooks = times.lines().map(|line| {
        let mut moments = line
            .split(' ')
            .map(|it| it.parse::<f64>().expect("seconds"));
        let begin = moments.next().expect("a beginning");
        (moments.next().expect("an end") - begin) * 1e3
    });
    (hooks.collect(), seconds)
}

/// As the hook does: a link and a sync in one folder, then in another.
fn two_syncs_ms(disk: &Path, at: usize) -> f64 {
    let begin = Instant::now();
    for name in ["one", "other"] {
        let folder = disk.join(name);
        fs::create_dir_all(&folder).expect("a folder");
        symlink("/nowhere", folder.join(at.to_string())).expect("a link");
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.expect("synced");
    }
    begin.elapsed().as_secs_f64() * 1e3
}
