//! The post-build-hook and the queue: what a real nix builds while the cache is down waits on the
//! disk, is kept from Nix's collector, and arrives when the cache is back, whoever is killed.

mod support;

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use support::builder::{Builder, wait_until};
use support::corpus;
use support::daemon::Daemon;
use support::nix::{Nix, Node, User};
use support::proxy::Wire;
use support::server::Snowcached;

/// Longer than a line of a log takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const OUTPUTS: [&str; 4] = [
    "dependencies-bottom",
    "dependencies-extra",
    "dependencies-middle",
    "dependencies-top",
];

/// With either nix: builds go on while the cache is down, the collector leaves alone what waits and
/// what it needs, and everything arrives once the cache is back; then it may be collected.
#[test]
fn what_was_built_while_the_cache_was_down_arrives() {
    for nix in Nix::both() {
        let mut builder = Builder::new(&nix);
        builder.server.stop();
        let queue = builder.queue();
        let top = builder.build();
        assert_eq!(builder.waiting(), 4);
        wait_until("a try that fails", || {
            builder.status()["queue"]["trouble"].is_string()
        });
        let kept = builder.collect_garbage();
        assert_eq!(kept, OUTPUTS.map(str::to_owned).into(), "{}", nix.version);

        let logged = builder.server.log.len();
        builder.server.start_again();
        let said = builder
            .snowcache("queue flush --wait --require-complete")
            .ok();
        assert!(said.ends_with("0 waiting, 0 failed"), "{said}");
        assert_eq!(builder.there(), 4);
        assert_in_order(&builder.server, logged);
        drop(queue);
        // Nothing is kept for the queue any more, and the cache gives it all back.
        assert!(builder.collect_garbage().is_empty(), "{}", nix.version);
        let user = User::of(&builder.server);
        let fetch = format!("nix-store -r {top} && cat {top}/word");
        let fetched = Node::empty().sh(&user, &nix, &fetch).ok();
        assert!(fetched.ends_with("TOPMOST"), "{fetched}");
        let said = builder.sh("cat hook.log").ok();
        assert_eq!(said, "", "the hook had nothing to complain of");
    }
}

/// What the server's log says from that line on: each came behind what it refers to.
#[track_caller]
fn assert_in_order(server: &Snowcached, logged: usize) {
    let is_of = |name: &str, line: &str| {
        line.contains(": published path=") && line.contains(&format!("-{name}\""))
    };
    let chain = ["bottom", "middle", "top"].map(|it| format!("dependencies-{it}"));
    let last = server
        .log
        .wait_for(logged, PATIENCE, |line| is_of(&chain[2], line));
    last.expect("the topmost is published");
    let lines = server.log.since(logged);
    let at = |name: &String| lines.iter().position(|line| is_of(name, line));
    let at = chain.each_ref().map(at);
    assert!(at.is_sorted() && at[0].is_some(), "{at:?}");
}

/// In a multi-user installation the daemon runs the hook.
#[test]
fn a_daemon_runs_the_hook_as_well() {
    for nix in Nix::both() {
        let mut builder = Builder::new(&nix);
        let daemon = Daemon::start(&builder.node, &builder.user, &nix);
        let socket = daemon.socket().to_string_lossy().into_owned();
        builder.user.variable("NIX_DAEMON_SOCKET_PATH", &socket);
        builder.user.variable("NIX_REMOTE", "daemon");
        builder.build();
        assert_eq!(builder.waiting(), 4);
        assert_eq!(builder.collect_garbage().len(), 4);
        builder
            .snowcache("queue flush --wait --require-complete")
            .ok();
        assert_eq!((builder.waiting(), builder.there()), (0, 4));
    }
}

