//! What is kept of a look-up comes out as long as another one would say the same, and not a moment
//! longer; and what is not here is known without one.

use std::ops::ControlFlow;

use super::collect::{Yard, strict};
use super::*;
use crate::filling::fill;
use crate::index::{Batch, Index, Table};

impl Bench {
    fn keep(&self, number: u8) -> Kept<Entry> {
        let kept = self.depot.keep(&cache(), &hash(number), |entry| entry);
        kept.expect("look up").expect("visible")
    }
}

fn hash(number: u8) -> snowcache_nix::StoreHash {
    let nar_hash = snowcache_nix::NarHash::from_bytes([0; 32]);
    let nar = Nar {
        nar_hash,
        nar_size_bytes: 1,
    };
    path(number, nar, &[]).store_path.hash()
}

#[test]
fn what_was_looked_up_comes_out_again_and_other_paths_leave_it_alone() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    bench.publish(path(1, nar, &[])).expect("publish");
    let kept = bench.keep(1);
    let other = bench.put("2.nar", &nar_of(b"two"));
    bench.publish(path(2, other, &[1])).expect("publish");
    let entry = bench.depot.still(&kept).expect("nothing has changed");
    assert_eq!(entry.info, path_as_signed(1, nar));
    let now = bench.depot.path(&cache(), &hash(1)).expect("look up");
    assert_eq!(entry.encoding, now.expect("visible").encoding);
}

fn path_as_signed(number: u8, nar: Nar) -> PathInfo {
    signed(path(number, nar, &[]), nar).into_info()
}

#[test]
fn a_signature_more_and_it_is_looked_up_anew() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    let mut info = path(1, nar, &[]);
    bench.publish(info.clone()).expect("publish");
    let kept = bench.keep(1);
    let theirs = SecretKey::generate("theirs-1", [2; 32]).expect("a key");
    info.signatures.push(theirs.sign("anything"));
    bench.publish(info).expect("again");
    assert!(bench.depot.still(&kept).is_none());
    let now = bench.keep(1);
    let entry = bench.depot.still(&now).expect("as it is");
    assert_eq!(entry.info.signatures.len(), 2);
}

#[test]
fn what_is_removed_does_not_come_out_and_what_comes_instead_does() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    bench.publish(path(1, nar, &[])).expect("publish");
    let kept = bench.keep(1);
    let removal = bench
        .depot
        .remove_paths(&cache(), &[hash(1)], "tester", false);
    assert_eq!(removal.expect("removed").removed.len(), 1);
    assert!(bench.depot.still(&kept).is_none());
    assert!(
        bench
            .depot
            .path(&cache(), &hash(1))
            .expect("asked")
            .is_none()
    );
    let other = bench.put("2.nar", &nar_of(b"two"));
    bench.publish(path(1, other, &[])).expect("publish");
    assert!(bench.depot.still(&kept).is_none());
    let now = bench.keep(1);
    let entry = bench.depot.still(&now).expect("as it is");
    assert_eq!(entry.info.nar_hash, other.nar_hash);
}

#[test]
fn what_comes_out_of_memory_counts_as_asked_for() {
    let yard = Yard::new();
    let bench = &yard.bench;
    for number in [1, 2] {
        let nar = bench.put(&format!("{number}.nar"), &nar_of(&[number; 100]));
        bench.publish(path(number, nar, &[])).expect("publish");
    }
    let kept = [bench.keep(1), bench.keep(2)];
    bench.depot.write_uses().expect("noted");
    yard.wait(100);
    for _ in 0..3 {
        assert!(bench.depot.still(&kept[0]).is_some());
    }
    bench.depot.write_uses().expect("noted");
    let policy = Policy {
        max_age_s: Some(50),
        ..strict()
    };
    let (collected, _) = yard.collect(&policy);
    assert_eq!(collected.paths, 1, "the one that nobody asked for");
    assert!(bench.depot.still(&kept[0]).is_some());
    assert!(bench.depot.still(&kept[1]).is_none());
}

#[test]
fn what_falls_sick_does_not_come_out_until_it_is_healed() {
    let bench = Bench::new();
    let bytes = nar_with('a', 1, 300_000);
    let nar = bench.put("1.nar", &bytes);
    bench.publish(path(1, nar, &[])).expect("publish");
    let kept = bench.keep(1);
    let (id, len) = bench.segments.list().expect("list")[0];
    bench.segments.damaged(id, len / 3);
    let all = Scrub {
        subset: None,
        rate_bytes_per_s: None,
    };
    let go_on = &mut |_| ControlFlow::Continue(());
    assert_eq!(bench.depot.scrub(&all, go_on).expect("scrub").sick_nars, 1);
    assert!(bench.depot.still(&kept).is_none());
    assert!(
        bench
            .depot
            .path(&cache(), &hash(1))
            .expect("asked")
            .is_none()
    );
    bench.put("1.nar", &bytes);
    assert!(bench.depot.still(&bench.keep(1)).is_some());
}

#[test]
fn absent_is_only_what_is_not_here_before_and_after_a_start() {
    let bench = Bench::new();
    let absent = |bench: &Bench, number| bench.depot.is_absent(&cache(), &hash(number));
    let has = |bench: &Bench, numbers: &[u8]| {
        let hashes: Vec<_> = numbers.iter().map(|number| hash(*number)).collect();
        bench.depot.has(&cache(), &hashes).expect("has")
    };
    assert!(absent(&bench, 1), "an empty depot knows at once");
    let nar = bench.put("1.nar", &nar_of(b"one"));
    bench.publish(path(1, nar, &[])).expect("publish");
    assert!(!absent(&bench, 1) && absent(&bench, 2));
    assert_eq!(has(&bench, &[2, 1, 3, 1]), [false, true, false, true]);
    let bench = bench.restarted();
    assert!(!absent(&bench, 1) && absent(&bench, 2));
    let bench = bench.reopened();
    assert!(!absent(&bench, 1) && absent(&bench, 2));
    let removal = bench
        .depot
        .remove_paths(&cache(), &[hash(1)], "tester", false);
    removal.expect("removed");
    assert_eq!(has(&bench, &[1]), [false], "absent or not, it is not here");
    bench.publish(path(1, nar, &[])).expect("publish");
    assert!(!absent(&bench, 1));
    assert_eq!(has(&bench, &[1]), [true]);
}

#[test]
fn what_is_on_its_way_into_the_index_is_in_a_filter_that_begins_meanwhile() {
    let bench = Bench::new();
    let (shared, key) = (bench.depot.shared(), cache().path_key(&hash(1)));
    let presence = &shared.watchers.presence;
    std::thread::scope(|scope| {
        let commit = shared.commits().expect("the gate");
        presence.add(&key);
        let filling = scope.spawn(|| fill(shared, || false));
        // Time enough to read all paths, were it not for the gate.
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut batch = Batch::default();
        batch.put(Table::Paths, key.as_slice(), *b"a row");
        bench.index.write(batch).expect("write");
        drop(commit);
        filling.join().expect("no panic").expect("filled");
    });
    assert!(!presence.is_absent(&key));
}
