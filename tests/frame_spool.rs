//! What a kill costs of paths that are under way: whoever comes back fetches the rest, whatever has
//! become meanwhile of what was kept.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{Machine, PATIENCE, Service};
use support::corpus;
use support::fault::{Mode, Wire};
use support::nar::Upload;
use support::nix::Nix;
use support::proxy::Proxy;
use support::server::binary;
use support::versions::Versions;

/// What a kill may cost: the longest frame.
const FRAME: u64 = 1 << 20;

/// Of every run besides: narinfos, plans, heads of requests and answers, and what the wire had in
/// its hands.
const BESIDES: u64 = 64 << 10;

/// Where a NAR of 11 MiB is broken off.
const POINTS: [u64; 4] = [1_500_000, 2_500_000, 4_000_000, 7_800_000];

/// A cache with two versions of a program, reached by a wire that counts, and a node.
struct Kills {
    versions: Versions,
    wire: Wire,
    machine: Machine,
}

impl Kills {
    fn new(nix: &Nix) -> Kills {
        let versions = Versions::changed_by(4);
        Kills {
            wire: Wire::to(versions.server.address()),
            machine: Machine::new(nix, &versions.server.public_key()),
            versions,
        }
    }

    /// Prefetches one of the two.
    fn arguments(&self, version: usize, more: &str) -> String {
        let path = &self.versions.paths()[version];
        format!(
            "prefetch {path} --pin program --from {} {more}",
            self.wire.url()
        )
    }

    /// Kills it when so many bytes of the answer to such a request have come; what passed until
    /// then.
    fn kill_at(&self, arguments: &str, request: &str, after_bytes: u64) -> u64 {
        let before = self.wire.passed_bytes();
        self.wire.fail_at(request, after_bytes, Mode::Stalls);
        let mut child = self.start(arguments);
        self.wire.wait_until_failed();
        self.wire.wait_until_read();
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        self.heal();
        self.wire.passed_bytes() - before
    }

    fn start(&self, arguments: &str) -> Child {
        let program = binary("snowcache");
        let script = format!("exec {} {arguments}", program.display());
        let Machine {
            node, user, nix, ..
        } = &self.machine;
        let mut command = node.command(user, nix, &script);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        child.expect("setpriv runs")
    }

    fn heal(&self) {
        self.wire.cut();
        self.wire.set(Mode::Good);
    }

    /// Lets it come to its end; what passed, and what it said.
    fn finish(&self, arguments: &str) -> (u64, String) {
        let before = self.wire.passed_bytes();
        let ran = self.machine.snowcache(arguments);
        let told = ran.stderr.clone();
        ran.ok();
        (self.wire.passed_bytes() - before, told)
    }

    #[track_caller]
    fn assert_there(&self, version: usize) {
        let Upload {
            store_path, nar, ..
        } = &self.versions.uploads[version];
        assert_eq!(self.machine.valid(std::slice::from_ref(store_path)), 1);
        let there = corpus::dump_sha256(&self.machine.node.outside(store_path));
        assert!(there == corpus::sha256(&nar[..]));
        self.machine.assert_sound();
        assert_eq!(
            self.spooled(),
            Vec::<PathBuf>::new(),
            "gone with the import"
        );
    }

    /// What lies in the spool.
    fn spooled(&self) -> Vec<PathBuf> {
        let plans = fs::read_dir(self.machine.user.home().join("snowcache/spool"));
        let plans = plans
            .into_iter()
            .flatten()
            .map(|plan| plan.expect("a folder").path());
        let files = plans.flat_map(|plan| fs::read_dir(plan).expect("a folder"));
        files.map(|file| file.expect("a file").path()).collect()
    }

    /// How much that is.
    fn spooled_bytes(&self) -> u64 {
        let files = self.spooled();
        let sizes = files
            .iter()
            .map(|file| fs::metadata(file).expect("a file").len());
        sizes.sum()
    }
}

/// What a NAR of these random bytes has packed.
fn packed_bytes(upload: &Upload) -> u64 {
    upload.nar.len() as u64
}

