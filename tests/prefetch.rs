//! `snowcache prefetch` on nodes with a real nix-daemon, old and new: closures come, whole and
//! right and kept, or it is said why not.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::agent::{Machine, World, on_a_disk, on_a_small_disk};
use support::corpus;
use support::daemon::hang_up_on;
use support::fault::{Mode, Wire};
use support::http::Response;
use support::nix::{Nix, Node, User};
use support::proxy::{Proxy, missing};
use support::server::binary;

/// Longer than a step should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_closure_is_local_verified_and_pinned_before_anybody_needs_it() {
    let world = World::system();
    for nix in Nix::both() {
        let machine = world.node(&nix);
        let said = world.prefetch(&machine, "--pin system").ok();
        let closure = &world.generation.closure;
        let ready = format!(
            "ready: {} paths, {} of them fetched",
            closure.len(),
            closure.len()
        );
        assert!(said.starts_with(&ready), "{said}");
        assert_eq!(machine.valid(closure), closure.len());
        corpus::assert_same_bytes(&machine.node, closure);
        machine.assert_sound();

        machine.sh("nix-store --gc").ok();
        assert_eq!(machine.valid(closure), closure.len(), "kept by the pin");
        let again = world.prefetch(&machine, "--pin system").ok();
        assert!(again.contains(" 0 of them fetched"), "{again}");
        let plans = machine.user.home().join("snowcache/plans/system");
        assert!(!plans.exists(), "the plan's roots went");

        fs::remove_dir_all(machine.user.home().join("snowcache/pins")).expect("a pin");
        // Nix keeps what any process on the machine has open, and other tests import the same.
        let begin = Instant::now();
        let left = loop {
            machine.sh("nix-store --gc").ok();
            let left = machine.valid(closure);
            if left < closure.len() / 2 || begin.elapsed() > Duration::from_secs(60) {
                break left;
            }
        };
        assert!(left < closure.len() / 2, "nothing keeps these {left}");
    }
}

#[test]
fn a_cache_that_lies_gets_nothing_into_the_store() {
    let world = World::small();
    let lying = Proxy::before(world.server.address(), |path, mut answer: Response| {
        if path.contains("/nar/") {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
        }
        answer
    });
    for nix in Nix::both() {
        let machine = world.node(&nix);
        let (top, url) = (&world.generation.top, lying.url());
        let ran = machine.snowcache(&format!("prefetch {top} --from {url}"));
        assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
        let why = ran.fails();
        assert!(why.contains("can be had from no cache"), "{why}");
        assert!(why.contains(&url), "{why}");
        assert_eq!(machine.valid(&world.generation.closure), 0);

        // The same with an honest one behind it.
        let honest = world.server.url();
        let from = format!("prefetch {top} --from {url} --from {honest}");
        machine.snowcache(&from).ok();
        let closure = &world.generation.closure;
        assert_eq!(machine.valid(closure), closure.len());
        machine.assert_sound();
    }
}

#[test]
fn what_nobody_trusted_vouches_for_is_not_fetched() {
    let world = World::small();
    let nix = Nix::installed();
    let other = "other-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let mut machine = Machine::new(&nix, other);
    let why = world.prefetch(&machine, "").fails();
    assert!(why.contains("not signed by a key that is trusted"), "{why}");
    assert!(why.contains("other-1") && why.contains("nix.conf"), "{why}");

    // Told to trust it here, what the daemon trusts counts all the same.
    let key = world.server.public_key();
    let told = format!("--trusted-public-keys {key}");
    let why = world.prefetch(&machine, &told).fails();
    assert!(why.contains("is not among trusted-public-keys"), "{why}");
    assert!(why.contains(&key) && why.contains("restart"), "{why}");
    // The daemon has not been restarted since it was told.
    machine.user.set("trusted-public-keys", &key);
    let why = world.prefetch(&machine, "").fails();
    assert!(why.contains("does not trust the signatures of"), "{why}");
    assert_eq!(machine.valid(&world.generation.closure), 0);
}

