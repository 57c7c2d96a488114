//! Frames that a client made: kept when their upload breaks, gone when the lease ends, never a NAR.

use snowcache_core::recipe::FrameId;

use super::collect::{DAY, Yard, strict};
use super::*;
use crate::index::{Index, Table};
use crate::rows::UploadRow;
use crate::segments::SegmentId;

fn lease() -> Lease {
    Lease {
        cache: cache(),
        subject: "tester".to_owned(),
        expires_unix_s: 1_700_000_000 + DAY,
    }
}

/// Half a megabyte of noise as a frame.
fn frame(seed: u64) -> (FrameId, u32, Vec<u8>) {
    let raw = noise(seed, 500_000);
    let stored = zstd::bulk::compress(&raw, 3).expect("zstd");
    (FrameId::of(&raw), raw.len() as u32, stored)
}

/// What a NAR of one large file begins with.
fn head() -> Vec<u8> {
    let empty = nar_of(b"");
    let length = empty.len() - 24; // the length, and ")" with its own
    [&empty[..length], &50_000_000u64.to_le_bytes()].concat()
}

/// Sends so many frames of a NAR that never ends.
fn broken(depot: &Depot, seeds: &[u64]) -> Ingest {
    send(depot.ingest().expect("ingest"), seeds)
}

/// The same, of an upload that its sender may go on with.
fn outliving(depot: &Depot, seeds: &[u64]) -> Ingest {
    let mut ingest = depot.ingest().expect("ingest");
    ingest.outlives(&lease());
    send(ingest, seeds)
}

fn send(mut ingest: Ingest, seeds: &[u64]) -> Ingest {
    ingest.write(&head()).expect("a head");
    send_more(ingest, seeds)
}

fn send_more(mut ingest: Ingest, seeds: &[u64]) -> Ingest {
    for seed in seeds {
        let (id, raw_len, stored) = frame(*seed);
        ingest.frame(id, raw_len, &stored).expect("a frame");
    }
    ingest
}

fn here(depot: &Depot, seeds: &[u64]) -> Vec<bool> {
    let ids: Vec<FrameId> = seeds.iter().map(|seed| frame(*seed).0).collect();
    depot.has_frames(&cache(), &ids).expect("looked up")
}

#[test]
fn what_came_of_a_broken_upload_stays_for_its_lease_and_no_longer() {
    let yard = Yard::new();
    let depot = &yard.bench.depot;
    let seeds = [1, 2, 3];
    let ingest = broken(depot, &seeds);
    assert_eq!(here(depot, &seeds), [false; 3], "nothing is durable yet");
    ingest.keep(lease()).expect("kept");
    let policy = Policy {
        max_age_s: None,
        ..strict()
    };
    yard.collect(&policy);
    assert_eq!(here(depot, &seeds), [true; 3]);
    yard.wait(2 * DAY);
    yard.collect(&policy);
    assert_eq!(here(depot, &seeds), [false; 3]);
    assert_eq!(yard.bench.total_bytes(), 0);
    let stats = depot.stats().expect("stats");
    assert_eq!((stats.uploads, stats.frames, stats.nars), (0, 0, 0));
}

#[test]
fn what_is_kept_is_no_nar() {
    let bench = Bench::new();
    broken(&bench.depot, &[1, 2]).keep(lease()).expect("kept");
    let bench = bench.reopened();
    assert_eq!(
        bench.depot.stats().expect("stats").uploads,
        1,
        "it was replayed"
    );
    let rows = bench
        .index
        .scan(Table::Uploads, b"", None, 10)
        .expect("rows");
    let state = UploadRow::decode(&rows[0].1).expect("a row").state;
    let (name, hash) = (state.name, state.nar_hash);
    assert!(name.starts_with("frames/"), "{name}");
    for found in [
        bench
            .depot
            .uploaded_nar(&cache(), &name)
            .expect("asked")
            .is_some(),
        bench
            .depot
            .upload(&cache(), &name)
            .expect("asked")
            .is_some(),
        bench
            .depot
            .held_nar(&cache(), &hash)
            .expect("asked")
            .is_some(),
    ] {
        assert!(!found, "{name}");
    }
}