#[test]
fn a_kill_in_the_middle_of_a_nar_costs_a_frame() {
    for nix in Nix::both() {
        let kills = Kills::new(&nix);
        let prefetch = kills.arguments(0, "");
        let (mut passed, mut before) = (0, 0);
        for point in POINTS {
            passed += kills.kill_at(&prefetch, "/nar/", point - before);
            assert!(
                kills.spooled_bytes() + FRAME >= point,
                "{}",
                kills.spooled_bytes()
            );
            before = kills.spooled_bytes();
        }
        let (last, told) = kills.finish(&prefetch);
        assert_eq!(told, "");
        kills.assert_there(0);
        let most = packed_bytes(&kills.versions.uploads[0]) + POINTS.len() as u64 * FRAME;
        let besides = (POINTS.len() as u64 + 1) * BESIDES;
        let passed = passed + last;
        println!(
            "{}: {passed} bytes with {} kills",
            nix.version,
            POINTS.len()
        );
        assert!(passed <= most + besides, "{passed}, at most {most}");
    }
}

#[test]
fn a_kill_in_the_middle_of_a_delta_costs_a_frame() {
    for nix in Nix::both() {
        let kills = Kills::new(&nix);
        kills.finish(&kills.arguments(0, ""));
        let whole = Kills::new(&nix);
        whole.finish(&whole.arguments(0, ""));
        let (without_kills, _) = whole.finish(&whole.arguments(1, ""));

        let prefetch = kills.arguments(1, "");
        let passed = kills.kill_at(&prefetch, "/api/v1/frames", 3_000_000);
        assert!(kills.spooled_bytes() + FRAME >= 3_000_000);
        let (last, told) = kills.finish(&prefetch);
        kills.assert_there(1);
        let asked = kills.wire.asked();
        let nars = asked.iter().filter(|it| it.line.contains("/nar/")).count();
        assert_eq!(nars, 1, "of the older one: {told}");
        let passed = passed + last;
        println!(
            "{}: {passed} bytes, {without_kills} without a kill",
            nix.version
        );
        assert!(
            passed <= without_kills + FRAME + 2 * BESIDES,
            "{passed} of {without_kills}"
        );
    }
}

#[test]
fn a_spool_that_is_full_keeps_what_it_has_room_for() {
    let kills = Kills::new(&Nix::newer());
    let prefetch = kills.arguments(0, "--spool 3MiB");
    kills.kill_at(&prefetch, "/nar/", 6_000_000);
    let kept = kills.spooled_bytes();
    assert!((2 << 20..=3 << 20).contains(&kept), "{kept}");
    let (passed, told) = kills.finish(&prefetch);
    assert_eq!(told, "", "that is what was asked for");
    kills.assert_there(0);
    let left = packed_bytes(&kills.versions.uploads[0]) - kept;
    assert!(passed <= left + BESIDES, "{passed} of {left}");

    // None at all.
    let kills = Kills::new(&Nix::installed());
    let prefetch = kills.arguments(0, "--spool 0");
    kills.kill_at(&prefetch, "/nar/", 6_000_000);
    assert_eq!(kills.spooled_bytes(), 0);
    kills.finish(&prefetch);
    kills.assert_there(0);
}

#[test]
fn what_was_damaged_is_fetched_again() {
    for (number, at) in [5_000_000, 2_000_000, 400_000, 5].into_iter().enumerate() {
        let kills = Kills::new(&Nix::both()[number % 2]);
        let prefetch = kills.arguments(0, "");
        kills.kill_at(&prefetch, "/nar/", 6_000_000);
        let spooled = kills.spooled();
        assert_eq!(spooled.len(), 1, "{spooled:?}");
        let file = File::options().read(true).write(true).open(&spooled[0]);
        let (file, mut bytes) = (file.expect("an entry"), [0; 3]);
        file.read_exact_at(&mut bytes, at).expect("there");
        let flipped = bytes.map(|byte| byte ^ 0x24);
        file.write_all_at(&flipped, at).expect("an entry");
        let (passed, told) = kills.finish(&prefetch);
        println!("damaged at {at}: {passed} bytes more; {told}");
        kills.assert_there(0);
    }
}

