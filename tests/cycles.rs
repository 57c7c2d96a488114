//! Cycles of prefetch and switch under faults: whatever happens at whichever stage, nothing that is
//! not verified is ever switched to, the generation before is always there, and what the next try
//! finds is whole.
//!
//! ```text
//!   the agent  prefetch --> verify --> pin --> ready       `snowcache switch` --> the profile
//!                 ^            ^        ^                         ^
//!   kill (agent, or the switch)   cut   lie   stall   vanish (the cache)
//! ```
//! A system here has a stand-in for NixOS's switch-to-configuration, which writes down that it ran.
//! `SNOWCACHE_CYCLES` is how many cycles are run, at least one for each fault at each stage; they
//! are spread evenly, half with Nix 2.8 and half with 2.26. The table of what was really hit is
//! printed.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{Machine, PATIENCE, Service};
use support::fault::{Mode, Wire};
use support::nix::Nix;
use support::random::Random;
use support::server::{Snowcached, binary};
use support::systems::{PARTS, System, Systems};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Kill,
    Cut,
    Lie,
    Stall,
    Vanish,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Prefetch,
    Verify,
    Pin,
    Switch,
}

const FAULTS: [Fault; 5] = [
    Fault::Kill,
    Fault::Cut,
    Fault::Lie,
    Fault::Stall,
    Fault::Vanish,
];
const STAGES: [Stage; 4] = [Stage::Prefetch, Stage::Verify, Stage::Pin, Stage::Switch];
/// Systems that take turns: one runs, one ran before, and one is not there any more.
const SYSTEMS: usize = 4;
/// How long a cache that was made to fail stays so.
const HEALS_AFTER: Duration = Duration::from_millis(300);
/// A stage that was over when the fault came is tried for again, so often: on a busy machine more
/// than half of them are.
const TRIES: usize = 50;

#[test]
fn nothing_unverified_is_switched_to_whatever_fails_when() {
    let wanted = std::env::var("SNOWCACHE_CYCLES").ok();
    let wanted = wanted.and_then(|text| text.parse().ok()).unwrap_or(0);
    let cells = FAULTS.len() * STAGES.len();
    let rounds = usize::max(wanted / cells, 1);
    let seed = std::env::var("SNOWCACHE_SEED").ok();
    let seed = seed.and_then(|text| text.parse().ok()).unwrap_or(1);
    println!("seed {seed}, {rounds} of each fault at each stage");
    let mut table = Table::default();
    let [old, new] = Nix::both();
    // One round alone is for the newer one.
    for (nix, rounds) in [(new, rounds.div_ceil(2)), (old, rounds / 2)] {
        if rounds == 0 {
            continue;
        }
        let mut fleet = Fleet::new(&nix, seed);
        for round in 0..rounds {
            for stage in STAGES {
                for fault in FAULTS {
                    fleet.until_hit(fault, stage, round, &mut table);
                }
            }
        }
    }
    println!("{}", table.text());
    for stage in STAGES {
        for fault in FAULTS {
            let hit = table.hits.get(&(stage, fault)).copied().unwrap_or(0);
            assert!(hit >= rounds, "{fault:?} at {stage:?}: {hit} of {rounds}");
        }
    }
}

/// What was seen.
#[derive(Default)]
struct Table {
    hits: BTreeMap<(Stage, Fault), usize>,
    cycles: usize,
    early_refused: usize,
    early_passed: usize,
    switched: usize,
    gone_back: usize,
    seen_through: usize,
    /// Cycles in which what had come of a path was on the disk when the fault came.
    kept: usize,
}

