//! The agent's unit, its NixOS module and its DaemonSet as they are shipped: how closed the unit is
//! by systemd's own measure; that under a real systemd with all of that in force it brings a
//! closure through a real nix-daemon, is replaced when it hangs, and ends cleanly; that the modules
//! say the same and the agent takes their configuration.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::agent::World;
use support::machine::{Machine, status, wait_for};
use support::server::binary;

/// By `systemd-analyze security`, in tenths: it is root, whose the receipts are, and has a network.
const EXPOSURE_AT_MOST: &str = "20";
const SERVICE: &str = "snowcache-agent.service";
const SOCKET: &str = "/run/snowcache-agent/socket";

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
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(output.status.success(), "{said}");
    for name in ["snowcache-confirm.service", "snowcache-confirm.path"] {
        let text = fs::read_to_string(support::root().join("config/systemd").join(name));
        let text = text.expect("a shipped unit");
        let text = text.replace("/usr/local/bin/snowcache", "/bin/true");
        fs::write(folder.path().join(name), text).expect("a copy");
    }
    let path = folder.path().join("snowcache-confirm.path");
    let path = path.to_string_lossy();
    let output = analyze(&["verify", "--man=no", &path]);
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ours = complaints.lines().filter(|line| line.contains("snowcache"));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

/// A machine with an empty store, a nix-daemon, and the agent that asks this cache.
fn boot(world: &World) -> Machine {
    let unit = shipped()
        .replace("/usr/local/bin/snowcache", "/run/units/snowcache")
        .replace("/etc/snowcache/", "/run/units/");
    // A store of its own over the machine's, whose daemon everybody on it finds.
    let store = "[Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart=/usr/bin/mount -t tmpfs -o size=2g none /nix\n\
                 ExecStart=/usr/bin/mkdir -p /nix/store /nix/var/nix/daemon-socket\n";
    let changes = "[Service]\nWatchdogSec=5\nTimeoutAbortSec=1\n\
                   StandardError=append:/run/units/log\n";
    let key = world.server.public_key();
    let daemon = format!(
        "[Unit]\nAfter=store.service\nRequires=store.service\n\
         [Service]\nExecStart=/usr/bin/env nix-daemon\n\
         Environment=\"NIX_CONFIG=build-users-group =\\ntrusted-public-keys = {key}\"\n"
    );
    let config = format!(
        "[fetch]\ncaches = [\"{}\"]\ntrusted_public_keys = [\"{key}\"]\n",
        world.server.url()
    );
    let machine = Machine::boot(&[
        (SERVICE, unit),
        ("snowcache-agent.service.d/test.conf", changes.to_owned()),
        ("store.service", store.to_owned()),
        ("nix-daemon.service", daemon),
        ("agent.toml", config),
    ]);
    let program = machine.units().join("snowcache");
    fs::copy(binary("snowcache"), &program).expect("a copy");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
    machine.ok(&["start", "nix-daemon.service"]);
    machine.ok(&["start", SERVICE]);
    machine
}

#[test]
fn a_closure_comes_with_every_restriction_in_force() {
    let world = World::small();
    let (top, closure) = (&world.generation.top, &world.generation.closure);
    let machine = boot(world);
    let key = world.server.public_key();
    let log = || fs::read_to_string(machine.units().join("log")).unwrap_or_default();
    let pid = || wait_for(|| machine.main_pid(SERVICE)).unwrap_or_else(|| panic!("{}", log()));
    let first = pid();
    for (field, value) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
    ] {
        assert_eq!(status(first, field), value, "{field}");
    }
    machine.ok(&["kill", "--signal=STOP", "--kill-who=main", SERVICE]);
    let again = wait_for(|| machine.main_pid(SERVICE).filter(|pid| *pid != first));
    assert!(again.is_some(), "one that hangs is replaced: {}", log());

    let snowcache = |arguments: &[&str]| {
        let output = machine.run(&[&["/run/units/snowcache"], arguments].concat());
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {errors}{said}{}",
            log()
        );
        said
    };
    // The one that was started anew has said that it is ready.
    let up = wait_for(|| {
        let output = machine.run(&["/run/units/snowcache", "status"]);
        output.status.success().then_some(())
    });
    assert!(up.is_some(), "{SOCKET}: {}", log());
    let ready = snowcache(&["prefetch", top, "--pin", "system"]);
    assert!(
        ready.starts_with(&format!("ready: {} paths", closure.len())),
        "{ready}"
    );
    snowcache(&["wait", top, "--timeout", "5"]);
    let keys = ["--trusted-public-keys", &key];
    snowcache(&[&["gate", top.as_str()], keys.as_slice()].concat());
    assert!(!log().contains("not permitted"), "{}", log());
    machine.ok(&["stop", SERVICE]);
    assert_eq!(machine.show(SERVICE, "Result"), "success");
}
