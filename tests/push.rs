//! `snowcache push`: closures of a real store to a real server, taken from there by stock nix with
//! signatures required; what is sent twice, what breaks, what is left.

mod support;

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::corpus::{self, Generation, assert_same_bytes};
use support::nix::{Nix, Node, User};
use support::proxy::{Proxy, Wire};
use support::server::{Snowcached, binary};

/// Somebody who pushes: a script can say `$SNOWCACHE push`.
fn pusher(server: &Snowcached) -> User {
    let mut user = User::of(server);
    user.variable("SNOWCACHE", &binary("snowcache").to_string_lossy());
    user.variable("SNOWCACHE_URL", &server.url());
    user.variable("SNOWCACHE_TOKEN", &server.push_token());
    user
}

/// Pushes and returns the summary.
#[track_caller]
fn push(user: &User, nix: &Nix, arguments: &str) -> Value {
    let script = format!("$SNOWCACHE push --json {arguments}");
    let said = Node::this_machine().sh(user, nix, &script).ok();
    summary(&said)
}

fn summary(said: &str) -> Value {
    let last = said.lines().last().expect("a summary");
    let last: Value = serde_json::from_str(last).expect("JSON");
    last["summary"].clone()
}

#[track_caller]
fn assert_fetchable(user: &User, nix: &Nix, generation: &Generation) {
    let node = Node::empty();
    let fetch = format!("nix-store -r {}", generation.top);
    node.sh(user, nix, &fetch).ok();
    assert_same_bytes(&node, &generation.closure);
}

/// What either nix knows is pushed, and fetched by the other one; of a rebuild next to nothing
/// travels, of what is there nothing.
#[test]
fn a_closure_arrives_and_its_rebuild_sends_what_changed() {
    let [first, second] = corpus::generations();
    let server = Snowcached::start();
    let user = pusher(&server);
    let [old, new] = Nix::both();

    let cold = push(&user, &old, &first.top);
    assert_eq!(cold["pushed"], first.closure.len(), "{cold}");
    assert_eq!(cold["already_there"], 0);
    let rebuilt = push(&user, &new, &second.top);
    let (cold, warm) = (&cold["sent_bytes"], &rebuilt["sent_bytes"]);
    let (cold, warm) = (cold.as_u64().expect("bytes"), warm.as_u64().expect("bytes"));
    assert!(warm * 20 < cold, "the rebuild sent {warm} of {cold} bytes");
    println!("sent {cold} bytes, then {warm}");

    let again = push(&user, &new, &format!("{} {}", first.top, second.top));
    assert_eq!(
        (&again["pushed"], &again["sent_bytes"]),
        (&0.into(), &0.into())
    );

    assert_fetchable(&user, &new, first);
    assert_fetchable(&user, &old, second);
}

/// A server that dies and comes back, again and again, costs time only.
#[test]
fn a_push_outlives_its_server() {
    let [first, _] = corpus::generations();
    let mut server = Snowcached::start();
    let user = pusher(&server);
    let pushing = Pushing::start(&server, &first.top);
    for wait_ms in [300, 700, 1100] {
        thread::sleep(Duration::from_millis(wait_ms));
        server.kill();
        server.start_again();
    }
    let (code, said) = pushing.end();
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(summary(&said)["failed"], 0, "{said}");
    assert_fetchable(&user, &Nix::installed(), first);
}

/// A client that dies again and again gets everything there, and sends nothing of it twice but what
/// was on its way.
#[test]
fn a_push_killed_and_begun_again_ends_complete() {
    let [first, _] = corpus::generations();
    let server = Snowcached::start();
    let user = pusher(&server);
    let (mut kills, mut wait) = (0, Duration::from_millis(200));
    let last = loop {
        let mut pushing = Pushing::start(&server, &first.top);
        thread::sleep(wait);
        if pushing.kill() {
            kills += 1;
            wait = wait.mul_f32(1.2);
            continue;
        }
        break pushing.end();
    };
    let (code, said) = last;
    assert_eq!(code, Some(0), "{said}");
    assert!(kills > 0, "the first one was killed");
    let last = summary(&said);
    println!("{kills} kills, then {last}");
    assert_fetchable(&user, &Nix::newer(), first);
    let again = push(&user, &Nix::installed(), &first.top);
    assert_eq!(again["already_there"], first.closure.len());
}

/// Connections that break in the middle, wherever: each costs asking again.
#[test]
fn a_push_outlives_its_connections() {
    let small = corpus::small();
    let server = Snowcached::start();
    let user = pusher(&server);
    // Every second connection of the first ten ends after so many bytes.
    let wire = Wire::to(server.address(), |number| match number {
        0..10 if number % 2 == 0 => Some(200_000 * (number as u64 + 1)),
        _ => None,
    });
    let arguments = format!("--to {} {}", wire.url(), small.top);
    let pushed = push(&user, &Nix::installed(), &arguments);
    assert_eq!(pushed["pushed"], small.closure.len(), "{pushed}");
    assert!(wire.cuts() > 0, "no connection was cut");
    assert_fetchable(&user, &Nix::newer(), small);
}