/// No process need live on: `flush --wait` at the end of a CI job pushes by itself, and fails the
/// job when that is asked for.
#[test]
fn a_flush_pushes_by_itself_and_says_when_it_could_not() {
    let mut builder = Builder::new(&Nix::installed());
    builder.build();
    assert!(
        builder.snowcache("queue flush").fails().contains("--wait"),
        "nobody is there to be told"
    );
    builder.server.stop();
    let late = "queue flush --wait --timeout 2";
    let said = builder.snowcache(late).ok();
    assert_eq!(said, "0 paths arrived, 4 waiting, 0 failed");
    let required = builder.snowcache(&format!("{late} --require-complete"));
    assert_eq!(required.code, 1);
    assert!(required.stderr.contains("refused"), "{}", required.stderr);
    builder.server.start_again();
    // A token that is not good is waited for as a cache that is away is.
    let wrong =
        "SNOWCACHE_TOKEN=wrong $SNOWCACHE queue flush --wait --timeout 2 --require-complete";
    let said = builder.sh(wrong).fails();
    assert!(said.contains("push.token"), "{said}");
    let said = builder
        .snowcache("queue flush --wait --require-complete")
        .ok();
    assert_eq!(said, "4 paths arrived, 0 waiting, 0 failed");
    let said = builder
        .snowcache("queue flush --wait --require-complete")
        .ok();
    assert_eq!(said, "0 paths arrived, 0 waiting, 0 failed");
}

/// A path that was deleted in spite of its root is told of and holds up nothing; built again it is
/// queued anew.
#[test]
fn a_path_that_was_deleted_meanwhile_is_reported() {
    let builder = Builder::new(&Nix::installed());
    let top = builder.build();
    let delete = format!("nix-store --delete --ignore-liveness {top} 2>&1");
    builder.sh(&delete).ok();
    let ran = builder.snowcache("queue flush --wait --require-complete");
    assert_eq!(ran.stdout, "3 paths arrived, 0 waiting, 1 failed\n");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("build it again"), "{}", ran.stderr);
    let failed = &builder.status()["failed"][0];
    assert_eq!(failed["path"], top["/nix/store/".len()..], "{failed}");
    assert_eq!(failed["held"], false);
    assert_eq!(builder.there(), 3);

    assert_eq!(builder.build(), top);
    assert_eq!(builder.status()["failed"].as_array().map(Vec::len), Some(0));
    builder
        .snowcache("queue flush --wait --require-complete")
        .ok();
    assert_eq!(builder.there(), 4);
}

/// What the store has damaged is given up after some attempts, with those that need it, and kept;
/// the rest arrives meanwhile. Put right, it is tried again on command.
#[test]
fn a_path_that_fails_holds_up_no_other() {
    let builder = Builder::new(&Nix::installed());
    let top = builder.build();
    let middle = builder
        .sh(&format!("nix-store -q --references {top} | grep middle"))
        .ok();
    builder.sh(&format!("mv {middle} away")).ok();
    let _queue = builder.queue();
    wait_until("two paths given up", || {
        builder.status()["failed"].as_array().map(Vec::len) == Some(2)
    });
    assert_eq!((builder.waiting(), builder.there()), (0, 2));
    let failed = builder.status()["failed"].clone();
    let why = |name: &str| {
        let all = failed.as_array().expect("a list");
        let one = all
            .iter()
            .find(|it| it["path"].as_str().is_some_and(|it| it.ends_with(name)));
        let one = one.unwrap_or_else(|| panic!("no {name} in {failed}"));
        assert_eq!(one["held"], true);
        one["why"].as_str().expect("a reason").to_owned()
    };
    assert!(
        why("-middle").contains("vanished from the store"),
        "{failed}"
    );
    assert!(why("-top").starts_with("it needs "), "{failed}");
    assert!(why("-top").contains("vanished from the store"), "{failed}");
    // What arrived and is needed no more is gone, what is put aside is not.
    let kept = ["dependencies-bottom", "dependencies-top"];
    assert_eq!(builder.collect_garbage(), kept.map(str::to_owned).into());

    builder.sh(&format!("mv away {middle}")).ok();
    let said = builder.snowcache("queue retry").ok();
    assert_eq!(said, "2 paths queued again");
    builder
        .snowcache("queue flush --wait --require-complete")
        .ok();
    assert_eq!(builder.there(), 4);
}