#[test]
fn what_is_missing_is_named_with_who_needs_it() {
    let world = World::small();
    let machine = world.node(&Nix::newer());
    let gone = world
        .generation
        .closure
        .iter()
        .find(|it| **it != world.generation.top);
    let gone = gone.expect("a path beside the top").clone();
    let hash = gone["/nix/store/".len()..][..32].to_owned();
    let holey = Proxy::before(world.server.address(), move |path, answer| {
        match path.contains(&hash) || path.contains("nix-cache-info") {
            true => missing(),
            false => answer,
        }
    });
    let (top, url) = (&world.generation.top, holey.url());
    let ran = machine.snowcache(&format!("prefetch {top} --from {url}"));
    assert_eq!(ran.code, 1);
    let why = ran.fails();
    let name = &gone["/nix/store/".len()..];
    assert!(why.contains(name) && why.contains("needed by"), "{why}");
    assert_eq!(
        machine.valid(&world.generation.closure),
        0,
        "nothing was begun"
    );
}

#[test]
fn nobody_there_is_told_apart() {
    let world = World::small();
    let machine = world.node(&Nix::installed());
    let top = &world.generation.top;
    let ran = machine.snowcache(&format!("prefetch {top} --from http://127.0.0.1:1"));
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("cannot reach http://127.0.0.1:1"),
        "{}",
        ran.stderr
    );
    let nowhere = machine.user.home().join("nowhere");
    let nowhere = format!("--store-socket {}", nowhere.display());
    let ran = world.prefetch(&machine, &nowhere);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("cannot reach the nix-daemon at"),
        "{}",
        ran.stderr
    );
}

#[test]
fn json_tells_what_happens_line_by_line() {
    let world = World::small();
    let machine = world.node(&Nix::installed());
    let said = world.prefetch(&machine, "--json").ok();
    let lines: Vec<Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let closure = &world.generation.closure;
    assert_eq!(lines[0]["planned"]["missing"], closure.len());
    let imported = lines.iter().filter(|line| !line["imported"].is_null());
    assert_eq!(imported.count(), closure.len());
    let summary = &lines[lines.len() - 1]["summary"];
    assert_eq!(summary["ready"], true);
    assert_eq!(summary["roots"][0], world.generation.top.as_str());

    let ran = machine
        .snowcache("prefetch 00000000000000000000000000000000 --json --from http://127.0.0.1:1");
    assert_eq!(ran.code, 3);
    let line: Value = serde_json::from_str(ran.stdout.trim()).expect("JSON");
    assert!(
        line["failure"]["why"]
            .as_str()
            .is_some_and(|why| !why.is_empty())
    );
}

/// A prefetch that runs while the test goes on.
struct UnderWay(Child);

impl UnderWay {
    fn start(machine: &Machine, arguments: &str) -> UnderWay {
        let program = binary("snowcache");
        let script = format!("exec {} {arguments}", program.display());
        let mut command = machine.node.command(&machine.user, &machine.nix, &script);
        command.stdout(Stdio::null());
        command.process_group(0);
        UnderWay(command.spawn().expect("setpriv runs"))
    }

    fn kill(mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }
}

/// How many paths are under way with `--jobs 2`, and more than that: some have come when the next
/// NAR is asked for.
const UNDER_WAY: usize = 8;
const NARS: usize = 20;