impl Table {
    fn text(&self) -> String {
        let mut text =
            String::from("| | kill | cut | lie | stall | vanish |\n|---|---|---|---|---|---|\n");
        for stage in STAGES {
            let counts = FAULTS.map(|fault| {
                let hit = self.hits.get(&(stage, fault)).copied();
                hit.unwrap_or(0).to_string()
            });
            let name = format!("{stage:?}").to_lowercase();
            text += &format!("| {name} | {} |\n", counts.join(" | "));
        }
        let Table {
            cycles,
            early_refused,
            early_passed,
            switched,
            gone_back,
            seen_through,
            kept,
            ..
        } = self;
        text + &format!(
            "{cycles} cycles, {switched} switches; tried too early {early_refused} refused, \
             {early_passed} already whole; killed in the switch {gone_back} gone back from, \
             {seen_through} over already; with part of a path kept {kept}"
        )
    }
}

/// A cache with systems behind two wires, and a node that is brought from one to the next.
struct Fleet {
    _server: Snowcached,
    machine: Machine,
    service: Service,
    wires: [Wire; 2],
    systems: Vec<System>,
    /// Which one runs.
    at: usize,
    seed: u64,
    random: Random,
}

impl Fleet {
    fn new(nix: &Nix, seed: u64) -> Fleet {
        let server = Snowcached::start_with(support::folder_on_disk(), "warn", &[]);
        let systems = Systems::make(&server, seed, SYSTEMS).all;
        let mut machine = Machine::new(nix, &server.public_key());
        let wires = [(); 2].map(|()| Wire::to(server.address()));
        let urls: Vec<String> = wires.iter().map(Wire::url).collect();
        let retry = "[retry]\nfirst_wait_s = 1\nlongest_wait_s = 1\n";
        let service = Service::start(&mut machine, &urls, "", retry);
        let fleet = Fleet {
            _server: server,
            machine,
            service,
            wires,
            systems,
            at: 1,
            seed,
            random: Random::seeded(seed),
        };
        for number in [0, 1] {
            let top = &fleet.systems[number].top;
            let prefetch = format!("prefetch {top} --pin system");
            fleet.machine.snowcache(&prefetch).ok();
            fleet.machine.snowcache(&format!("switch {top}")).ok();
        }
        fleet
    }

    fn until_hit(&mut self, fault: Fault, stage: Stage, round: usize, table: &mut Table) {
        for _ in 0..TRIES {
            let hit = self.cycle(fault, stage, round, table);
            table.cycles += 1;
            if let Some(hit) = hit {
                *table.hits.entry((hit, fault)).or_default() += 1;
            }
            if hit == Some(stage) {
                return;
            }
        }
        panic!("{fault:?} never came at {stage:?}");
    }

    /// One cycle: the stage at which the fault really came.
    fn cycle(
        &mut self,
        fault: Fault,
        stage: Stage,
        round: usize,
        table: &mut Table,
    ) -> Option<Stage> {
        let target = (self.at + 1) % SYSTEMS;
        self.forget(target);
        let top = self.systems[target].top.clone();
        let last = self.last_job();
        let mut asking = self.start(&format!("prefetch {top} --pin system --deadline 100"));
        let begin = Instant::now();
        while self.last_job() == last {
            assert!(begin.elapsed() < PATIENCE, "it was not asked for");
            thread::sleep(Duration::from_micros(50));
        }
        let mut hit = None;
        if stage != Stage::Switch {
            self.wait_for(stage, target);
            self.apply(fault, round);
            hit = self.stage_of(target);
            table.kept += usize::from(self.has_kept());
            self.try_too_early(target, table);
            self.heal(fault);
        }
        let status = asking.wait().expect("our own child");
        assert!(status.success(), "{status}: {}", self.service.log());
        self.machine.snowcache(&format!("gate {top}")).ok();
        if stage == Stage::Switch {
            hit = self.switch_under(fault, round, target, table);
            self.heal(Fault::Cut);
        }
        let before = self.profile();
        if before != top {
            self.machine.snowcache(&format!("switch {top}")).ok();
            table.switched += 1;
        }
        self.assert_well(target);
        self.at = target;
        hit
    }