/// Killed again and again in the midst of a push, the queue loses nothing; and of what had reached
/// the cache next to nothing is sent again: what was in the lanes when they died.
#[test]
fn a_queue_killed_again_and_again_loses_nothing() {
    let [first, _] = corpus::generations();
    let mut builder = Builder::new(&Nix::installed());
    let export = format!(
        "nix-store --export $(nix-store -qR {}) > exported",
        first.top
    );
    Node::this_machine()
        .sh(&builder.user, &builder.nix, &export)
        .ok();
    builder
        .sh("nix-store --import < exported >/dev/null; rm exported")
        .ok();
    let token = builder.server.push_token();

    // What it takes when nobody dies, to a cache that is as empty.
    let other = Snowcached::start();
    let undisturbed = Wire::to(other.address(), |_| None);
    let (to, other_token) = (undisturbed.url(), other.push_token());
    let push = format!("SNOWCACHE_TOKEN={other_token} $SNOWCACHE push --quiet --to {to}");
    builder.sh(&format!("{push} {}", first.top)).ok();

    let wire = Wire::to(builder.server.address(), |_| None);
    builder.user.variable("SNOWCACHE_URL", &wire.url());
    fs::write(builder.user.home().join("push.token"), token).expect("a token");
    builder
        .sh(&format!("$SNOWCACHE hook --strict {}", first.top))
        .ok();
    let (mut kills, mut wait) = (0, Duration::from_millis(150));
    while builder.waiting() > 0 {
        let mut queue = builder.queue();
        thread::sleep(wait);
        queue.kill();
        kills += 1;
        wait = wait.mul_f32(1.1);
    }
    assert!(kills > 3, "it was killed {kills} times only");
    assert_eq!(builder.there(), first.closure.len());
    let (calm, killed) = (undisturbed.sent_bytes(), wire.sent_bytes());
    println!("{calm} bytes undisturbed, {killed} with {kills} kills");
    // A frame or two in each of the lanes, and the names of all the others once more.
    let again = kills * (4 << 20);
    assert!(
        killed < calm + again,
        "{killed} bytes with {kills} kills, {calm} without"
    );
    let pushed_again = format!("push --json {}", first.top);
    let pushed_again = builder.snowcache(&pushed_again).ok();
    let last = pushed_again.lines().last().expect("a line");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["summary"]["already_there"], first.closure.len());
}

/// Hooks of many builders at once, some of which are killed, while the queue is at work: what any
/// of them acknowledged arrives.
#[test]
fn hooks_at_once_and_killed_hooks() {
    let builder = Builder::new(&Nix::newer());
    let top = builder.build();
    let closure = builder.sh(&format!("nix-store -qR {top}")).ok();
    let _queue = builder.queue();
    let hooks = "for round in 1 2 3 4 5 6 7 8; do
                   for path in $PATHS; do
                     $SNOWCACHE hook --strict $path && echo $path >> acknowledged &
                     timeout --signal KILL 0.00$round $SNOWCACHE hook --strict $path || true &
                   done
                 done 2>/dev/null
                 wait; sort -u acknowledged";
    let paths = closure.replace('\n', " ");
    let acknowledged = builder.sh(&format!("PATHS='{paths}'; {hooks}")).ok();
    assert_eq!(acknowledged.lines().count(), closure.lines().count());
    let said = builder
        .snowcache("queue flush --wait --require-complete")
        .ok();
    assert!(said.ends_with(" 0 waiting, 0 failed"), "{said}");
    assert_eq!(builder.there(), 4, "all that was built");
    let left = builder
        .sh("ls -A spool/queued | grep -c '^[^.]' || true")
        .ok();
    assert_eq!(left, "0");
}

/// Where nix runs no hook, what becomes valid is seen by its lock, or found when nobody looked.
#[test]
fn a_watched_store_queues_what_is_built_in_it() {
    for nix in Nix::both() {
        let mut builder = Builder::new(&nix);
        builder.user.set("post-build-hook", "");
        builder.sh("nix-store --init; mkdir -p /nix/store").ok();
        let watch = |builder: &Builder| builder.start("exec $SNOWCACHE watch-store");
        let mut watching = watch(&builder);
        wait_until("a spool", || {
            builder.user.home().join("spool/queued").exists()
        });
        builder.build();
        wait_until("four paths queued", || builder.waiting() == 4);
        assert_eq!(builder.collect_garbage().len(), 4, "{}", nix.version);
        watching.kill();

        let name = "watched-later";
        let late = format!(
            "nix-build --no-out-link -E 'import '$FILES'/build.nix \"{name}\" \"echo > $out\" {{}}'"
        );
        builder.sh(&late).ok();
        assert_eq!(builder.waiting(), 4, "nobody looks");
        let _watching = watch(&builder);
        wait_until("what was built meanwhile", || builder.waiting() == 5);
        builder
            .snowcache("queue flush --wait --require-complete")
            .ok();
        assert_eq!(builder.there(), 5);
    }
}
