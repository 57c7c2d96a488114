//! Faults that lives have found, each as a short story.

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
