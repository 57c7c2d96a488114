//! The index is lost, or the power: what was acknowledged is there afterwards.

use super::*;
use crate::segments::SegmentId;

/// Three paths, the third referring to the others.
fn filled() -> (Bench, Vec<(Nar, Vec<u8>)>) {
    let bench = Bench::new();
    let bytes = [
        nar_with('a', 1, 900_000),
        nar_with('b', 1, 900_000),
        nar_of(b"small"),
    ];
    let mut nars = Vec::new();
    for (number, bytes) in bytes.into_iter().enumerate() {
        let nar = bench.put(&format!("{number}.nar"), &bytes);
        let references: &[u8] = if number == 2 { &[0, 1] } else { &[] };
        bench
            .publish(path(number as u8, nar, references))
            .expect("publish");
        nars.push((nar, bytes));
    }
    (bench, nars)
}

#[test]
fn a_lost_index_is_rebuilt_from_the_segments_alone() {
    let (bench, nars) = filled();
    let stats = bench.depot.stats().expect("stats");
    let bench = bench.reopened();
    assert_eq!(bench.depot.stats().expect("stats"), stats);
    for (nar, bytes) in &nars {
        assert_eq!(bench.raw(nar).as_ref(), Some(bytes));
    }
}

#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    let (bench, nars) = filled();
    let mut unfinished = bench.depot.ingest().expect("ingest");
    unfinished
        .write(&nar_with('c', 5, 2_000_000))
        .expect("write");
    bench.segments.power_cut();
    std::mem::forget(unfinished); // nobody cleans up after a power cut
    let segments = bench.segments.clone();
    let bench = Bench::over(segments);
    for (nar, bytes) in &nars {
        assert_eq!(bench.raw(nar).as_ref(), Some(bytes));
    }
    let again = bench.put("again.nar", &nar_with('c', 5, 2_000_000));
    bench.publish(path(9, again, &[0])).expect("it goes on");
}

#[test]
fn a_segment_cut_anywhere_is_wholly_before_or_behind_each_commit() {
    let (bench, nars) = filled();
    let (id, len) = *bench
        .segments
        .list()
        .expect("list")
        .last()
        .expect("a segment");
    let whole = bench.segments.clone();
    for step in 0..60 {
        let cut = len * step / 60;
        let segments = whole.copied_up_to(id, cut);
        let bench = Bench::over(segments);
        for (nar, bytes) in &nars {
            if let Some(read) = bench.raw(nar) {
                assert!(read == *bytes, "cut at {cut}: a NAR is half there");
            }
        }
        for (number, _) in nars.iter().enumerate() {
            let hash = path(number as u8, nars[number].0, &[]).store_path.hash();
            if let Some(entry) = bench.depot.path(&cache(), &hash).expect("look up") {
                let nar = bench
                    .depot
                    .nar(&cache(), &entry.info.nar_hash)
                    .expect("look up");
                assert!(nar.is_some(), "cut at {cut}: a path without its NAR");
            }
        }
        bench.put("more.nar", &nar_with('d', 6, 300_000));
    }
}

#[test]
fn a_damaged_record_costs_what_needs_it_and_nothing_else() {
    let (bench, nars) = filled();
    let (id, len) = bench.segments.list().expect("list")[0];
    let mut lost = 0;
    for step in 1..40 {
        let segments = bench.segments.copied_up_to(id, len);
        segments.damaged(id, len * step / 40);
        let bench = Bench::over(segments);
        for (nar, bytes) in &nars {
            match bench.raw(nar) {
                Some(read) => assert!(read == *bytes, "damaged bytes were served"),
                None => lost += 1,
            }
        }
    }
    assert!(lost > 0, "the damage hit nothing: the test is worthless");
    assert!(lost < 39 * nars.len(), "every damage cost everything");
}

/// Three paths, each of which refers to the one before, all removed in one commit: the segment that
/// this lies in, and from where to where.
fn removed_together() -> (Bench, SegmentId, std::ops::Range<u64>) {
    let bench = Bench::new();
    let nar = bench.put("x.nar", &nar_of(b"of all three"));
    for (number, references) in [(1, &[][..]), (2, &[1]), (3, &[2])] {
        let published = bench.publish(path(number, nar, references));
        assert_eq!(published.expect("publish"), Published::New);
    }
    let listed = || *bench.segments.list().expect("list").last().expect("one");
    let (id, before) = listed();
    let hashes = [1, 2, 3].map(|number| path(number, nar, &[]).store_path.hash());
    let removal = bench.depot.remove_paths(&cache(), &hashes, "me", false);
    assert_eq!(removal.expect("removed").removed.len(), 3);
    let (same, after) = listed();
    assert_eq!(same, id);
    (bench, id, before..after)
}