#[test]
fn a_long_nar_is_kept_while_it_comes_and_ends_as_one() {
    let bench = Bench::new();
    let content: Vec<u8> = (0..6).flat_map(|seed| noise(seed, 500_000)).collect();
    let nar = nar_of(&content);
    let whole = Bench::new().put("whole.nar", &nar);
    let mut ingest = bench.depot.ingest().expect("ingest");
    let half = nar.len() / 2;
    ingest.write(&nar[..half]).expect("half of it");
    let kept = ingest.keep_so_far(lease()).expect("kept");
    assert!(kept > 0);
    assert_eq!(bench.depot.stats().expect("stats").frames, kept);
    ingest.write(&nar[half..]).expect("the rest");
    ingest
        .finish_as(whole, upload("long.nar"))
        .expect("the same");
    let bench = bench.reopened();
    let reader = bench
        .depot
        .uploaded_nar(&cache(), "long.nar")
        .expect("asked");
    assert!(collect(reader.expect("held").raw(0..u64::MAX)) == nar);
}

/// All segments as a process leaves them that is killed now, and a depot that finds them.
fn killed(bench: &Bench) -> Bench {
    Bench::over(bench.segments.copied_up_to(SegmentId(0), 0))
}

#[test]
fn every_frame_that_was_taken_outlives_the_process() {
    let bench = Bench::new();
    let seeds = [1, 2, 3, 4, 5];
    let others = [11, 12];
    let uploads = [
        outliving(&bench.depot, &seeds),
        outliving(&bench.depot, &others),
    ];
    let lost = broken(&bench.depot, &[21]);
    let found = killed(&bench);
    assert_eq!(here(&found.depot, &seeds), [true; 5]);
    assert_eq!(here(&found.depot, &others), [true; 2]);
    assert_eq!(
        here(&found.depot, &[21]),
        [false],
        "nobody can go on with it"
    );
    drop((uploads, lost));
    assert_eq!(here(&bench.depot, &seeds), [false; 5]);
    assert_eq!(bench.total_bytes(), 0, "given up, nothing of it stays");
}

#[test]
fn what_outlived_the_process_is_committed_once_and_goes_when_its_lease_ends() {
    let (yard, seeds) = (Yard::new(), [1, 2, 3]);
    let depot = &yard.bench.depot;
    let named = nar_of(&noise(9, 3_000_000));
    yard.bench.put("held.nar", &named);
    drop(outliving(depot, &[4]));
    let upload = outliving(depot, &seeds);
    let segments = yard.bench.segments.copied_up_to(SegmentId(0), 0);
    let later = 1_700_000_000 + 100 * DAY;
    let clock = Arc::new(std::sync::atomic::AtomicU64::new(later));
    let at = clock.clone();
    let now = move |options: &mut Options| {
        options.clock = Arc::new(move || at.load(std::sync::atomic::Ordering::Relaxed));
    };
    let found = Bench::with(segments.clone(), now.clone());
    let stored = found.total_bytes();
    drop(found);
    let found = Bench::with(segments, now);
    assert_eq!(found.total_bytes(), stored, "the next start finds it done");
    assert_eq!(here(&found.depot, &seeds), [true; 3]);
    let rows = found
        .index
        .scan(Table::Uploads, b"", None, 10)
        .expect("rows");
    let states = rows
        .iter()
        .map(|row| UploadRow::decode(&row.1).expect("a row").state);
    let kept: Vec<_> = states.filter(|it| it.name.starts_with("frames/")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].subject, "tester");
    assert_eq!(
        kept[0].expires,
        later + DAY,
        "as long as it was to be, from the start on"
    );
    let policy = Policy {
        sweep_grace_s: 0,
        max_age_s: None,
        ..strict()
    };
    for (wait, expected) in [(DAY - 10, true), (20, false)] {
        clock.fetch_add(wait, std::sync::atomic::Ordering::Relaxed);
        found
            .depot
            .collect(&policy, false, &mut |_| {})
            .expect("collected");
        assert_eq!(here(&found.depot, &seeds), [expected; 3]);
    }
    drop(upload);
}