#[test]
fn a_spool_that_cannot_be_written_costs_only_the_spool() {
    let kills = Kills::new(&Nix::newer());
    let state = kills.machine.user.home().join("snowcache");
    kills
        .machine
        .sh(&format!("mkdir -p {0}; touch {0}/spool", state.display()))
        .ok();
    let (_, told) = kills.finish(&kills.arguments(0, ""));
    let careful = told.matches("careful: what comes is not kept").count();
    assert_eq!(careful, 1, "{told}");
    fs::remove_file(state.join("spool")).expect("a file");
    kills.assert_there(0);
}

#[test]
fn of_a_cache_that_does_not_go_on_in_the_middle_nothing_is_kept() {
    let kills = Kills::new(&Nix::newer());
    // It answers whole files, and says nothing of ranges.
    let plain = Proxy::before(kills.versions.server.address(), |_, answer| answer);
    let wire = Wire::to(plain.url()["http://".len()..].parse().expect("an address"));
    let kills = Kills { wire, ..kills };
    let prefetch = kills.arguments(0, "");
    kills.kill_at(&prefetch, "/nar/", 6_000_000);
    assert_eq!(kills.spooled_bytes(), 0);
    kills.finish(&prefetch);
    kills.assert_there(0);
}

#[test]
fn what_is_kept_goes_with_its_plan() {
    let kills = Kills::new(&Nix::newer());
    kills.kill_at(&kills.arguments(0, ""), "/nar/", 4_000_000);
    assert!(kills.spooled_bytes() > 0);
    // As docs/agent.md says who no longer wants it does.
    let plans = kills.machine.user.home().join("snowcache/plans");
    fs::remove_dir_all(plans.join("program")).expect("a plan");
    let other = kills
        .arguments(1, "")
        .replace("--pin program", "--pin other");
    kills.finish(&other);
    kills.assert_there(1);
}

#[test]
fn an_agent_that_is_killed_or_told_otherwise_goes_on_or_lets_go() {
    for nix in Nix::both() {
        let mut kills = Kills::new(&nix);
        let caches = [kills.wire.url()];
        let mut agent = Service::start(&mut kills.machine, &caches, "", "");
        let [path, newer] = kills.versions.paths();
        let begin = kills.wire.passed_bytes();
        kills.wire.fail_at("/nar/", 6_000_000, Mode::Stalls);
        let mut asking = kills.start(&format!("prefetch {path} --pin program"));
        kills.wire.wait_until_failed();
        kills.wire.wait_until_read();
        agent.kill();
        kills.heal();
        assert!(kills.spooled_bytes() + FRAME >= 6_000_000);
        agent.start_again(&kills.machine);
        agent.wait_for(&kills.machine, &path, |job| job["state"] == "ready");
        asking.wait().expect("our own child");
        kills.assert_there(0);
        let passed = kills.wire.passed_bytes() - begin;
        let most = packed_bytes(&kills.versions.uploads[0]) + FRAME + 2 * BESIDES;
        assert!(passed <= most, "{passed}, at most {most}");

        // And one that is wanted no more.
        kills
            .wire
            .fail_at("/api/v1/frames", 3_000_000, Mode::Stalls);
        let mut asking = kills.start(&format!("prefetch {newer} --pin program"));
        kills.wire.wait_until_failed();
        let begin = Instant::now();
        while kills.spooled_bytes() == 0 {
            assert!(begin.elapsed() < PATIENCE, "{}", agent.log());
            thread::sleep(Duration::from_millis(5));
        }
        let cancel = format!("agent cancel {newer}");
        kills.machine.snowcache(&cancel).ok();
        assert_eq!(kills.spooled(), Vec::<PathBuf>::new());
        asking.kill().expect("our own child");
        asking.wait().expect("our own child");
        agent.kill();
        kills.heal();
    }
}