impl Bench {
    fn visible(&self) -> usize {
        let paths = self.depot.paths(&cache(), None, 10).expect("a list");
        paths.len()
    }
}

#[test]
fn a_torn_group_of_removals_removes_all_or_none() {
    let (bench, id, group) = removed_together();
    for offset in group.clone() {
        let segments = bench.segments.copied_up_to(id, u64::MAX);
        segments.damaged(id, offset);
        let bench = Bench::over(segments);
        assert_eq!(bench.visible(), 3, "torn {} bytes in", offset - group.start);
        // What was left of it is gone, and counts for nothing later either.
        bench.put("more.nar", &nar_of(b"something else"));
        assert_eq!(bench.reopened().visible(), 3);
    }
    for end in group.clone() {
        let bench = Bench::over(bench.segments.copied_up_to(id, end));
        assert_eq!(bench.visible(), 3, "cut {} bytes in", end - group.start);
    }
    assert_eq!(bench.reopened().visible(), 0, "whole, it counts");
}

#[test]
fn what_rots_in_a_group_that_was_synced_costs_only_itself() {
    let (bench, id, group) = removed_together();
    let nar = bench.put("more.nar", &nar_of(b"something else"));
    bench.publish(path(9, nar, &[])).expect("the next commit");
    let mut lost = 0;
    for offset in group.step_by(7) {
        let segments = bench.segments.copied_up_to(id, u64::MAX);
        segments.damaged(id, offset);
        let visible = Bench::over(segments).visible();
        assert!(visible <= 2, "{visible} of three that were removed");
        lost += visible - 1;
    }
    assert!(lost > 0, "the damage hit nothing: the test is worthless");
}

#[test]
fn damage_before_a_torn_group_does_not_cost_the_commit_there() {
    let (bench, id, group) = removed_together();
    let segments = bench.segments.copied_up_to(id, u64::MAX);
    // One sector that holds the end of the last commit and the beginning of the group.
    for offset in group.start - 20..group.start + 20 {
        segments.damaged(id, offset);
    }
    let bench = Bench::over(segments);
    assert_eq!(
        bench.visible(),
        2,
        "the third path is damaged, the group torn"
    );
}

#[test]
fn numbers_go_on_where_they_were() {
    let (bench, _) = filled();
    let bench = bench.reopened();
    let nar = bench.put("x.nar", &nar_of(b"after"));
    bench.publish(path(9, nar, &[2])).expect("publish");
    let other = bench.put("y.nar", &nar_of(b"other"));
    let conflict = bench.publish(path(9, other, &[2])).expect("answered");
    assert_eq!(
        conflict,
        Published::Conflict {
            winner: nar.nar_hash
        }
    );
    let bench = bench.reopened();
    let hash = path(9, nar, &[]).store_path.hash();
    let entry = bench
        .depot
        .path(&cache(), &hash)
        .expect("look up")
        .expect("visible");
    assert_eq!(
        entry.info.nar_hash, nar.nar_hash,
        "the first commit stays the first"
    );
}

#[test]
fn over_files_and_rocksdb_the_same_holds() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let bytes = nar_with('a', 3, 2_000_000);
    let open = || Depot::open(Options::new(folder.path())).expect("open");
    let depot = open();
    let mut ingest = depot.ingest().expect("ingest");
    ingest.write(&bytes).expect("write");
    let nar = ingest.finish(upload("1.nar")).expect("finish");
    depot
        .publish(&cache(), signed(path(1, nar, &[]), nar), "tester")
        .expect("publish");
    let stats = depot.stats().expect("stats");
    drop(depot);
    for lose_index in [false, true, false] {
        if lose_index {
            std::fs::remove_dir_all(folder.path().join("index")).expect("remove the index");
        }
        let depot = open();
        assert_eq!(depot.stats().expect("stats"), stats);
        let reader = depot
            .nar(&cache(), &nar.nar_hash)
            .expect("look up")
            .expect("visible");
        assert!(collect(reader.raw(0..u64::MAX)) == bytes);
    }
}
