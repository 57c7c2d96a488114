//! What receipts name is hashed again by the agent, by schedule: bits that a disk has lost are
//! found, what they are in is switched to no more, and once it is mended it is. With real daemons.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::agent::{Machine, Service, World};
use support::fault::{Mode, Wire};
use support::nix::{Nix, Node, User};
use support::server::binary;

/// Longer than a pass over some megabytes should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// All the time, as fast as it goes.
const ALWAYS: &str = "[rehash]\nperiod_s = 1\nrate = \"unlimited\"\n";

/// A node with an agent, on which the small closure is ready.
fn ready(nix: &Nix, more: &str) -> (Machine, Service) {
    let world = World::small();
    let mut machine = world.node(nix);
    let service = Service::start(&mut machine, &[world.server.url()], "", more);
    let top = &world.generation.top;
    machine
        .snowcache(&format!("prefetch {top} --pin system"))
        .ok();
    (machine, service)
}

/// Waits until the agent's status is so.
#[track_caller]
fn wait_for(machine: &Machine, service: &Service, is: impl Fn(&Value) -> bool) -> Value {
    let begin = Instant::now();
    loop {
        let status = machine.snowcache("status --json").json();
        if is(&status) {
            return status;
        }
        assert!(begin.elapsed() < PATIENCE, "{status}: {}", service.log());
        thread::sleep(Duration::from_millis(20));
    }
}

/// A file deep inside a path of the closure that is a folder: the path, and the file as it lies for
/// everybody else.
fn some_file(machine: &Machine) -> (String, PathBuf) {
    let closure = World::small().generation.closure.iter();
    let found = closure.filter_map(|path| {
        let file = file_below(&machine.node.outside(path))?;
        Some((path.clone(), file))
    });
    let mut found = found.filter(|(path, file)| machine.node.outside(path) != *file);
    found.next().expect("a folder with a file that has bytes")
}

fn file_below(at: &Path) -> Option<PathBuf> {
    let metadata = fs::symlink_metadata(at).expect("there");
    if metadata.is_dir() {
        let entries = fs::read_dir(at).expect("a folder");
        let mut entries = entries.map(|it| it.expect("an entry").path());
        return entries.find_map(|it| file_below(&it));
    }
    (metadata.is_file() && metadata.len() > 0).then(|| at.to_owned())
}