#[test]
fn a_segment_torn_anywhere_keeps_the_frames_before_and_nothing_else() {
    let bench = Bench::new();
    bench.put("held.nar", &nar_of(&noise(9, 300_000)));
    let committed = bench.total_bytes();
    let seeds = [1, 2, 3];
    let upload = outliving(&bench.depot, &seeds);
    let (id, len) = bench.segments.list().expect("list")[0];
    let mut kept = [0; 4];
    for step in 0..=60 {
        let at = committed + (len - committed) * step / 60;
        for torn in [true, false] {
            let segments = match torn {
                true => bench.segments.copied_up_to(id, at),
                false => bench
                    .segments
                    .copied_up_to(id, len)
                    .damaged(id, at.min(len - 1))
                    .clone(),
            };
            let found = Bench::over(segments);
            let here = here(&found.depot, &seeds);
            let count = here.iter().filter(|here| **here).count();
            assert!(here[..count].iter().all(|here| *here), "{at}: {here:?}");
            kept[count] += 1;
            for seed in &seeds[..count] {
                let mut ingest = found.depot.ingest().expect("ingest");
                ingest.write(&head()).expect("a head");
                let (frame, raw_len, _) = frame(*seed);
                let known = ingest.known(&cache(), frame, raw_len).expect("read");
                assert!(known, "{at}: it is called here and is not");
            }
            let stored = found.total_bytes();
            found.put("more.nar", &nar_of(&noise(8, 300_000)));
            assert!(found.total_bytes() > stored, "it goes on");
            let lost = found.reopened();
            assert_eq!(self::here(&lost.depot, &seeds), here, "{at}");
        }
    }
    assert!(kept.iter().all(|times| *times > 0), "{kept:?}");
    drop(upload);
}

#[test]
fn a_power_cut_leaves_what_was_synced() {
    let bench = Bench::new();
    let mut upload = outliving(&bench.depot, &[1, 2]);
    upload.keep_so_far(lease()).expect("kept");
    let upload = send_more(upload, &[3, 4]);
    assert_eq!(here(&killed(&bench).depot, &[1, 2, 3, 4]), [true; 4]);
    bench.segments.power_cut();
    let found = killed(&bench);
    assert_eq!(
        here(&found.depot, &[1, 2, 3, 4]),
        [true, true, false, false]
    );
    std::mem::forget(upload); // nobody cleans up after a power cut
}

#[test]
fn what_outlived_the_process_is_known_to_its_own_cache_alone() {
    let bench = Bench::new();
    let own: CacheName = "team-a".parse().expect("a name");
    let mut ingest = bench.depot.ingest().expect("ingest");
    ingest.outlives(&Lease {
        cache: own.clone(),
        ..lease()
    });
    let upload = send(ingest, &[1, 2]);
    let found = killed(&bench);
    let ids = [frame(1).0, frame(2).0];
    let other: CacheName = "team-b".parse().expect("a name");
    for (cache, known) in [(&own, true), (&cache(), false), (&other, false)] {
        let found = found.depot.has_frames(cache, &ids).expect("looked up");
        assert_eq!(found, [known; 2], "{cache}");
    }
    drop(upload);
}

#[test]
fn a_frame_that_is_not_what_it_is_called_is_refused_at_once() {
    let bench = Bench::new();
    let mut ingest = bench.depot.ingest().expect("ingest");
    ingest.outlives(&lease());
    ingest.write(&head()).expect("a head");
    let ((id, _, _), (_, raw_len, stored)) = (frame(1), frame(2));
    let refused = ingest.frame(id, raw_len, &stored).expect_err("a lie");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    let found = killed(&bench);
    let ids = [frame(1).0, frame(2).0];
    assert_eq!(
        found.depot.has_frames(&cache(), &ids).expect("asked"),
        [false; 2]
    );
}