    /// Takes the system that comes next from the node, as after months.
    fn forget(&mut self, target: usize) {
        let clean = "nix-env --profile /nix/var/nix/profiles/system --delete-generations +2 2>&1\n\
                     nix-store --gc 2>&1";
        self.machine.sh(clean).ok();
        let receipt = self.state().join("receipts").join(self.name(target));
        fs::remove_file(receipt).ok();
        fs::remove_file(self.machine.user.home().join("configured")).ok();
        let closure = &self.systems[target].closure;
        assert_eq!(self.machine.valid(closure), 0, "it is there still");
    }

    fn state(&self) -> PathBuf {
        self.machine.user.home().join("snowcache")
    }

    fn name(&self, target: usize) -> String {
        self.systems[target].top["/nix/store/".len()..].to_owned()
    }

    fn start(&self, arguments: &str) -> Child {
        let script = format!("exec {} {arguments}", binary("snowcache").display());
        let (user, nix) = (&self.machine.user, &self.machine.nix);
        let mut command = self.machine.node.command(user, nix, &script);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().expect("setpriv runs")
    }

    /// The number of the last thing that the agent was asked for.
    fn last_job(&self) -> Option<u64> {
        let jobs = fs::read_dir(self.state().join("jobs")).expect("the agent's");
        let names = jobs.flatten().map(|job| job.file_name());
        let number = |name: std::ffi::OsString| name.to_str()?.strip_suffix(".json")?.parse().ok();
        names.filter_map(number).max()
    }

    /// Paths that have come and are rooted.
    fn linked(&self) -> usize {
        let plan = self.state().join("plans/system");
        fs::read_dir(plan).map_or(0, Iterator::count)
    }

    fn is_verified(&self, target: usize) -> bool {
        let receipt = self.state().join("receipts").join(self.name(target));
        receipt.exists()
    }

    fn is_pinned(&self, target: usize) -> bool {
        let link = self.state().join("pins/system").join(self.name(target));
        fs::symlink_metadata(link).is_ok() && self.linked() == 0
    }

    /// Where the prefetch is; nothing when it is over.
    fn stage_of(&self, target: usize) -> Option<Stage> {
        match (self.is_pinned(target), self.is_verified(target)) {
            (true, _) => None,
            (false, true) => Some(Stage::Pin),
            (false, false) if self.linked() == PARTS + 1 => Some(Stage::Verify),
            (false, false) => Some(Stage::Prefetch),
        }
    }

    /// Whether something lies there of what has come of a path that is not imported.
    fn has_kept(&self) -> bool {
        let files = fs::read_dir(self.state().join("spool/system"));
        files.is_ok_and(|mut files| files.next().is_some())
    }

    fn wait_for(&mut self, stage: Stage, target: usize) {
        let parts = self.random.below(PARTS as u64 + 1) as usize;
        let more = Duration::from_micros(self.random.below(20_000));
        let begin = Instant::now();
        let reached = || match stage {
            // Or it is over, faster than one can look.
            Stage::Prefetch => self.linked() >= parts || self.is_pinned(target),
            Stage::Verify => self.linked() > PARTS || self.is_verified(target),
            Stage::Pin | Stage::Switch => self.is_verified(target),
        };
        while !reached() {
            assert!(
                begin.elapsed() < PATIENCE,
                "no {stage:?}: {}",
                self.service.log()
            );
            thread::sleep(Duration::from_micros(50));
        }
        if stage == Stage::Prefetch {
            thread::sleep(more);
        }
    }

    /// To the agent, or to its caches: the first one, in every other round both.
    fn apply(&mut self, fault: Fault, round: usize) {
        let wires = &self.wires[..1 + (round + self.seed as usize) % 2];
        match fault {
            Fault::Kill => self.service.kill(),
            Fault::Cut => wires.iter().for_each(Wire::cut),
            Fault::Lie => wires.iter().for_each(|wire| wire.set(Mode::Lies)),
            Fault::Stall => wires.iter().for_each(|wire| wire.set(Mode::Stalls)),
            Fault::Vanish => wires.iter().for_each(|wire| wire.set(Mode::Gone)),
        }
    }

    fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::Kill => self.service.start_again(&self.machine),
            Fault::Cut => {}
            Fault::Lie | Fault::Stall | Fault::Vanish => thread::sleep(HEALS_AFTER),
        }
        self.wires.iter().for_each(|wire| wire.set(Mode::Good));
    }

    /// Whoever switches right after the fault switches only if all of it is there and right.
    fn try_too_early(&self, target: usize, table: &mut Table) {
        let top = &self.systems[target].top;
        let ran = self.machine.snowcache(&format!("switch {top}"));
        if ran.failed() {
            table.early_refused += 1;
            assert_eq!(ran.code, 1, "{}", ran.stderr);
            assert_ne!(&self.profile(), top);
            let ran_at_all = self.machine.user.home().join("configured");
            assert!(!ran_at_all.exists(), "it was configured: {}", ran.stderr);
        } else {
            table.early_passed += 1;
            table.switched += 1;
            self.assert_whole(target);
        }
    }

    /// The switch itself, while the fault happens to it.
    fn switch_under(
        &mut self,
        fault: Fault,
        round: usize,
        target: usize,
        table: &mut Table,
    ) -> Option<Stage> {
        let top = self.systems[target].top.clone();
        if fault != Fault::Kill {
            let passed = |fleet: &Fleet| fleet.wires.each_ref().map(Wire::passed_bytes);
            self.apply(fault, round + 1);
            let before = passed(self);
            self.machine.snowcache(&format!("switch {top}")).ok();
            table.switched += 1;
            assert_eq!(passed(self), before, "a switch needs no cache");
            return Some(Stage::Switch);
        }
        let mut switching = self.start(&format!("switch {top}"));
        let trial = self.state().join("trial.json");
        let begin = Instant::now();
        // Or it is over, faster than one can look.
        let mut over = || switching.try_wait().expect("our own child").is_some();
        while !trial.exists() && !over() {
            assert!(begin.elapsed() < PATIENCE);
            thread::sleep(Duration::from_micros(50));
        }
        thread::sleep(Duration::from_micros(self.random.below(90_000)));
        switching.kill().expect("our own child");
        switching.wait().expect("our own child");
        let hit = trial.exists().then_some(Stage::Switch);
        let now = self.profile();
        let running = self.systems[self.at].top.clone();
        assert!(now == top || now == running, "{now}");
        let decided = self.machine.snowcache("confirm --decide");
        match hit {
            Some(_) => {
                table.gone_back += 1;
                let why = decided.fails();
                assert!(why.contains("was broken off; went back to"), "{why}");
                assert_eq!(self.profile(), running);
                assert!(!trial.exists());
            }
            None => {
                table.seen_through += 1;
                table.switched += 1;
                decided.ok();
                assert_eq!(self.profile(), top);
            }
        }
        hit
    }

    fn profile(&self) -> String {
        let link = self.machine.node.outside("/nix/var/nix/profiles");
        let generation = fs::read_link(link.join("system")).expect("a profile");
        let system = fs::read_link(link.join(generation)).expect("a generation");
        system.to_string_lossy().into_owned()
    }

    #[track_caller]
    fn assert_whole(&self, number: usize) {
        let closure = &self.systems[number].closure;
        assert_eq!(self.machine.valid(closure), closure.len());
        let verify = format!("nix-store --verify-path {}", closure.join(" "));
        self.machine.sh(&verify).ok();
    }

    /// What runs is whole, and so is what ran before; nothing else in the store is wrong.
    fn assert_well(&self, target: usize) {
        assert_eq!(self.profile(), self.systems[target].top);
        self.assert_whole(target);
        self.assert_whole(self.at);
        let list = "nix-env --profile /nix/var/nix/profiles/system --list-generations";
        assert!(self.machine.sh(list).ok().lines().count() >= 2);
        self.machine.assert_sound();
        self.machine.assert_signed();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if thread::panicking() {
            let home = self.machine.user.home();
            let log = fs::read_to_string(home.join("configured")).unwrap_or_default();
            eprintln!("--- configured:\n{log}");
        }
    }
}
