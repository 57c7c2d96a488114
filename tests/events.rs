//! An agent that is told: by its intervals alone, nothing here would come within an hour.

mod support;

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{Machine, PATIENCE, Rebuilt, Service, World};
use support::corpus;
use support::fault::Wire;
use support::nix::{Nix, Node, User};
use support::server::{Snowcached, binary};

const FOLLOW: &str = "[[follow]]\npin = \"web-node\"\nas = \"system\"\ninterval_s = 3600\n";
const RETRY: &str = "[retry]\nfirst_wait_s = 86400\nlongest_wait_s = 86400\n";

/// Lets a server's pin point somewhere.
fn pin(server: &Snowcached, name: &str, path: &str) {
    let mut user = User::new();
    user.variable("SNOWCACHE_URL", &server.url());
    user.variable("SNOWCACHE_TOKEN", &server.push_token());
    let script = format!("{} pin set {name} {path}", binary("snowcache").display());
    Node::this_machine()
        .sh(&user, &Nix::installed(), &script)
        .ok();
}

#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until an agent is told by so many caches.
#[track_caller]
fn listens(machine: &Machine, service: &Service, caches: usize) {
    let curl = format!("curl -sf --unix-socket {}", service.socket().display());
    let line = format!("\nsnowcache_agent_listening {caches}\n");
    eventually("it listens", || {
        let metrics = machine.sh(&format!("{curl} http://localhost/metrics")).ok();
        metrics.contains(&line)
    });
}

#[test]
fn a_pin_that_moves_is_followed_at_once_also_after_its_cache_was_away() {
    let rebuilt = Rebuilt::small();
    let [before, after] = rebuilt.generations();
    let world = rebuilt.after;
    let mut machine = world.node(&Nix::newer());
    let wire = Wire::to(world.server.address());
    let service = Service::start(&mut machine, &[wire.url()], "", FOLLOW);
    eventually("it is told that there is no such pin", || {
        let status = machine.snowcache("status --json").json();
        status["follow"][0]["why"].is_string()
    });
    for (generation, cut) in [(before, true), (after, true), (before, false)] {
        listens(&machine, &service, 1);
        if cut {
            // What happens until it listens again is told then.
            wire.cut();
        }
        pin(&world.server, "web-node", &generation.top);
        service.wait_for(&machine, &generation.top, |job| job["state"] == "ready");
        machine.snowcache(&format!("gate {}", generation.top)).ok();
        eventually("the pin of the node moves, too", || {
            let pins = machine.snowcache("pins --json").json();
            pins["pins"][0]["roots"][0] == generation.top.as_str()
        });
    }
    machine.assert_sound();
}

#[test]
fn a_root_that_is_wanted_before_it_is_pushed_comes_when_it_is() {
    let server = Snowcached::start_with(support::folder_on_disk(), "warn", &[]);
    let generation = corpus::small();
    let world = World { server, generation };
    let top = &generation.top;
    let mut machine = world.node(&Nix::newer());
    let service = Service::start(&mut machine, &[world.server.url()], "", RETRY);
    let script = format!(
        "exec {} prefetch {top} --deadline 86400",
        binary("snowcache").display()
    );
    let mut asking = machine.node.command(&machine.user, &machine.nix, &script);
    let mut asking = asking.stdout(Stdio::null()).spawn().expect("setpriv runs");
    let failed = service.wait_for(&machine, top, |job| job["next_try_in_s"].is_number());
    let why = failed["why"].as_str().expect("a reason");
    assert!(why.contains("is in none of the caches"), "{why}");
    listens(&machine, &service, 1);
    world.push(generation);
    service.wait_for(&machine, top, |job| job["state"] == "ready");
    assert!(asking.wait().expect("our own child").success());
    machine.snowcache(&format!("gate {top}")).ok();
    // Nothing is wanted any more, so nobody is asked to tell.
    listens(&machine, &service, 0);
    let listeners = || {
        let metrics = world.server.http().get("/metrics");
        metrics.text().contains("\nsnowcache_event_listeners 0\n")
    };
    eventually("the cache has no listener", listeners);
}
