//! `snowcache agent` as a service, on nodes with a real nix-daemon: what it is asked for comes,
//! whoever is killed meanwhile; it says how far it is and why not; only who may command it does.

mod support;

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::agent::{Machine, PATIENCE, Service, World, on_a_small_disk};
use support::corpus;
use support::fault::{Mode, Wire};
use support::nix::{Nix, Node, User};
use support::server::{Snowcached, binary};

/// More than are under way at a time with `jobs = 2`: some have come when the next is asked for.
const NARS: usize = 20;

fn state(job: &Value) -> &str {
    job["state"].as_str().expect("a text")
}

fn serve(machine: &mut Machine, world: &World, top: &str, more: &str) -> Service {
    Service::start(machine, &[world.server.url()], top, more)
}

#[test]
fn what_it_is_asked_for_is_there_and_it_says_so() {
    let world = World::small();
    let (top, closure) = (&world.generation.top, &world.generation.closure);
    for nix in Nix::both() {
        let mut machine = world.node(&nix);
        let service = serve(&mut machine, world, "", "");
        let before = machine.snowcache(&format!("wait {top} --timeout 0"));
        assert_eq!(before.code, 1);
        assert!(
            before.stderr.contains("was never made ready"),
            "{}",
            before.stderr
        );

        let said = machine
            .snowcache(&format!("prefetch {top} --pin system"))
            .ok();
        let all = closure.len();
        let ready = format!("ready: {all} paths, {all} of them fetched");
        assert!(said.starts_with(&ready), "{said}");
        assert_eq!(machine.valid(closure), all);
        let job = service.job(&machine, top).expect("the agent did it");
        assert_eq!(state(&job), "ready");

        machine.snowcache(&format!("gate {top}")).ok();
        machine.snowcache(&format!("wait {top} --timeout 5")).ok();
        let shown = machine.snowcache("status").ok();
        assert!(
            shown.contains(top) && shown.contains("ready since"),
            "{shown}"
        );
        let pins = machine.snowcache("pins --json").json();
        assert_eq!(pins["pins"][0]["name"], "system");
        assert_eq!(pins["pins"][0]["roots"][0], top.as_str());
        let curl = format!("curl -sf --unix-socket {}", service.socket().display());
        let metrics = machine.sh(&format!("{curl} http://localhost/metrics")).ok();
        let imported = format!("\nsnowcache_agent_imported_paths_total {all}\n");
        assert!(metrics.contains(&imported), "{metrics}");
        assert!(
            metrics.contains("snowcache_agent_jobs{state=\"ready\"} 1"),
            "{metrics}"
        );
        assert_alerts_are_of(&metrics);
        machine.assert_sound();
    }
}

/// The agents' alerts speak of figures that there are.
fn assert_alerts_are_of(metrics: &str) {
    let alerts = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/prometheus/agent-alerts.yaml");
    let alerts = std::fs::read_to_string(alerts).expect("the alerts");
    let words = alerts.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let figures: Vec<&str> = words.filter(|it| it.starts_with("snowcache_")).collect();
    assert!(figures.len() >= alerts.matches("- alert: ").count());
    for figure in figures {
        let family = format!("# TYPE {figure} ");
        assert!(metrics.contains(&family), "{figure} is printed by nobody");
    }
}

#[test]
fn killed_at_any_moment_it_goes_on_without_being_asked_again() {
    let world = World::system();
    let (top, closure) = (&world.generation.top, &world.generation.closure);
    let mut machine = world.node(&Nix::newer());
    let wire = Wire::to(world.server.address());
    let mut service = Service::start(&mut machine, &[wire.url()], "", "jobs = 2");
    wire.stall_after(NARS, "/nar/");
    let program = binary("snowcache");
    let script = format!("exec {} prefetch {top}", program.display());
    let mut asking = machine.node.command(&machine.user, &machine.nix, &script);
    let mut asking = asking.stdout(Stdio::null()).spawn().expect("setpriv runs");
    for last in [false, true] {
        wire.wait_until_failed();
        service.kill();
        machine.sh("nix-store --gc").ok();
        let valid = machine.valid(closure);
        assert!(0 < valid && valid < closure.len(), "in the middle: {valid}");
        if !last {
            wire.stall_after(NARS, "/nar/");
        }
        wire.set(Mode::Good);
        service.start_again(&machine);
    }
    // Who had asked was waiting all the while.
    let status = asking.wait().expect("our own child");
    assert!(status.success(), "{status}: {}", service.log());
    machine.snowcache(&format!("gate {top}")).ok();
    assert_eq!(machine.valid(closure), closure.len());
    machine.assert_sound();
}

