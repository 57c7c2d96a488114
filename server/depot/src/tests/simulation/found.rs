//! Faults that lives have found, each as a short story.

use super::keeping::strictest;
use super::operations::store_path;
use super::*;

fn calm() -> Life {
    let mut life = Life::new(0, Arc::default());
    life.faults = Faults::default();
    life.disk.set_faults(life.faults);
    life
}

impl Life {
    fn nar_of_its_own(&self, number: u8) -> Nar {
        let bytes = nar_of(&noise(u64::from(number), 5_000));
        let mut ingest = self.depot().ingest().expect("ingest");
        ingest.write(&bytes).expect("write");
        ingest.finish(upload(&number.to_string())).expect("finish")
    }

    fn publishes(&self, number: u8, nar: Nar, references: &[u8]) -> Result<Published> {
        let info = path(number, nar, references);
        self.depot().publish(&cache(), signed(info, nar), "tester")
    }

    fn shows(&self) -> Vec<String> {
        let paths = self.depot().paths(&cache(), None, 10).expect("a list");
        paths.iter().map(|path| path.name().to_owned()).collect()
    }

    fn restarts_without_index(&mut self) {
        self.depot = None;
        self.disk.lose_index();
        self.open();
    }
}

/// The commit was durable, the index could not be told: it was forgotten, what it refers to was
/// removed, and it came back when the index was rebuilt.
#[test]
fn a_commit_that_the_index_missed_is_reckoned_with() {
    let mut life = calm();
    let nars = [1, 2].map(|number| life.nar_of_its_own(number));
    life.publishes(1, nars[0], &[]).expect("publish");
    let index = Faults {
        index: 1000,
        ..Faults::default()
    };
    life.disk.set_faults(index);
    life.publishes(2, nars[1], &[1]).expect_err("no index");
    life.publishes(2, nars[1], &[1]).expect_err("still none");
    life.disk.set_faults(Faults::default());
    let hashes = [store_path(1).hash()];
    let removal = life.depot().remove_paths(&cache(), &hashes, "me", false);
    let kept = removal.expect("decided").kept;
    assert!(kept[0].1.contains("path2 needs it"), "{kept:?}");
    assert_eq!(life.shows(), ["path1", "path2"]);
    life.restarts_without_index();
    assert_eq!(life.shows(), ["path1", "path2"]);
}

/// The sync failed and the segment could not be cut back: whole records stayed in it, and counted
/// at the next start, beside what had been decided without them.
#[test]
fn nothing_new_is_written_until_a_failed_segment_is_cut_back() {
    let mut life = calm();
    let nars = [1, 2, 3].map(|number| life.nar_of_its_own(number));
    life.publishes(1, nars[0], &[]).expect("publish");
    let (sync, cut) = (
        Faults {
            sync: 1000,
            other: 1000,
            ..Faults::default()
        },
        Faults {
            other: 1000,
            ..Faults::default()
        },
    );
    life.disk.set_faults(sync);
    life.publishes(2, nars[1], &[1]).expect_err("no sync");
    life.disk.set_faults(cut);
    let error = life.publishes(3, nars[2], &[]).expect_err("not yet");
    assert!(
        error.to_string().contains("cutting back segment"),
        "{error}"
    );
    life.disk.set_faults(Faults::default());
    let hashes = [store_path(1).hash()];
    let removal = life.depot().remove_paths(&cache(), &hashes, "me", false);
    assert_eq!(removal.expect("decided").removed.len(), 1);
    life.publishes(3, nars[2], &[]).expect("again");
    life.disk = life.disk.after(End::PowerCut);
    life.restarts_without_index();
    assert_eq!(life.shows(), ["path3"]);
}

/// A segment was removed and its number given again after a restart; a power cut took the index
/// back to before that, where the number stood for a longer segment.
#[test]
fn a_number_that_is_given_again_brings_no_old_mark_back() {
    // One of these power cuts takes the index back far enough.
    for seed in 0..20 {
        let mut life = calm();
        life.disk = Disk::new(seed);
        life.open();
        let long = nar_of(&noise(9, 90_000));
        let mut ingest = life.depot().ingest().expect("ingest");
        ingest.write(&long).expect("write");
        let mut short_lived = upload("long");
        short_lived.expires_unix_s = START;
        ingest.finish(short_lived).expect("finish");
        life.depot().checkpoint().expect("durable");
        let collected = life.depot().collect(&strictest(), false, &mut |_| {});
        assert_eq!(collected.expect("collected").segments_removed, 1);
        for end in [End::Kill, End::PowerCut] {
            life.depot = None;
            life.disk = life.disk.after(end);
            life.open();
            life.nar_of_its_own(1);
        }
        let kept = life.depot().upload(&cache(), "1").expect("look up");
        assert!(kept.is_some());
    }
}

/// The index could not be told when paths were used, and was never told later: they looked older
/// than they were.
#[test]
fn a_use_that_was_not_written_down_is_not_forgotten() {
    let life = calm();
    let nar = life.nar_of_its_own(1);
    life.publishes(1, nar, &[]).expect("publish");
    life.clock.store(START + 100, Ordering::Relaxed);
    let entry = life.depot().path(&cache(), &store_path(1).hash());
    assert!(entry.expect("look up").is_some());
    life.disk.set_faults(Faults {
        index: 1000,
        ..Faults::default()
    });
    life.depot().write_uses().expect_err("no index");
    life.disk.set_faults(Faults::default());
    let policy = Policy {
        max_age_s: Some(60),
        ..strictest()
    };
    life.depot()
        .collect(&policy, false, &mut |_| {})
        .expect("collected");
    assert_eq!(life.shows(), ["path1"]);
}

/// Each record of a group ended a commit: of removals that the power tore in the middle the last
/// ones counted, and a path was visible without what it refers to.
#[test]
fn removals_that_the_power_tears_happen_together_or_not_at_all() {
    let mut seen = [0; 2];
    for seed in 0..400 {
        let mut life = calm();
        life.disk = Disk::new(seed);
        life.open();
        let nar = life.nar_of_its_own(1);
        for number in 1..=8 {
            let before: &[u8] = if number > 1 { &[number - 1] } else { &[] };
            life.publishes(number, nar, before).expect("publish");
        }
        life.depot().checkpoint().expect("durable");
        life.disk.light_fuse(seed % 24);
        let hashes: Vec<_> = (1..=8).map(|number| store_path(number).hash()).collect();
        let removal = life.depot().remove_paths(&cache(), &hashes, "me", false);
        let is_acknowledged = removal.is_ok() && !life.disk.is_dead();
        life.depot = None;
        life.disk = life.disk.after(End::PowerCut);
        match seed % 2 {
            0 => life.open(),
            _ => life.restarts_without_index(),
        }
        let shown = life.shows().len();
        assert!(
            shown == 0 || shown == 8,
            "seed {seed}: {shown} of 8 are left"
        );
        assert!(shown == 0 || !is_acknowledged, "seed {seed}");
        seen[shown / 8] += 1;
    }
    assert!(seen.iter().all(|seen| *seen > 50), "{seen:?}");
}