/// What takes in whole requests before it hands them on shows nobody how far an upload is: each
/// lane asks once at most, and goes on without.
#[test]
fn a_proxy_that_keeps_requests_back_is_waited_for_once() {
    let small = corpus::small();
    let server = Snowcached::start();
    let user = pusher(&server);
    let proxy = Proxy::before(server.address(), |_, answer| answer);
    let arguments = format!("--jobs 2 --to {} {}", proxy.url(), small.top);
    let pushed = push(&user, &Nix::installed(), &arguments);
    assert_eq!(pushed["pushed"], small.closure.len(), "{pushed}");
    let asked = proxy.asked();
    let asked = asked.iter().filter(|it| it.contains("/uploads/taken/"));
    let asked = asked.count();
    assert!((1..=2).contains(&asked), "{asked} times");
    assert_fetchable(&user, &Nix::newer(), small);
}

/// What nix collects meanwhile fails with a sentence, with what needs it; the rest arrives.
#[test]
fn paths_that_vanish_fail_and_the_others_arrive() {
    let small = corpus::small();
    let (server, nix) = (Snowcached::start(), Nix::installed());
    let user = pusher(&server);
    push(&user, &nix, &small.top);
    // A store of our own, in which a path may be damaged.
    let (node, other) = (Node::empty(), Snowcached::start());
    node.sh(&user, &nix, &format!("nix-store -r {}", small.top))
        .ok();
    let lost = small.closure.iter().find(|path| path.contains("-libssh2"));
    let lost = lost.unwrap_or_else(|| panic!("no libssh2 in {:?}", small.closure));
    let needed_by = format!("nix-store -q --referrers-closure {lost}");
    let needed_by = node.sh(&user, &nix, &needed_by).ok().lines().count();
    let script = format!(
        "chmod -R u+w {lost}; rm -r {lost}; SNOWCACHE_TOKEN={} $SNOWCACHE push --to {} {}",
        other.push_token(),
        other.url(),
        small.top
    );
    let ran = node.sh(&user, &nix, &script);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let failed: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|it| it.starts_with("FAILED"))
        .collect();
    assert_eq!(failed.len(), needed_by, "{}", ran.stdout);
    assert!(
        failed
            .iter()
            .any(|it| it.contains("vanished from the store")),
        "{failed:?}"
    );
    assert!(
        failed.iter().any(|it| it.contains("which was not pushed")),
        "{failed:?}"
    );
    let arrived = other.stats()["paths"].as_u64();
    assert_eq!(arrived, Some((small.closure.len() - needed_by) as u64));
}

#[test]
fn what_is_said_before_and_after() {
    let small = corpus::small();
    let (server, nix) = (Snowcached::start(), Nix::installed());
    let user = pusher(&server);
    let sh = |script: &str| Node::this_machine().sh(&user, &nix, script);

    let dry = sh(&format!("$SNOWCACHE push --dry-run {}", small.top)).ok();
    let missing = dry
        .lines()
        .filter(|line| line.starts_with("missing"))
        .count();
    assert_eq!(missing, small.closure.len(), "{dry}");
    assert_eq!(server.stats()["paths"], 0, "a dry run pushes nothing");

    let build = format!(
        r#"[{{"drvPath":"x.drv","outputs":{{"out":"{}"}}}}]"#,
        small.top
    );
    let said = sh(&format!("echo '{build}' | $SNOWCACHE push -")).ok();
    let pushed = said
        .lines()
        .filter(|line| line.starts_with("pushed"))
        .count();
    assert_eq!(pushed, small.closure.len(), "{said}");
    assert!(said.ends_with("0 there already"), "{said}");
    let said = sh(&format!(
        "ln -s {} result; $SNOWCACHE push ./result",
        small.top
    ))
    .ok();
    assert!(said.starts_with("0 paths pushed"), "{said}");

    let second = &corpus::generations()[1].top;
    let denied = sh(&format!("SNOWCACHE_TOKEN=wrong $SNOWCACHE push {second}"));
    assert_eq!(denied.code, 1, "{}", denied.stderr);
    assert!(denied.stderr.contains("push.token"), "{}", denied.stderr);
    assert_eq!(sh("$SNOWCACHE push /etc/passwd").code, 2);
    assert_eq!(sh("$SNOWCACHE push - < /dev/null").code, 2);
    let nobody = "/nix/store/00000000000000000000000000000000-nobody";
    for nix in Nix::both() {
        let push = format!("$SNOWCACHE push {second} {nobody}");
        let ran = Node::this_machine().sh(&user, &nix, &push);
        assert_eq!(ran.code, 1, "{}", ran.stderr);
        let says = format!("snowcache: {nobody} is not in this machine's store: build it, or");
        assert!(ran.stderr.starts_with(&says), "{}", ran.stderr);
    }
    let nowhere = format!("$SNOWCACHE push --to http://127.0.0.1:1 {second}");
    assert_eq!(sh(&nowhere).code, 3);
}

/// A push under way.
struct Pushing(Child);

impl Pushing {
    fn start(server: &Snowcached, path: &str) -> Pushing {
        let mut command = Command::new(binary("snowcache"));
        command.args(["push", "--json", path]);
        command.env("SNOWCACHE_URL", server.url());
        command.env("SNOWCACHE_TOKEN", server.push_token());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Pushing(command.spawn().expect("snowcache runs"))
    }

    /// False when it had ended.
    fn kill(&mut self) -> bool {
        let ended = self.0.try_wait().expect("a child").is_some();
        if !ended {
            self.0.kill().expect("a child of ours");
            self.0.wait().expect("it ends");
        }
        !ended
    }

    /// Its exit code, and what it said.
    fn end(self) -> (Option<i32>, String) {
        let output = self.0.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).trim_end().to_owned(),
        )
    }
}