#[test]
fn the_more_urgent_goes_first_and_the_budget_changes_while_it_fetches() {
    let world = World::system();
    let big = &world.generation.top;
    let small = corpus::small();
    let mut machine = world.node(&Nix::installed());
    let service = serve(&mut machine, world, "", "rate = \"200KB/s\"");
    let ask = |root: &str, more: &str| {
        let script = format!(
            "exec {} prefetch {root} {more}",
            binary("snowcache").display()
        );
        let mut command = machine.node.command(&machine.user, &machine.nix, &script);
        command.stdout(Stdio::null()).spawn().expect("setpriv runs")
    };
    let mut first = ask(big, "");
    service.wait_for(&machine, big, |job| job["running"] == true);
    let mut second = ask(&small.top, "--priority 5 --pin urgent");
    // By itself the first one would take longer than anybody waits here.
    service.wait_for(&machine, &small.top, |job| job["running"] == true);
    assert_eq!(service.job(&machine, big).expect("waits")["running"], false);

    // In a second 200 kB may come, and a chunk for each that fetches, of 400 KiB at most.
    let received = || machine.snowcache("status --json").json()["received_bytes"].as_u64();
    let (begin, before) = (Instant::now(), received().expect("a number"));
    thread::sleep(Duration::from_secs(1));
    let came = received().expect("a number") - before;
    let allowed = 200_000.0 * (begin.elapsed().as_secs_f64() + 1.0) + 8.0 * 409_600.0;
    assert!((came as f64) < allowed, "{came} bytes, allowed {allowed}");
    let said = machine.snowcache("agent rate unlimited").ok();
    assert_eq!(said, "the rate is unlimited now");
    assert!(second.wait().expect("our own child").success());
    machine.snowcache(&format!("gate {}", small.top)).ok();
    assert!(first.wait().expect("our own child").success());
    machine.snowcache(&format!("gate {big}")).ok();
}

#[test]
fn only_root_and_the_group_may_command_it() {
    let world = World::small();
    let top = &world.generation.top;
    let mut machine = world.node(&Nix::newer());
    let group = "group = \"daemon\"";
    let service = serve(&mut machine, world, group, "");
    let folder = support::folder_on_disk();
    let program = folder.path().join("snowcache");
    std::fs::copy(binary("snowcache"), &program).expect("a copy");
    let open = Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(folder.path())
        .status();
    assert!(open.expect("chmod runs").success());
    let as_user = |gid: u32, arguments: &str| {
        let who = format!("setpriv --reuid 65534 --regid {gid} --clear-groups");
        machine.sh(&format!("{who} {} {arguments}", program.display()))
    };
    let refused = as_user(65_534, "status");
    assert_eq!(refused.code, 1);
    let why = refused.fails();
    assert!(why.contains("only root may command this agent"), "{why}");
    assert!(
        why.contains("the members of the group daemon may, too"),
        "{why}"
    );
    assert_eq!(as_user(65_534, "agent rate 1MB/s").code, 1);
    assert_eq!(as_user(65_534, &format!("wait {top} --timeout 0")).code, 1);
    // What was refused has changed nothing; who is of the group is heard.
    let status = as_user(1, "status --json").json();
    assert_eq!(status["rate_bytes_per_s"], 0);
    as_user(1, "agent rate 1MB/s").ok();
    let status = machine.snowcache("status --json").json();
    assert_eq!(status["rate_bytes_per_s"], 1_000_000);
    assert!(service.socket().exists());
}

