//! Whole lives of a depot, by a seed: everything that can be asked of it, on a disk that fails,
//! forgets and loses its power, beside a model that says what must be there.
//!
//! ```text
//!   seed --> operations --> depot --> disk (disk.rs): errors, torn writes, kills, power cuts
//!                 \-------> model (model.rs)     |
//!                              \--- compared ----+--- after each step, start and collection
//! ```
//!
//! What must hold: what was acknowledged and not rightly removed is visible, byte for byte; what
//! is visible has all its references; what was not acknowledged is there wholly or not at all;
//! after two collections hardly more is stored than lives.
//!
//! `SNOWCACHE_SEEDS` lives are run (2,000 unless told otherwise); `SNOWCACHE_SEED=n` runs that one
//! and tells its story.

mod checks;
mod disk;
mod found;
mod keeping;
mod model;
mod operations;
mod random;
mod sending;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::disk::{Disk, DiskIndex, End, Faults};
use self::model::Model;
use self::random::Random;
use self::sending::{Kept, Sending};
use super::*;

/// Lives in the short form: half a minute on two cores.
const SEEDS: u64 = 2_000;
/// Operations in a life, at most.
const STEPS_AT_MOST: u64 = 60;
/// What some lives of the short form must have seen, by the words of their stories.
const EVENTS: [&str; 18] = [
    "PowerCut",
    "Kill",
    "index lost: true",
    "the power went during the start",
    "writing segment",
    "syncing segment",
    "writing the index failed",
    "Ok(Conflict {",
    "Ok(Known)",
    "kind: Refused",
    "NAR goes on",
    "segments_removed: 1",
    "segments_rewritten: 1",
    "removed: [",
    "nars_changed: 2",
    "in pieces goes on",
    "is held for whoever resumes",
    "outlives the process",
];
/// When every life begins.
const START: u64 = 1_700_000_000;

/// One life.
struct Life {
    random: Random,
    disk: Disk,
    depot: Option<Depot>,
    /// What earlier look-ups of the depot came to.
    kept: HashMap<u8, crate::Kept<Entry>>,
    clock: Arc<AtomicU64>,
    model: Model,
    /// NARs that are being received, each with what is still to come of it.
    ingests: Vec<(Ingest, usize, usize)>,
    /// Those that come in pieces.
    sendings: Vec<Sending>,
    /// What is held for whoever resumes.
    frames: Kept,
    faults: Faults,
    story: Arc<Mutex<Vec<String>>>,
}

impl Life {
    fn new(seed: u64, story: Arc<Mutex<Vec<String>>>) -> Life {
        let mut random = Random::new(seed);
        let rate = [0, 0, 3, 20, 100][random.below(5) as usize];
        let mut some = |of: u64| if random.chance(500) { rate * of / 2 } else { 0 };
        let faults = Faults {
            write: some(1),
            sync: some(4),
            other: some(2),
            index: some(2),
            lies: 0,
        };
        let mut life = Life {
            disk: Disk::new(random.below(u64::MAX)),
            random,
            depot: None,
            kept: HashMap::new(),
            clock: Arc::new(AtomicU64::new(START)),
            model: Model::default(),
            ingests: Vec::new(),
            sendings: Vec::new(),
            frames: Kept::default(),
            faults,
            story,
        };
        life.tell(format!("{faults:?}"));
        life.model.now = START;
        life.open();
        life
    }

    fn tell(&self, what: impl Into<String>) {
        self.story.lock().expect("no poison").push(what.into());
    }

    fn depot(&self) -> Depot {
        self.depot.clone().expect("it is open")
    }

    /// Opens the depot on a disk that works; should the power go meanwhile, once more.
    fn open(&mut self) {
        loop {
            let clock = self.clock.clone();
            let mut options = Options::new("/nonexistent");
            options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
            options.threads = 1;
            options.zstd_level = 1;
            options.url_grace_s = 0;
            let (segments, index) = (self.disk.clone(), DiskIndex(self.disk.clone()));
            let opened = Depot::over(options, Arc::new(segments), Arc::new(index));
            if self.disk.is_dead() {
                self.tell("the power went during the start");
                self.frames.are_cut_off();
                drop(opened);
                self.disk = self.disk.after(End::PowerCut);
                self.disk.set_faults(Faults::default());
                continue;
            }
            let depot = opened.unwrap_or_else(|error| panic!("it does not open: {error}"));
            self.depot = Some(depot);
            self.kept.clear();
            return self.disk.set_faults(self.faults);
        }
    }

    /// The machine ends; what the next start finds is a depot as it must be.
    fn end(&mut self, end: End, lose_index: bool) {
        self.tell(format!("{end:?}, index lost: {lose_index}"));
        let next = self.disk.after(end);
        self.outlive(end);
        self.ingests.clear();
        self.depot = None;
        self.disk = next;
        self.start_again(lose_index);
    }

    /// SIGTERM, and another start.
    fn stop(&mut self, lose_index: bool) {
        self.tell(format!("stop, index lost: {lose_index}"));
        self.sendings.clear();
        self.ingests.clear();
        self.depot = None;
        self.start_again(lose_index);
    }

