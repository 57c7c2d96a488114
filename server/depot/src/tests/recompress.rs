//! What has stayed is compressed harder; what a URL named stays what it was, for as long as
//! somebody may remember it.

use std::ops::ControlFlow;

use super::collect::{DAY, Yard, strict};
use super::*;

const GRACE: u64 = 30 * DAY;
const LEVEL: u8 = 19;

/// A depot that takes in at the lowest level.
fn yard() -> Yard {
    Yard::with(|options| options.zstd_level = 1)
}

/// A NAR of several files, in their order, with enough between them that each is cut apart.
fn nar_of_files(files: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.directory().expect("a folder");
    let gap = noise(99, 3000);
    for (number, file) in files.iter().enumerate() {
        for (name, content) in [("gap", &gap[..]), ("text", file)] {
            let name = format!("{number}-{name}");
            writer.entry(name.as_bytes()).expect("an entry");
            writer.file(false, content.len() as u64).expect("a file");
            writer.data(content).expect("data");
        }
    }
    writer.end_directory().expect("its end");
    writer.finish().expect("finish")
}

/// What clients know of a path: its URL, that is, and the bytes behind it.
struct Known {
    encoding: Encoding,
    bytes: Vec<u8>,
}

impl Yard {
    fn text(&self, number: u8, seeds: &[u64]) -> (Nar, Vec<u8>) {
        let files: Vec<Vec<u8>> = seeds.iter().map(|seed| text(*seed, 300_000)).collect();
        let files: Vec<&[u8]> = files.iter().map(Vec::as_slice).collect();
        let bytes = nar_of_files(&files);
        let nar = self.bench.put(&format!("{number}.nar"), &bytes);
        let published = self.bench.publish(path(number, nar, &[]));
        assert_eq!(published.expect("publish"), Published::New);
        (nar, bytes)
    }

    fn recompress(&self, min_idle_s: u64) -> Recompressed {
        recompress(&self.bench.depot, min_idle_s)
    }

    /// As a client that asks for the narinfo, and fetches.
    fn known(&self, number: u8, nar: &Nar) -> Known {
        let hash = path(number, *nar, &[]).store_path.hash();
        let entry = self.bench.depot.path(&cache(), &hash).expect("look up");
        let encoding = entry.expect("is there").encoding;
        let bytes = self
            .encoded(nar, &encoding.name)
            .expect("as the narinfo says");
        assert_eq!(bytes.len() as u64, encoding.size_bytes);
        Known { encoding, bytes }
    }

    /// What a URL with this encoding gives, if it is still there.
    fn encoded(&self, nar: &Nar, name: &str) -> Option<Vec<u8>> {
        let reader = self.bench.depot.nar_as(&cache(), &nar.nar_hash, name);
        let reader = reader.expect("look up").expect("the NAR is there");
        let bytes = collect(reader.encoded(0..u64::MAX));
        (reader.encoding().name == name).then_some(bytes)
    }

    fn keeps(&self, nar: &Nar, known: &Known) -> bool {
        let found = self.encoded(nar, &known.encoding.name);
        assert!(found.as_ref().is_none_or(|bytes| *bytes == known.bytes));
        found.is_some()
    }
}

pub(super) fn recompress(depot: &Depot, min_idle_s: u64) -> Recompressed {
    let how = Recompress {
        level: LEVEL,
        min_idle_s,
        rate_bytes_per_s: None,
    };
    let done = depot.recompress(&how, || {}, &mut |_| ControlFlow::Continue(()));
    done.expect("recompress")
}

/// Nothing goes by age.
fn keep_paths() -> Policy {
    Policy {
        max_age_s: None,
        ..strict()
    }
}

#[test]
fn what_has_stayed_takes_less_and_its_former_url_gives_what_it_gave() {
    let yard = yard();
    let (nar, bytes) = yard.text(1, &[1, 2]);
    let before = yard.known(1, &nar);
    let done = yard.recompress(0);
    assert_eq!((done.nars, done.nars_done, done.nars_changed), (1, 1, 1));
    assert!(done.after_bytes * 20 < done.before_bytes * 19, "{done:?}");
    let after = yard.known(1, &nar);
    assert_ne!(after.encoding.name, before.encoding.name);
    assert!(after.bytes.len() < before.bytes.len());
    assert!(yard.keeps(&nar, &before) && yard.keeps(&nar, &after));
    for encoded in [&before.bytes, &after.bytes] {
        assert_eq!(zstd::stream::decode_all(&encoded[..]).expect("zstd"), bytes);
    }
    assert_eq!(yard.bench.raw(&nar), Some(bytes));
    let again = yard.recompress(0);
    assert_eq!((again.nars, again.frames), (0, 0), "done once");
}