#[test]
fn what_cannot_be_had_is_given_up_with_why_or_tried_until_its_time_is_over() {
    let world = World::small();
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let mut machine = world.node(&Nix::newer());
    let service = serve(&mut machine, world, "", "");
    let ran = machine.snowcache(&format!("prefetch {absent}"));
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("is in none of the caches"),
        "{}",
        ran.stderr
    );
    let ran = machine.snowcache(&format!("wait {absent}"));
    assert_eq!(ran.code, 1, "it was given up, so nothing is waited for");
    assert!(ran.stderr.contains("given up"), "{}", ran.stderr);
    let said = machine.snowcache(&format!("why {absent} --json"));
    let why: Value = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(why["job"]["state"], "given_up");

    let script = format!(
        "exec {} prefetch {absent} --deadline 600 --pin other",
        binary("snowcache").display()
    );
    let mut asking = machine.node.command(&machine.user, &machine.nix, &script);
    let mut asking = asking.stdout(Stdio::null()).spawn().expect("setpriv runs");
    let tried = |job: &Value| state(job) == "waiting" && job["attempts"].as_u64() >= Some(2);
    service.wait_for(&machine, absent, tried);
    machine.snowcache(&format!("agent cancel {absent}")).ok();
    assert_eq!(asking.wait().expect("our own child").code(), Some(1));
    let ran = machine.snowcache(&format!("prefetch {absent} --deadline 1 --pin other"));
    assert_eq!(ran.code, 1);
    let job = service.job(&machine, absent).expect("known");
    assert_eq!(state(&job), "given_up");

    let away = ["http://127.0.0.1:1".to_owned()];
    drop(service);
    let service = Service::start(&mut machine, &away, "", "");
    let top = &world.generation.top;
    let ran = machine.snowcache(&format!("prefetch {top} --deadline 8"));
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("cannot reach http://127.0.0.1:1"),
        "{}",
        ran.stderr
    );
    // From where it is told it can be had.
    let from = format!("prefetch {top} --from {}", world.server.url());
    machine.snowcache(&from).ok();
    assert_eq!(state(&service.job(&machine, top).expect("known")), "ready");
}

#[test]
fn told_to_end_it_ends_well_and_another_one_of_the_same_folder_is_refused() {
    let world = World::small();
    let mut machine = world.node(&Nix::installed());
    let mut service = serve(&mut machine, world, "", "rate = \"10KB/s\"");
    let top = world.generation.top.clone();
    let program = binary("snowcache");
    let config = service.socket().with_file_name("agent.toml");
    let other = machine.snowcache(&format!("agent --config {}", config.display()));
    assert_eq!(other.code, 1);
    assert!(
        other.stderr.contains("another agent serves"),
        "{}",
        other.stderr
    );
    let bad = "agent --check-config --config /dev/stdin <<< 'sockt = \"/x\"'";
    let bad = machine.sh(&format!("{} {bad}", program.display()));
    assert_eq!(bad.code, 2);
    assert!(
        bad.stderr.contains("did you mean `socket`?"),
        "{}",
        bad.stderr
    );

    let script = format!("exec {} prefetch {top}", program.display());
    let mut asking = machine.node.command(&machine.user, &machine.nix, &script);
    let mut asking = asking.stdout(Stdio::null()).spawn().expect("setpriv runs");
    service.wait_for(&machine, &top, |job| !job["progress"].is_null());
    assert!(service.stop().success(), "{}", service.log());
    assert!(!service.socket().exists());
    service.start_again(&machine);
    machine.snowcache("agent rate unlimited").ok();
    assert!(asking.wait().expect("our own child").success());

    let gone = machine.snowcache(&format!("agent cancel {top}"));
    assert_eq!(gone.code, 1, "it is ready, so nothing waits");
    service.stop();
    assert_eq!(machine.snowcache("status").code, 3);
}

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

