//! A cache that dies or stalls while stock Nix substitutes from it, with a second substituter
//! behind it: how long the client is held up, with the lines for nix.conf that the server prints.
//!
//! The bound is on what is lost, not on how fast the machine is: the same closure is fetched from
//! the second substituter alone, and the interrupted fetch may take at most 30 s more.

mod support;

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::corpus;
use support::nix::{Nix, Node, User};
use support::server::{Snowcached, binary};

/// What a cache that is gone may cost.
const MAY_COST: Duration = Duration::from_secs(30);
/// The interrupted cache goes when the node has so many paths of the closure.
const PATHS_BEFORE: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Goes {
    /// SIGKILL: connections are reset, new ones refused.
    Killed,
    /// SIGSTOP: the kernel goes on to accept connections, nobody answers.
    Stalled,
}

#[test]
fn a_killed_cache_costs_less_than_30_s() {
    for nix in Nix::both() {
        assert_cheap(&nix, Goes::Killed);
    }
}

#[test]
fn a_stalled_cache_costs_less_than_30_s() {
    for nix in Nix::both() {
        assert_cheap(&nix, Goes::Stalled);
    }
}

fn assert_cheap(nix: &Nix, how: Goes) {
    let first = stocked(nix);
    let second = twin(&first);
    let without = fetch(nix, &[&second], |_| ());
    let with = fetch(nix, &[&first, &second], |node| {
        wait_for_paths(node);
        signal(&first, how);
    });
    let cost = with.took.saturating_sub(without.took);
    let (with_s, without_s) = (with.took.as_secs_f32(), without.took.as_secs_f32());
    println!(
        "{}: {how:?}: {with_s:.1} s, without it {without_s:.1} s",
        nix.version
    );
    // It was in the middle: Nix asked it in vain, and went elsewhere.
    let given_up = format!("disabling binary cache '{}'", first.url());
    assert!(with.log.contains(&given_up), "{}", with.log);
    assert!(cost < MAY_COST, "{how:?} cost {cost:?}:\n{}", with.log);
}

/// A server that holds the first generation of the corpus.
fn stocked(nix: &Nix) -> Snowcached {
    let server = Snowcached::start();
    let top = &corpus::generations()[0].top;
    let push = format!("nix copy --to $PUSH?compression=zstd {top}");
    Node::this_machine().sh(&User::of(&server), nix, &push).ok();
    server
}

/// A server that holds the same, under the same key.
fn twin(server: &Snowcached) -> Snowcached {
    let folder = support::folder_on_disk();
    let backup = Command::new(binary("snowcached"))
        .args(["--data".as_ref(), server.data().as_os_str()])
        .args(["backup".as_ref(), folder.path().join("data").as_os_str()])
        .output()
        .expect("snowcached runs");
    assert!(backup.status.success(), "{backup:?}");
    Snowcached::start_with(folder, "info", &[])
}

struct Fetched {
    took: Duration,
    log: String,
}

/// Realises the closure on an empty machine that has what the servers printed in its nix.conf,
/// while `meanwhile` happens.
fn fetch(nix: &Nix, servers: &[&Snowcached], meanwhile: impl FnOnce(&Node)) -> Fetched {
    let mut user = User::new();
    for (name, value) in printed(servers[0]) {
        user.set(&name, &value);
    }
    // The printed lines name the public cache as the second one; here it is ours.
    let urls: Vec<String> = servers.iter().map(|server| server.url()).collect();
    user.set("substituters", &urls.join(" "));
    let node = Node::empty();
    let top = &corpus::generations()[0].top;
    let script = format!("nix-store --realise {top}");
    let begin = Instant::now();
    let ran = thread::scope(|scope| {
        let running = scope.spawn(|| node.sh(&user, nix, &script));
        meanwhile(&node);
        running.join().expect("the client's thread")
    });
    let (took, log) = (begin.elapsed(), ran.stderr.clone());
    ran.ok();
    Fetched { took, log }
}

/// The lines for nix.conf that a server prints when it is ready.
fn printed(server: &Snowcached) -> Vec<(String, String)> {
    let said = server.said.lock().expect("no poison");
    let lines = said.iter().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(" = "));
    let pairs: Vec<_> = pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let known = |wanted: &str| pairs.iter().any(|(name, _)| name == wanted);
    assert!(known("stalled-download-timeout"), "{said:?}");
    pairs
}

fn wait_for_paths(node: &Node) {
    let begin = Instant::now();
    let count = || std::fs::read_dir(node.outside("/nix/store")).map_or(0, Iterator::count);
    while count() < PATHS_BEFORE {
        assert!(begin.elapsed() < PATIENCE, "no paths arrive");
        thread::sleep(Duration::from_millis(5));
    }
}

fn signal(server: &Snowcached, how: Goes) {
    let signal = match how {
        Goes::Killed => "-KILL",
        Goes::Stalled => "-STOP",
    };
    let pid = server.pid().to_string();
    let sent = Command::new("kill").args([signal, &pid]).status();
    assert!(sent.expect("kill runs").success());
}