/// Waits until so many of the paths are valid.
fn wait_for(machine: &Machine, paths: &[String], count: usize) {
    let begin = Instant::now();
    while machine.valid(paths) < count {
        assert!(begin.elapsed() < PATIENCE, "no paths arrive");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_in_the_middle_it_goes_on_where_it_was_and_loses_nothing_to_a_collection() {
    let world = World::system();
    let closure = &world.generation.closure;
    for nix in Nix::both() {
        let machine = world.node(&nix);
        let top = &world.generation.top;
        let wire = Wire::to(world.server.address());
        let from = format!("prefetch {top} --from {} --jobs 2", wire.url());
        for _ in 0..2 {
            wire.stall_after(NARS, "/nar/");
            let under_way = UnderWay::start(&machine, &from);
            wire.wait_until_failed();
            let came = machine.valid(closure);
            under_way.kill();
            wire.set(Mode::Good);
            assert!(0 < came && came < closure.len(), "in the middle: {came}");
            machine.sh("nix-store --gc").ok();
            // Those under way may have been imported and not rooted yet.
            let kept = machine.valid(closure);
            assert!(
                kept + UNDER_WAY >= came,
                "{kept} of {came} survived the collection"
            );
            machine.assert_sound();
        }
        let kept = machine.valid(closure);
        let said = machine.snowcache(&from).ok();
        let fetched = format!(" {} of them fetched", closure.len() - kept);
        assert!(said.contains(&fetched), "{said}");
        assert_eq!(machine.valid(closure), closure.len());
        machine.assert_sound();
    }
}

#[test]
fn a_collection_in_the_middle_takes_nothing_that_is_needed() {
    let world = World::system();
    let closure = &world.generation.closure;
    for nix in Nix::both() {
        let machine = world.node(&nix);
        // Something of the closure is there, kept by nothing.
        let small = &corpus::small().top;
        let url = world.server.url();
        machine
            .snowcache(&format!("prefetch {small} --from {url}"))
            .ok();
        fs::remove_dir_all(machine.user.home().join("snowcache/pins")).expect("a pin");
        let top = &world.generation.top;
        let wire = Wire::to(world.server.address());
        wire.stall_after(NARS, "/nar/");
        let from = format!("prefetch {top} --jobs 2 --from {}", wire.url());
        let mut under_way = UnderWay::start(&machine, &from);
        wire.wait_until_failed();
        machine.sh("nix-store --gc").ok();
        wire.set(Mode::Good);
        // And again and again, for as long as it takes.
        let status = loop {
            if let Some(status) = under_way.0.try_wait().expect("our own child") {
                break status;
            }
            machine.sh("nix-store --gc").ok();
        };
        assert!(status.success(), "{status}");
        assert_eq!(machine.valid(closure), closure.len());
        machine.sh("nix-store --gc").ok();
        assert_eq!(machine.valid(closure), closure.len());
        machine.assert_sound();
    }
}

#[test]
fn a_cache_that_dies_in_the_middle_is_left_for_the_next_one() {
    let world = World::system();
    let mut twin = world.twin();
    let closure = &world.generation.closure;
    let machine = world.node(&Nix::newer());
    let (top, first, second) = (&world.generation.top, twin.url(), world.server.url());
    let from = format!("prefetch {top} --from {first} --from {second}");
    let mut under_way = UnderWay::start(&machine, &from);
    wait_for(&machine, closure, 3);
    twin.kill();
    let status = under_way.0.wait().expect("our own child");
    assert!(status.success(), "{status}");
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

#[test]
fn a_daemon_that_is_restarted_is_gone_back_to() {
    let world = World::system();
    let closure = &world.generation.closure;
    let nix = Nix::installed();
    let mut machine = world.node(&nix);
    let top = &world.generation.top;
    let from = format!("prefetch {top} --from {}", world.server.url());
    let mut under_way = UnderWay::start(&machine, &from);
    wait_for(&machine, closure, 3);
    machine.daemon.restart(&machine.node, &machine.user, &nix);
    let status = under_way.0.wait().expect("our own child");
    assert!(status.success(), "{status}");
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

#[test]
fn a_daemon_that_hangs_up_at_the_hello_is_greeted_again() {
    let world = World::small();
    let machine = world.node(&Nix::installed());
    let socket = machine.user.home().join("hangs-up");
    let passed = hang_up_on(3, machine.daemon.socket().to_owned(), &socket);
    let socket = format!("--store-socket {}", socket.display());
    let ran = world.prefetch(&machine, &socket);
    assert_eq!(ran.stderr, "");
    ran.ok();
    let closure = &world.generation.closure;
    assert_eq!(machine.valid(closure), closure.len());

    passed.store(0, Ordering::SeqCst);
    world.prefetch(&machine, &socket).ok();
    let passed = passed.load(Ordering::SeqCst);
    assert_eq!(passed, 1, "nothing to import, so one process of the daemon");
}

#[test]
fn a_full_disk_is_told_before_or_when_it_happens_and_nothing_wrong_is_left() {
    let world = World::system();
    let (top, url) = (&world.generation.top, world.server.url());
    for nix in Nix::both() {
        let (node, mut user) = (Node::empty(), User::new());
        user.set("trusted-public-keys", &world.server.public_key());
        let path = |name: &str| user.home().join(name).to_string_lossy().into_owned();
        let (socket, state, filler): (String, String, PathBuf) =
            (path("socket"), path("state"), "/nix/filler".into());
        user.variable("NIX_DAEMON_SOCKET_PATH", &socket);
        user.variable("SNOWCACHE_STATE", &state);
        let prefetch = format!(
            "{} prefetch {top} --from {url}",
            binary("snowcache").display()
        );

        let early = node.sh(&user, &nix, &on_a_small_disk(60, &prefetch));
        assert_eq!(early.code, 1, "{}", early.stderr);
        assert!(early.stderr.contains("has room for"), "{}", early.stderr);

        // There is room at the beginning, and soon there is not.
        let filler = filler.display();
        let script = format!(
            "{prefetch} --rate 2MB/s & prefetch=$!\n\
             until [ $(ls /nix/store | wc -l) -gt 4 ]; do sleep 0.01; done\n\
             cat /dev/zero > {filler} || true\n\
             wait $prefetch && exit 9\n\
             rm {filler}\n\
             nix-store --verify --check-contents 2>&1\n\
             {prefetch}"
        );
        let ran = node.sh(&user, &nix, &on_a_small_disk(1200, &script));
        assert!(
            ran.stderr.contains("disk is full"),
            "{}{}",
            ran.stdout,
            ran.stderr
        );
        let said = ran.ok();
        assert!(
            said.contains("ready:") && !said.contains("modified"),
            "{said}"
        );
    }
}

/// Someone whose daemon has a store on a small disk.
fn someone(world: &World) -> User {
    let mut user = User::new();
    user.set("trusted-public-keys", &world.server.public_key());
    for (name, file) in [
        ("NIX_DAEMON_SOCKET_PATH", "socket"),
        ("SNOWCACHE_STATE", "state"),
    ] {
        let place = user.home().join(file).to_string_lossy().into_owned();
        user.variable(name, &place);
    }
    user
}

#[test]
fn a_disk_without_inodes_is_told_before_anything_is_fetched() {
    let world = World::small();
    let (top, url) = (&world.generation.top, world.server.url());
    let paths = world.generation.closure.len();
    let program = binary("snowcache");
    let prefetch = format!("{} prefetch {top} --from {url}", program.display());
    for nix in Nix::both() {
        // There is room for bytes enough. The daemon makes its own files at the first question.
        let script = format!(
            "{program} why {top} >/dev/null || true\n\
             left=$(df --output=iavail /nix | tail -n 1)\n\
             mkdir /nix/filler\n\
             (cd /nix/filler && seq $((left - 1 - {few})) | xargs touch)\n\
             {prefetch} 2> $HOME/early && exit 9\n\
             rm -r /nix/filler\n\
             {prefetch}",
            program = program.display(),
            few = paths - 1
        );
        let (node, user) = (Node::empty(), someone(world));
        let ran = node.sh(
            &user,
            &nix,
            &on_a_disk("size=800m,nr_inodes=20000", &script),
        );
        let early = fs::read_to_string(user.home().join("early")).unwrap_or_default();
        assert!(ran.ok().starts_with("ready:"), "{early}");
        let says = format!("inodes left and {paths} paths are to be imported");
        assert!(early.contains(&says), "{early}");
        assert!(early.contains("nix-collect-garbage"), "{early}");
    }
}

#[test]
fn a_store_that_cannot_be_written_is_told_before_anybody_is_asked() {
    let world = World::small();
    let top = &world.generation.top;
    let prefetch = format!(
        "{} prefetch {top} --from {}",
        binary("snowcache").display(),
        world.server.url()
    );
    let (node, user) = (Node::empty(), someone(world));
    // Read-only where it is seen from here, as NixOS has it, is no hindrance; read-only itself is.
    let script = format!(
        "mount --bind /nix/store /nix/store\nmount -o remount,bind,ro /nix/store\n\
         {prefetch}\n\
         trap - EXIT\nkill $daemon\nwait $daemon || true\n\
         until mount -o remount,ro /nix/store; do sleep 0.05; done\n\
         {prefetch} 2> $HOME/late && exit 9\n\
         exit 0"
    );
    let ran = node.sh(&user, &Nix::newer(), &on_a_disk("size=800m", &script));
    let late = fs::read_to_string(user.home().join("late")).unwrap_or_default();
    assert!(ran.ok().starts_with("ready:"), "{late}");
    assert!(
        late.contains("mounted at /nix/store, is read-only"),
        "{late}"
    );
}