#[test]
fn a_pin_that_is_followed_brings_what_it_points_to_and_again_when_it_moves() {
    let rebuilt = support::agent::Rebuilt::small();
    let [before, after] = rebuilt.generations();
    let world = rebuilt.after;
    let follow = "[[follow]]\npin = \"web-node\"\nas = \"system\"\ninterval_s = 1\n";
    let mut machine = world.node(&Nix::newer());
    let service = serve(&mut machine, world, "", follow);
    let begin = Instant::now();
    let failing = || {
        let status = machine.snowcache("status --json").json();
        status["follow"][0]["why"].as_str().map(str::to_owned)
    };
    while failing().is_none() {
        assert!(
            begin.elapsed() < PATIENCE,
            "it is not told that there is no such pin"
        );
        thread::sleep(Duration::from_millis(20));
    }
    for (generation, number) in [(before, 1), (after, 2)] {
        pin(&world.server, "web-node", &generation.top);
        service.wait_for(&machine, &generation.top, |job| state(job) == "ready");
        machine.snowcache(&format!("gate {}", generation.top)).ok();
        let pins = machine.snowcache("pins --json").json();
        assert_eq!(pins["pins"][0]["roots"][0], generation.top.as_str());
        let follows = pins["pins"][0]["follows"].as_str().expect("followed");
        assert!(follows.starts_with("web-node of http"), "{follows}");
        let followed = || {
            let status = machine.snowcache("status --json").json();
            status["follow"][0]["generation"].as_u64()
        };
        // It is written down after the look, and what it brings may be there before that.
        let begin = Instant::now();
        while followed() != Some(number) {
            assert!(begin.elapsed() < PATIENCE, "{:?}", followed());
            thread::sleep(Duration::from_millis(20));
        }
    }
    assert!(Path::new(&service.socket()).exists());
    machine.assert_sound();
}

#[test]
fn a_disk_that_fills_in_the_middle_of_an_import_ends_in_a_clear_why() {
    let world = World::system();
    let (top, url) = (&world.generation.top, world.server.url());
    let program = binary("snowcache");
    for nix in Nix::both() {
        let (node, mut user) = (Node::empty(), User::new());
        user.set("trusted-public-keys", &world.server.public_key());
        let home = user.home().to_owned();
        let path = |name: &str| home.join(name).to_string_lossy().into_owned();
        let (socket, state, agent) = (path("socket"), path("state"), path("agent"));
        let config = format!(
            "socket = {agent:?}\nstate = {state:?}\nstore_socket = {socket:?}\n\
             [fetch]\ncaches = [\"{url}\"]\nrate = \"2MB/s\"\n"
        );
        std::fs::write(path("agent.toml"), config).expect("a configuration");
        user.variable("NIX_DAEMON_SOCKET_PATH", &socket);
        user.variable("SNOWCACHE_STATE", &state);
        user.variable("SNOWCACHE_AGENT", &agent);
        let program = program.display();
        let script = format!(
            "{program} agent --config $HOME/agent.toml 2>/dev/null & agent=$!\n\
             trap \"kill $agent $daemon\" EXIT\n\
             until {program} status >/dev/null 2>&1; do sleep 0.02; done\n\
             {program} prefetch {top} >/dev/null & prefetch=$!\n\
             until [ $(ls /nix/store | wc -l) -gt 4 ]; do sleep 0.01; done\n\
             cat /dev/zero > /nix/filler 2>/dev/null || true\n\
             wait $prefetch && exit 9\n\
             {program} why {top} && exit 9\n\
             {program} status --json > $HOME/status\n\
             rm /nix/filler\n\
             nix-store --verify --check-contents 2>&1\n\
             {program} agent rate unlimited\n\
             {program} prefetch {top}\n\
             {program} gate {top}"
        );
        let ran = node.sh(&user, &nix, &on_a_small_disk(1200, &script));
        let (said, status) = (ran.stdout.clone(), path("status"));
        let stderr = ran.stderr.clone();
        ran.ok();
        let status = std::fs::read_to_string(status).expect("a status");
        let status: Value = serde_json::from_str(&status).expect("JSON");
        let why = status["jobs"][0]["why"].as_str().expect("a reason");
        assert!(why.contains("the node's disk is full: "), "{why}");
        assert!(why.contains("make room"), "{why}");
        assert!(said.contains("agent: given up"), "{said}{stderr}");
        assert!(!said.contains("modified"), "{said}");
    }
}