#[test]
fn the_former_url_goes_when_nobody_remembers_it_and_the_space_comes_back() {
    let yard = yard();
    let (nar, bytes) = yard.text(1, &[1, 2]);
    let before = yard.known(1, &nar);
    let stored = yard.bench.total_bytes();
    yard.recompress(0);
    yard.collect(&keep_paths());
    assert!(yard.keeps(&nar, &before), "a collection leaves it alone");
    yard.wait(GRACE - 1);
    yard.collect(&keep_paths());
    assert!(yard.keeps(&nar, &before), "to the last second");
    yard.wait(2);
    let (collected, _) = yard.collect(&keep_paths());
    assert_eq!(collected.former_encodings, 1);
    assert!(!yard.keeps(&nar, &before));
    assert!(yard.bench.total_bytes() < stored);
    assert_eq!(yard.bench.raw(&nar), Some(bytes));
    assert!(collected.segments_rewritten + collected.segments_removed > 0);
}

#[test]
fn of_what_nobody_asked_for_lately_the_former_goes_within_hours() {
    let yard = yard();
    let (cold, _) = yard.text(1, &[1]);
    let (warm, _) = yard.text(2, &[2]);
    let cold_before = yard.known(1, &cold);
    yard.bench.depot.write_uses().expect("noted");
    yard.wait(GRACE + DAY);
    let warm_before = yard.known(2, &warm);
    assert_eq!(yard.recompress(0).nars_changed, 2);
    assert!(yard.keeps(&cold, &cold_before), "for downloads under way");
    yard.wait(2 * 3600);
    yard.collect(&keep_paths());
    assert!(!yard.keeps(&cold, &cold_before) && yard.keeps(&warm, &warm_before));
    yard.wait(GRACE);
    yard.collect(&keep_paths());
    assert!(!yard.keeps(&warm, &warm_before));
}

#[test]
fn what_is_in_use_is_left_alone_also_where_it_is_shared() {
    let yard = yard();
    let (old, old_bytes) = yard.text(1, &[1, 2]);
    yard.wait(10 * DAY);
    let (young, bytes) = yard.text(2, &[2, 3]);
    let before = yard.known(2, &young);
    let done = yard.recompress(5 * DAY);
    assert_eq!((done.nars, done.nars_changed), (1, 1));
    let stored = yard.bench.total_bytes();
    assert_eq!(yard.known(2, &young).encoding, before.encoding);
    assert_eq!(yard.bench.raw(&old), Some(old_bytes));
    yard.wait(5 * 3600);
    assert_eq!(yard.recompress(5 * DAY).nars, 0, "nothing else is idle");
    assert_eq!(yard.bench.total_bytes(), stored);
    let old_now = yard.known(1, &old);
    yard.bench.depot.write_uses().expect("noted");
    yard.wait(10 * DAY);
    let done = yard.recompress(5 * DAY);
    assert_eq!((done.nars, done.nars_changed), (2, 2), "now both are");
    assert_ne!(yard.known(2, &young).encoding, before.encoding);
    assert!(yard.keeps(&young, &before) && yard.keeps(&old, &old_now));
    assert_eq!(yard.bench.raw(&young), Some(bytes));
}

