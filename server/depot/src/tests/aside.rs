//! Frames as they were sent, of uploads that are compressed anew: they outlive the process, and no
//! NAR is ever made of them.

use snowcache_core::recipe::FrameId;

use super::collect::{DAY, Yard, strict};
use super::*;
use crate::index::{Batch, Index, Rows, Table};
use crate::layout::Layout;
use crate::pool::AS_SENT;
use crate::segments::SegmentId;

/// The level of whoever sends; the depots have their default.
const SENT_AT: i32 = 19;

/// A NAR of some words, and the pieces in which it is sent.
fn words(seed: u64) -> (Vec<u8>, Vec<Part>) {
    let nar = nar_of(&text(seed, 3_000_000));
    let parts = parts(&nar, SENT_AT);
    (nar, parts)
}

/// The frames among them.
fn ids(parts: &[Part]) -> impl Iterator<Item = FrameId> {
    parts.iter().filter_map(|part| match part {
        Part::Frame(id, ..) => Some(*id),
        Part::Literal(_) => None,
    })
}

fn cache_a() -> CacheName {
    "a".parse().expect("a name")
}

fn lease() -> Lease {
    Lease {
        cache: cache_a(),
        subject: "tester".to_owned(),
        expires_unix_s: 1_700_000_000 + DAY,
    }
}

/// An upload as a server with named caches takes it in.
fn begun(depot: &Depot) -> Ingest {
    let mut ingest = depot.ingest().expect("ingest");
    ingest.outlives(&lease());
    ingest.pack_anew();
    ingest
}

fn send(ingest: &mut Ingest, parts: &[Part]) {
    for part in parts {
        match part {
            Part::Literal(bytes) => ingest.write(bytes),
            Part::Frame(id, raw_len, stored) => ingest.frame(*id, *raw_len, stored),
        }
        .expect("taken");
    }
}

fn begun_with(depot: &Depot, parts: &[Part]) -> Ingest {
    let mut ingest = begun(depot);
    send(&mut ingest, parts);
    ingest
}

fn finish(ingest: Ingest) -> Nar {
    let upload = Upload {
        cache: cache_a(),
        ..upload("words.nar")
    };
    ingest.finish(upload).expect("finished")
}

/// Who resumes: what is here goes by name, and what is not is sent. How many were sent.
fn resumed(depot: &Depot, parts: &[Part]) -> (Nar, usize) {
    let (mut ingest, mut sent) = (begun(depot), 0);
    for part in parts {
        match part {
            Part::Frame(id, raw_len, _) if here(depot, &cache_a(), *id) => {
                let known = ingest.known(&cache_a(), *id, *raw_len).expect("read");
                assert!(known, "it was called here");
            }
            part => {
                sent += usize::from(matches!(part, Part::Frame(..)));
                send(&mut ingest, std::slice::from_ref(part));
            }
        }
    }
    (finish(ingest), sent)
}

fn here(depot: &Depot, cache: &CacheName, id: FrameId) -> bool {
    depot.has_frames(cache, &[id]).expect("looked up") == [true]
}

fn encoding(depot: &Depot, nar: &Nar) -> String {
    let layout = Layout::read(&*depot.shared().index, &nar.nar_hash).expect("read");
    layout.expect("it is there").encoding.name
}

/// All segments as a process leaves them that is killed now, and depots that find them: with its
/// index, and without.
fn killed(bench: &Bench) -> [Bench; 2] {
    let left = || bench.segments.copied_up_to(SegmentId(0), 0);
    let rows = MemoryIndex::default();
    for table in Table::ALL {
        let mut batch = Batch::default();
        for row in Rows::new(&*bench.index, table, &[]) {
            let (key, value) = row.expect("a row");
            batch.put(table, key, value);
        }
        rows.write(batch).expect("written");
    }
    [
        Bench::over_both(left(), Arc::new(rows), |_| {}),
        Bench::over(left()),
    ]
}

/// Segments of what was put aside, and their lengths.
fn aside(bench: &Bench) -> Vec<(SegmentId, u64)> {
    let pool = &bench.depot.shared().pool;
    let mut all = bench.segments.list().expect("list");
    all.retain(|(id, _)| pool.level(*id) == AS_SENT);
    all
}

fn aside_bytes(bench: &Bench) -> u64 {
    aside(bench).iter().map(|(_, len)| len).sum()
}

