//! The units as they are shipped: how closed they are by systemd's own measure, that the NixOS
//! module makes the same ones, and that under a real systemd with all of that in force the server
//! takes closures from Nix and gives them back, survives what kills it, and ends cleanly.

mod support;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use support::corpus;
use support::http::Http;
use support::machine::{Machine, status, wait_for};
use support::nix::{Nix, Node, User};
use support::server::binary;

/// By `systemd-analyze security`, in tenths, from 0 (nothing is exposed) to 100.
const EXPOSURE_AT_MOST: &str = "15";
const SERVICE: &str = "snowcached.service";
const SOCKET: &str = "snowcached.socket";

#[test]
fn the_unit_exposes_next_to_nothing() {
    let unit = support::root().join("config/systemd").join(SERVICE);
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(format!("--threshold={EXPOSURE_AT_MOST}"))
        .arg(&unit)
        .output()
        .expect("systemd-analyze runs; run: make test-setup");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{}", said.lines().last().unwrap_or_default());
    assert!(output.status.success(), "{said}");
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    let folder = support::folder_on_disk();
    for name in [SERVICE, SOCKET] {
        let text = shipped(name).replace("/usr/local/bin/snowcached", "/bin/true");
        fs::write(folder.path().join(name), text).expect("a copy");
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args([SERVICE, SOCKET].map(|name| folder.path().join(name)))
        .output()
        .expect("systemd-analyze runs");
    let complaints = String::from_utf8_lossy(&output.stderr);
    let ours = complaints.lines().filter(|line| line.contains("snowcache"));
    assert_eq!(ours.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[test]
fn closures_go_in_and_out_with_every_restriction_in_force() {
    let service = Service::start("");
    let pid = service.pid();
    for (field, value) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
    ] {
        assert_eq!(status(pid, field), value, "{field}");
    }
    assert!(!status(pid, "Uid").starts_with("0\t"), "it runs as root");
    let network = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).expect("a link");
    assert_ne!(
        network(&pid.to_string()),
        network("self"),
        "it has a network"
    );

    let user = service.user();
    let (nix, top) = (Nix::installed(), &corpus::small().top);
    let push = format!("nix copy --to $PUSH {top}");
    Node::this_machine().sh(&user, &nix, &push).ok();
    let take = format!("nix-store --realise {top}");
    Node::empty().sh(&user, &nix, &take).ok();
    // What it may not do it does not try: a filter that says no leaves a trace of it here.
    let log = service.log();
    assert!(!log.contains("not permitted"), "{log}");

    service.machine.ok(&["stop", SERVICE]);
    assert_eq!(service.machine.show(SERVICE, "Result"), "success");
    assert_eq!(service.machine.show(SERVICE, "ExecMainStatus"), "0");
}

#[test]
fn while_it_restarts_nobody_is_refused() {
    let service = Service::start("");
    let killed = service.pid();
    assert_eq!(service.http().get("/nix-cache-info").status, 200);
    service
        .machine
        .ok(&["kill", "--signal=KILL", "--kill-who=main", SERVICE]);
    // systemd holds the address: a client that comes now waits until the next one answers.
    assert_eq!(service.http().get("/nix-cache-info").status, 200);
    let again = wait_for(|| service.machine.main_pid(SERVICE));
    assert_ne!(again, Some(killed));
    service.machine.ok(&["restart", SERVICE]);
    assert_eq!(service.http().get("/nix-cache-info").status, 200);
}

#[test]
fn one_that_hangs_is_replaced() {
    let service = Service::start("WatchdogSec=2\nTimeoutAbortSec=1\n");
    let stopped = service.pid();
    service
        .machine
        .ok(&["kill", "--signal=STOP", "--kill-who=main", SERVICE]);
    // On a busy machine a signal takes a moment, in which it would answer.
    wait_for(|| status(stopped, "State").starts_with('T').then_some(())).expect("it hangs");
    assert_eq!(service.http().get("/nix-cache-info").status, 200);
    assert_ne!(service.pid(), stopped);
    assert_eq!(service.machine.show(SERVICE, "NRestarts"), "1");
}

/// The shipped units on a machine of their own.
struct Service {
    machine: Machine,
    port: u16,
}

impl Service {
    /// Installed as the unit says, but for a port that is free, a log that can be read, and
    /// `changes` to the service.
    fn start(changes: &str) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let service = shipped(SERVICE)
            .replace("/usr/local/bin/", "/run/units/")
            .replace("/etc/snowcache/", "/run/units/")
            .replace(
                "StandardError=journal",
                "StandardError=append:/run/units/log",
            );
        let socket = shipped(SOCKET).replace(":8420", &format!(":{port}"));
        let config = fs::read_to_string(support::root().join("config/snowcached.toml"));
        let machine = Machine::boot(&[
            (SERVICE, service),
            (SOCKET, socket),
            (
                "snowcached.service.d/test.conf",
                format!("[Service]\n{changes}"),
            ),
            (
                "snowcache.sysusers.conf",
                shipped("snowcache.sysusers.conf"),
            ),
            ("snowcached.toml", config.expect("the shipped one")),
        ]);
        let program = machine.units().join("snowcached");
        fs::copy(binary("snowcached"), &program).expect("a copy");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("our own file");
        let user = machine.run(&["systemd-sysusers", "/run/units/snowcache.sysusers.conf"]);
        assert!(user.status.success(), "{user:?}");
        machine.ok(&["start", SOCKET, SERVICE]);
        Service { machine, port }
    }

    fn pid(&self) -> u32 {
        let pid = wait_for(|| self.machine.main_pid(SERVICE));
        pid.unwrap_or_else(|| panic!("it does not run:\n{}", self.log()))
    }

    fn http(&self) -> Http {
        Http(([127, 0, 0, 1], self.port).into())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.machine.units().join("log")).unwrap_or_default()
    }

    /// Someone who trusts it and may push.
    fn user(&self) -> User {
        let data = format!("/proc/{}/root/var/lib/snowcache", self.pid());
        let read =
            |name: &str| fs::read_to_string(format!("{data}/{name}")).expect("made at start");
        let keys = fs::read_dir(format!("{data}/keys"))
            .expect("keys")
            .flatten();
        let mut names = keys.map(|key| key.file_name().to_string_lossy().into_owned());
        let key = names.find(|name| name.ends_with(".pub")).expect("a key");
        let url = format!("http://127.0.0.1:{}", self.port);
        let mut user = User::new();
        user.set("substituters", &url)
            .set("trusted-public-keys", read(&format!("keys/{key}")).trim())
            .variable("PUSH", &format!("{url}/push?compression=zstd"));
        user.netrc(read("push.token").trim());
        user
    }
}

fn shipped(name: &str) -> String {
    let path = support::root().join("config/systemd").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
