//! The queue's unit as it is shipped: how closed it is by systemd's own measure, and that under a
//! real systemd with all of that in force it pushes what a hook queued, through a real nix-daemon,
//! and is replaced when it hangs.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::corpus;
use support::machine::{Machine, status, wait_for};
use support::server::{Snowcached, binary};

/// By `systemd-analyze security`, in tenths: it is root, as whom Nix runs hooks, and has a network.
const EXPOSURE_AT_MOST: &str = "20";
const SERVICE: &str = "snowcache-queue.service";
const SPOOL: &str = "/var/lib/snowcache-queue";

fn shipped() -> String {
    let path = support::root().join("config/systemd").join(SERVICE);
    fs::read_to_string(path).expect("the shipped unit")
}

#[test]
fn the_unit_is_understood_and_exposes_little() {
    let folder = support::folder_on_disk();
    let unit = folder.path().join(SERVICE);
    let text = shipped().replace("/usr/local/bin/snowcache", "/bin/true");
    fs::write(&unit, text).expect("a copy");
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(arguments).arg(&unit).output();
        output.expect("systemd-analyze runs; run: make test-setup")
    };
    let threshold = format!("--threshold={EXPOSURE_AT_MOST}");
    let output = analyze(&["security", "--offline=true", "--no-pager", &threshold]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let output = analyze(&["verify", "--man=no"]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ours = complaints.lines().filter(|line| line.contains("snowcache"));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn what_is_queued_arrives_with_every_restriction_in_force() {
    let (server, small) = (Snowcached::start(), corpus::small());
    let unit = shipped()
        .replace("/usr/local/bin/snowcache", "/run/units/snowcache")
        .replace("/etc/snowcache/", "/run/units/");
    let daemon = "[Service]\nExecStart=/usr/bin/env nix-daemon\n";
    let changes = "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n\
                   StandardError=append:/run/units/log\n";
    let machine = Machine::boot(&[
        (SERVICE, unit),
        ("snowcache-queue.service.d/test.conf", changes.to_owned()),
        ("nix-daemon.service", daemon.to_owned()),
        ("push.token", server.push_token()),
        (
            "queue.environment",
            format!("SNOWCACHE_URL={}\n", server.url()),
        ),
    ]);
    let program = machine.units().join("snowcache");
    fs::copy(binary("snowcache"), &program).expect("a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    machine.ok(&["start", "nix-daemon.service", SERVICE]);
    let pid = || wait_for(|| machine.main_pid(SERVICE)).expect("it runs");
    let first = pid();
    for (field, value) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
    ] {
        assert_eq!(status(first, field), value, "{field}");
    }
    let log = || fs::read_to_string(machine.units().join("log")).unwrap_or_default();
    machine.ok(&["kill", "--signal=STOP", "--kill-who=main", SERVICE]);
    let again = wait_for(|| machine.main_pid(SERVICE).filter(|pid| *pid != first));
    assert!(again.is_some(), "one that hangs is replaced: {}", log());

    let hook = [
        "/run/units/snowcache",
        "hook",
        "--strict",
        "--spool",
        SPOOL,
        &small.top,
    ];
    let queued = machine.run(&hook);
    assert!(queued.status.success(), "{queued:?}");
    let all = small.closure.len();
    let arrived = wait_for(|| (server.stats()["paths"] == all).then_some(()));
    assert!(arrived.is_some(), "{}", log());
    let status = ["/run/units/snowcache", "queue", "status", "--spool", SPOOL];
    let empty = wait_for(|| {
        let said = machine.run(&status).stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        said.starts_with("waiting  0 paths").then_some(said)
    });
    let said = empty.expect("the spool is empty");
    assert!(said.contains("1 path arrived"), "{said}");
    let metrics = machine.run(&["cat", &format!("{SPOOL}/queue.prom")]).stdout;
    let metrics = String::from_utf8_lossy(&metrics).into_owned();
    let pushed = format!("\nsnowcache_queue_pushed_paths_total {all}\n");
    assert!(metrics.contains(&pushed), "{metrics}");
    assert!(!log().contains("not permitted"), "{}", log());
    machine.ok(&["stop", SERVICE]);
    assert_eq!(machine.show(SERVICE, "Result"), "success");
}