#[test]
fn all_that_was_sent_outlives_the_process_and_the_nar_is_what_it_would_have_been() {
    let (nar, parts) = words(1);
    let whole = Bench::new();
    let expected = finish(begun_with(&whole.depot, &parts));
    let name = encoding(&whole.depot, &expected);
    let as_sent = Bench::new();
    let mut ingest = as_sent.depot.ingest().expect("ingest");
    send(&mut ingest, &parts);
    assert_ne!(
        encoding(&as_sent.depot, &finish(ingest)),
        name,
        "whose packing it is can be seen"
    );
    assert!(ids(&parts).count() > 10);

    let bench = Bench::new();
    let (sent, rest) = parts.split_at(parts.len() * 2 / 3);
    let upload = begun_with(&bench.depot, sent);
    // Nor does it come into use where there is one cache again.
    let [_, alone] = killed(&bench);
    let again = alone.put("again.nar", &nar);
    assert_eq!(encoding(&alone.depot, &again), name);
    for found in killed(&bench) {
        assert!(ids(sent).all(|id| here(&found.depot, &cache_a(), id)));
        assert!(!ids(&parts).any(|id| here(&found.depot, &cache(), id)));
        let (made, again) = resumed(&found.depot, &parts);
        assert_eq!((made, again), (expected, ids(rest).count()));
        assert_eq!(encoding(&found.depot, &made), name);
        let anew = found.reopened();
        assert_eq!(encoding(&anew.depot, &made), name);
        let reader = anew.depot.uploaded_nar(&cache_a(), "words.nar");
        let reader = reader.expect("asked").expect("held");
        assert!(collect(reader.raw(0..u64::MAX)) == nar);
    }
    drop(upload);
}

#[test]
fn what_was_put_aside_takes_nobody_s_place() {
    let (nar, parts) = words(2);
    let bench = Bench::new();
    let upload = begun_with(&bench.depot, &parts);
    let theirs = bench.put("theirs.nar", &nar);
    let name = encoding(&bench.depot, &theirs);
    for found in killed(&bench) {
        assert_eq!(encoding(&found.depot, &theirs), name);
        assert!(ids(&parts).all(|id| here(&found.depot, &cache_a(), id)));
        let found = found.reopened();
        assert_eq!(encoding(&found.depot, &theirs), name);
    }
    drop(upload);
}

#[test]
fn what_is_durable_is_not_kept_aside() {
    let yard = Yard::new();
    let bench = &yard.bench;
    let (_, parts) = words(3);
    let mut upload = begun_with(&bench.depot, &parts[..parts.len() / 2]);
    let full = aside_bytes(bench);
    assert!(full > 100_000, "{full}");
    upload.keep_so_far(lease()).expect("kept");
    let empty = aside_bytes(bench);
    assert!(empty < 200, "{empty}");
    send(&mut upload, &parts[parts.len() / 2..]);
    assert!(aside_bytes(bench) > 100_000);
    finish(upload);
    assert_eq!(aside_bytes(bench), empty);
    // The next one takes the same segment, and leaves it when it is given up.
    let given_up = begun_with(&bench.depot, &words(4).1);
    assert!(aside_bytes(bench) > 100_000);
    drop(given_up);
    assert_eq!(aside_bytes(bench), empty);
    yard.wait(2 * DAY);
    yard.collect(&strict());
    assert_eq!(bench.total_bytes(), 0);
}

#[test]
fn torn_anywhere_it_is_what_lies_before() {
    let (nar, parts) = words(5);
    let bench = Bench::new();
    let upload = begun_with(&bench.depot, &parts);
    let [(id, len)] = aside(&bench)[..] else {
        panic!("one upload has one")
    };
    let sent: Vec<FrameId> = ids(&parts).collect();
    for step in 0..=12 {
        let found = Bench::over(bench.segments.copied_up_to(id, len * step / 12));
        let kept = found.depot.has_frames(&cache_a(), &sent).expect("asked");
        let count = kept.iter().filter(|kept| **kept).count();
        assert!(kept[..count].iter().all(|kept| *kept), "{step}: {kept:?}");
        assert_eq!(count == sent.len(), step == 12, "{step}: {kept:?}");
        let (_, again) = resumed(&found.depot, &parts);
        assert_eq!(again, sent.len() - count);
        let reader = found.depot.uploaded_nar(&cache_a(), "words.nar");
        let reader = reader.expect("asked").expect("held");
        assert!(collect(reader.raw(0..u64::MAX)) == nar);
    }
    drop(upload);
}