/// Flips a bit in the middle of a file, which nothing but its bytes shows.
fn flip(file: &Path) {
    let mode = fs::metadata(file).expect("a file").permissions();
    let mut bytes = fs::read(file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(file, fs::Permissions::from_mode(0o644)).expect("opened");
    fs::write(file, bytes).expect("opened");
    fs::set_permissions(file, mode).expect("as it was");
}

fn metrics(machine: &Machine, service: &Service) -> String {
    let socket = service.socket().display().to_string();
    let curl = format!("curl -sf --unix-socket {socket} http://localhost/metrics");
    machine.sh(&curl).ok() + "\n"
}

#[test]
fn a_bit_that_the_disk_has_lost_is_found_and_no_longer_passes_until_it_is_mended() {
    let world = World::small();
    let (top, url) = (&world.generation.top, world.server.url());
    for nix in Nix::both() {
        let (mut machine, service) = ready(&nix, ALWAYS);
        let all = world.generation.closure.len();
        // Passes before it was ready had nothing to read.
        let read = |it: &Value| it["rehash"]["last"]["paths"] == all;
        let status = wait_for(&machine, &service, read);
        assert_eq!(status["rehash"]["last"]["damaged"], 0, "{status}");
        machine.snowcache(&format!("gate {top}")).ok();

        let (path, file) = some_file(&machine);
        flip(&file);
        let damaged = |it: &Value| it["damaged"][0]["path"] == path.as_str();
        wait_for(&machine, &service, damaged);
        let refused = machine.snowcache(&format!("gate {top}"));
        assert_eq!(refused.code, 1);
        let why = machine.snowcache(&format!("why {top}")).stdout;
        for said in [&refused.stderr, &why] {
            let says = format!("{path} was found damaged on this node's disk");
            assert!(said.contains(&says), "{said}");
            let remedy = format!("nix-store --repair-path {path}");
            assert!(said.contains(&remedy), "{said}");
        }
        machine.snowcache(&format!("switch {top}")).fails();
        let shown = machine.snowcache("status").ok();
        assert!(shown.contains(&format!("DAMAGED  {path}")), "{shown}");
        let said = metrics(&machine, &service);
        assert!(said.contains("snowcache_agent_damaged_paths 1\n"), "{said}");
        // It is not vouched for again as it is.
        let again = machine.snowcache(&format!("prefetch {top} --pin system"));
        assert!(again.stderr.contains("is damaged on this node's disk"));
        again.fails();

        machine.user.set("substituters", &url);
        machine.sh(&format!("nix-store --repair-path {path}")).ok();
        machine
            .snowcache(&format!("prefetch {top} --pin system"))
            .ok();
        machine.snowcache(&format!("gate {top}")).ok();
        let whole = |it: &Value| it["damaged"].as_array().is_some_and(Vec::is_empty);
        wait_for(&machine, &service, whole);
        let said = metrics(&machine, &service);
        assert!(said.contains("snowcache_agent_damaged_paths 0\n"), "{said}");
        machine.assert_sound();
    }
}

#[test]
fn what_was_read_wrongly_and_is_right_passes_again_by_itself() {
    let (machine, service) = ready(&Nix::newer(), ALWAYS);
    let top = &World::small().generation.top;
    let (_, file) = some_file(&machine);
    flip(&file);
    wait_for(&machine, &service, |it| it["damaged"][0].is_object());
    machine.snowcache(&format!("gate {top}")).fails();
    flip(&file);
    let whole = |it: &Value| it["damaged"].as_array().is_some_and(Vec::is_empty);
    wait_for(&machine, &service, whole);
    machine.snowcache(&format!("gate {top}")).ok();
}

#[test]
fn what_the_daemon_cannot_read_is_damaged_too_and_its_restart_is_waited_for() {
    for nix in Nix::both() {
        let (mut machine, service) = ready(&nix, ALWAYS);
        let top = &World::small().generation.top;
        wait_for(&machine, &service, |it| it["rehash"]["last"].is_object());
        let (daemon, node) = (&mut machine.daemon, &machine.node);
        daemon.restart(node, &machine.user, &machine.nix);
        let began = |it: &Value| it["rehash"]["last"]["began_s"].as_u64();
        let before = began(&machine.snowcache("status --json").json());
        wait_for(&machine, &service, |it| began(it) > before);
        machine.snowcache(&format!("gate {top}")).ok();

        // Of a kind that is in no NAR: the daemon ends the connection, as when a disk says no.
        let (path, file) = some_file(&machine);
        let folder = file.parent().expect("a folder");
        let mode = fs::metadata(folder).expect("there").permissions();
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("opened");
        fs::remove_file(&file).expect("opened");
        let made = Command::new("mkfifo").arg(&file).status();
        assert!(made.expect("mkfifo runs").success());
        fs::set_permissions(folder, mode).expect("as it was");
        let damaged = |it: &Value| it["damaged"][0]["path"] == path.as_str();
        wait_for(&machine, &service, damaged);
        let refused = machine.snowcache(&format!("gate {top}")).fails();
        assert!(refused.contains("was found damaged"), "{refused}");
    }
}

#[test]
fn a_pass_that_was_killed_goes_on_where_it_was() {
    // Some 20 seconds by the rate, so that it has been written down how far it is.
    let slowly = "[rehash]\nperiod_s = 1\nrate = \"RATE\"\n";
    let bytes: u64 = closure_bytes();
    let slowly = slowly.replace("RATE", &format!("{}B/s", bytes / 20));
    let (machine, mut service) = ready(&Nix::newer(), &slowly);
    let file = machine.user.home().join("snowcache/rehash.json");
    let begin = Instant::now();
    let kept = loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let kept: Value = serde_json::from_str(&text).unwrap_or_default();
        if kept["pass"]["after"].is_string() {
            break kept;
        }
        assert!(begin.elapsed() < PATIENCE, "{text}: {}", service.log());
        thread::sleep(Duration::from_millis(20));
    };
    service.kill();
    service.start_again(&machine);
    let first = |it: &Value| it["rehash"]["last"]["began_s"] == kept["pass"]["began_s"];
    let status = wait_for(&machine, &service, first);
    let last = &status["rehash"]["last"];
    // Each once, though it was killed.
    assert_eq!(last["paths"], World::small().generation.closure.len());
    assert_eq!(last["nar_size_bytes"], bytes, "{status}");
}

fn closure_bytes() -> u64 {
    let closure = World::small().generation.closure.join(" ");
    let sizes = format!("nix-store --query --size {closure}");
    let here = Node::this_machine();
    let said = here.sh(&User::new(), &Nix::installed(), &sizes);
    let sizes = said.ok();
    sizes
        .lines()
        .map(|it| it.parse::<u64>().expect("a size"))
        .sum()
}

#[test]
fn nothing_is_hashed_again_while_something_is_brought() {
    let world = World::small();
    let mut machine = world.node(&Nix::newer());
    let wire = Wire::to(world.server.address());
    let service = Service::start(&mut machine, &[wire.url()], "", ALWAYS);
    let top = &world.generation.top;
    machine.snowcache(&format!("prefetch {top}")).ok();
    wait_for(&machine, &service, |it| it["rehash"]["last"].is_object());
    wire.set(Mode::Stalls);
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let program = binary("snowcache");
    let script = format!("exec {} prefetch {absent}", program.display());
    let mut asking = machine.node.command(&machine.user, &machine.nix, &script);
    let asking = asking.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut asking = asking.expect("setpriv runs");
    service.wait_for(&machine, absent, |job| job["running"] == true);
    let began = |it: &Value| it["rehash"]["last"]["began_s"].as_u64().expect("a time");
    let mut passes = BTreeSet::new();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        let status = machine.snowcache("status --json").json();
        passes.insert(began(&status));
        thread::sleep(Duration::from_millis(20));
    }
    // By itself one begins each second; the last bytes of one may have been under way.
    assert!(passes.len() <= 2, "{passes:?}");
    wire.set(Mode::Good);
    asking.wait().expect("our own child");
    wait_for(&machine, &service, |it| !passes.contains(&began(it)));
}