#[test]
fn a_download_under_way_ends_in_the_encoding_that_it_began_in() {
    let yard = yard();
    let (nar, bytes) = yard.text(1, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let before = yard.known(1, &nar);
    let reader = yard.bench.depot.nar(&cache(), &nar.nar_hash);
    let reader = reader.expect("look up").expect("is there");
    let (mut encoded, mut raw) = (reader.encoded(0..u64::MAX), reader.raw(0..u64::MAX));
    let begun = [&mut encoded, &mut raw].map(|it| it.next().expect("a chunk").expect("well"));
    yard.recompress(0);
    yard.collect(&keep_paths());
    let rest = collect(encoded);
    assert_eq!([begun[0].to_vec(), rest].concat(), before.bytes);
    assert_eq!([begun[1].to_vec(), collect(raw)].concat(), bytes);
}

#[test]
fn what_was_compressed_stays_apart_through_uploads_collections_and_restarts() {
    let yard = yard();
    yard.text(1, &[1]);
    let (gone, _) = yard.text(2, &[2, 3, 4]);
    let (stays, bytes) = yard.text(3, &[5, 6]);
    assert_eq!(yard.recompress(0).nars_changed, 3);
    let (young, _) = yard.text(4, &[7]);
    let hash = path(2, gone, &[]).store_path.hash();
    let removed = yard.bench.depot.remove_paths(&cache(), &[hash], "t", false);
    assert_eq!(removed.expect("removed").removed.len(), 1);
    yard.wait(GRACE + 1);
    let (collected, _) = yard.collect(&keep_paths());
    assert!(collected.segments_rewritten > 0, "{collected:?}");
    let due = |depot: &Depot| {
        let done = recompress(depot, 0);
        assert_eq!(done.nars_done, done.nars);
        done.nars
    };
    let bench = yard.bench.restarted();
    assert_eq!(due(&bench.depot), 1, "the young one, which is done now");
    let bench = bench.reopened();
    assert_eq!(
        due(&bench.depot),
        0,
        "segments say it without the index, too"
    );
    assert_eq!(bench.raw(&stays), Some(bytes));
    assert!(bench.raw(&young).is_some() && bench.raw(&gone).is_none());
}

#[test]
fn uploads_find_their_room_and_formers_go_before_paths_do() {
    let yard = Yard::with(|options| {
        options.zstd_level = 1;
        options.max_size_bytes = Some(1_500_000);
    });
    let (nar, _) = yard.text(1, &[1, 2, 3, 4, 5]);
    let before = yard.known(1, &nar);
    let stored = yard.bench.total_bytes();
    let done = yard.recompress(0);
    assert!(!done.no_room, "{done:?} {stored}");
    let held = yard.bench.total_bytes();
    assert!(held > stored);
    let mut number = 1;
    let refused = loop {
        number += 1;
        let mut ingest = yard.bench.depot.ingest().expect("ingest");
        let nar = nar_of(&noise(u64::from(number), 300_000));
        let written = ingest.write(&nar).and_then(|()| {
            let nar = ingest.finish(upload(&format!("{number}.nar")))?;
            yard.bench.publish(path(number, nar, &[]))
        });
        match written {
            Err(error) => break error,
            Ok(_) => assert!(number < 20, "it has a limit"),
        }
    };
    assert_eq!(refused.kind(), ErrorKind::Full);
    let done = yard.recompress(0);
    assert!(done.no_room && done.nars_changed == 0, "{done:?}");
    let policy = Policy {
        grace_s: 0,
        ..keep_paths()
    };
    let (collected, _) = yard.collect(&policy);
    assert_eq!((collected.paths, collected.former_encodings), (0, 1));
    assert!(!yard.keeps(&nar, &before) && yard.has(1));
    assert!(collected.freed_bytes > 0, "{collected:?}");
}

#[test]
fn stopped_half_way_what_is_done_stays_and_the_rest_comes_next() {
    let yard = yard();
    let nars: Vec<(Nar, Vec<u8>)> = (1..=4).map(|n| yard.text(n, &[u64::from(n)])).collect();
    let how = Recompress {
        level: LEVEL,
        min_idle_s: 0,
        // A second or two for each: on a busy machine, too, it is asked before the last is done.
        rate_bytes_per_s: Some(32 << 10),
    };
    let stop = &mut |done: &Recompressed| match done.nars_done {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    let done = yard
        .bench
        .depot
        .recompress(&how, || {}, stop)
        .expect("stopped");
    assert!(done.stopped && done.nars_changed < 4, "{done:?}");
    let rest = yard.recompress(0);
    assert_eq!(done.nars_changed + rest.nars_changed, 4);
    for (nar, bytes) in nars {
        assert_eq!(yard.bench.raw(&nar), Some(bytes));
    }
}

#[test]
fn damage_in_a_former_encoding_costs_that_one_only() {
    let yard = yard();
    let (nar, bytes) = yard.text(1, &[1, 2]);
    let before = yard.known(1, &nar);
    let old = yard.bench.named_frames();
    yard.recompress(0);
    let (_, (segment, from, to)) = old[0];
    yard.bench.segments.damaged(segment, (from + to) / 2);
    let reader = yard
        .bench
        .depot
        .nar_as(&cache(), &nar.nar_hash, &before.encoding.name);
    let reader = reader.expect("look up").expect("is there");
    let read: Result<Vec<_>> = reader.encoded(0..u64::MAX).collect();
    assert!(read.is_err(), "damaged bytes are not given out");
    assert!(!yard.keeps(&nar, &before), "it was let go");
    assert_eq!(yard.bench.raw(&nar), Some(bytes));
    assert_eq!(yard.bench.depot.stats().expect("stats").sick_nars, 0);
}

#[test]
fn a_scrub_that_finds_damage_in_a_former_encoding_lets_go_of_it() {
    let yard = yard();
    let (nar, bytes) = yard.text(1, &[1, 2]);
    let before = yard.known(1, &nar);
    let (_, (segment, from, to)) = yard.bench.named_frames()[0];
    yard.recompress(0);
    yard.bench.segments.damaged(segment, (from + to) / 2);
    let scrubbed = yard.bench.scrub();
    let seen = (
        scrubbed.damaged,
        scrubbed.former_encodings,
        scrubbed.sick_nars,
    );
    assert_eq!(seen, (1, 1, 0), "{scrubbed:?}");
    assert!(!yard.keeps(&nar, &before));
    assert_eq!(yard.bench.raw(&nar), Some(bytes));
}