    fn start_again(&mut self, lose_index: bool) {
        self.disk.set_faults(Faults::default());
        if lose_index {
            self.disk.lose_index();
        }
        if self.random.chance(150) && !self.disk.is_dead() {
            self.disk.light_fuse(self.random.below(30));
        }
        self.open();
        self.disk.put_fuse_out();
        self.frames.are_found();
        self.model.forget_uses();
        self.settle();
        self.check_everything();
    }

    fn live(&mut self) {
        for _ in 0..10 + self.random.below(STEPS_AT_MOST - 10) {
            if self.random.chance(60) {
                let calls = self.random.below(60);
                self.tell(format!("the power goes after {calls} calls"));
                self.disk.light_fuse(calls);
            }
            self.step();
            if self.disk.is_dead() {
                let end = [End::Kill, End::PowerCut][self.random.below(2) as usize];
                let lose_index = self.random.chance(200);
                self.end(end, lose_index);
            } else {
                self.check_visible();
            }
        }
        if self.disk.is_dead() {
            self.end(End::Kill, false);
        }
        self.leave();
    }

    /// The last days: nothing fails, what no pin holds is too old.
    fn leave(&mut self) {
        self.faults = Faults::default();
        let lose_index = self.random.chance(300);
        self.stop(lose_index);
        self.depot().write_uses().expect("noted");
        self.model.now += 1000 * 86_400;
        self.clock.store(self.model.now, Ordering::Relaxed);
        for _ in 0..3 {
            self.collect_strictly();
        }
        self.check_everything();
        self.check_space();
        self.stop(true);
    }
}

/// Runs one life; its story, or what went wrong in it.
fn run(seed: u64) -> Result<String, String> {
    let story = Arc::new(Mutex::new(Vec::new()));
    let told = story.clone();
    let lived = catch_unwind(AssertUnwindSafe(|| Life::new(seed, told).live()));
    let story = story.lock().expect("no poison").join("\n  ");
    lived.map(|()| story.clone()).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let text = text.unwrap_or_default();
        format!("SNOWCACHE_SEED={seed}: {text}\n  {story}")
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn lives_of_a_depot() {
    if let Some(seed) = number("SNOWCACHE_SEED") {
        return println!(
            "{}",
            run(seed).unwrap_or_else(|failure| panic!("{failure}"))
        );
    }
    let seeds = number("SNOWCACHE_SEEDS").unwrap_or(SEEDS);
    let first = number("SNOWCACHE_FIRST_SEED").unwrap_or(0);
    let (next, failures) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let seen: [AtomicU64; EVENTS.len()] = Default::default();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let told = run(seed);
            let story = told.as_ref().unwrap_or_else(|failure| failure);
            for (event, seen) in EVENTS.iter().zip(&seen) {
                seen.fetch_add(story.contains(event).into(), Ordering::Relaxed);
            }
            if let Err(failure) = told {
                failures.lock().expect("no poison").push((seed, failure));
            }
        }
    };
    std::thread::scope(|scope| (0..cores).for_each(|_| drop(scope.spawn(work))));
    let mut failures = failures.into_inner().expect("no poison");
    failures.sort();
    let shown = failures.iter().take(3).map(|(_, text)| text.as_str());
    let shown: Vec<&str> = shown.collect();
    let failed: Vec<u64> = failures.iter().map(|(seed, _)| *seed).collect();
    let count = failed.len();
    assert!(
        count == 0,
        "{count} lives failed: {failed:?}\n{}",
        shown.join("\n")
    );
    for (event, seen) in EVENTS.iter().zip(seen) {
        let seen = seen.into_inner();
        println!("{seen} of {seeds} lives have seen {event:?}");
        assert!(
            seen > 0 || seeds < SEEDS,
            "no life has seen {event:?}: the test is worthless"
        );
    }
}

/// A disk whose syncs do nothing can lose what was acknowledged; it cannot make us serve other
/// bytes.
#[test]
fn a_disk_that_lies_loses_but_never_falsifies() {
    let (mut lost, mut refused) = (0, 0);
    for seed in 0..150 {
        let mut life = Life::new(seed, Arc::default());
        life.faults = Faults {
            lies: 400,
            ..Faults::default()
        };
        life.disk.set_faults(life.faults);
        (0..12).for_each(|_| life.put_and_publish());
        let disk = life.disk.after(End::PowerCut);
        disk.set_faults(Faults::default());
        if seed % 2 == 0 {
            disk.lose_index();
        }
        let options = Options::new("/nonexistent");
        match Depot::over(options, Arc::new(disk.clone()), Arc::new(DiskIndex(disk))) {
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "seed {seed}: {error}");
                refused += 1;
            }
            Ok(depot) => lost += life.what_is_there_is_right(&depot),
        }
    }
    println!("{lost} paths were lost, {refused} starts refused");
    assert!(
        lost > 0 && refused > 0,
        "the disk did not lie: the test is worthless"
    );
}
