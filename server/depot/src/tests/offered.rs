//! Frames that a client made: kept when their upload breaks, gone when the lease ends, never a NAR.

use snowcache_core::recipe::FrameId;

use super::collect::{DAY, Yard, strict};
use super::*;
use crate::index::{Index, Table};
use crate::rows::UploadRow;

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
    let mut ingest = depot.ingest().expect("ingest");
    ingest.write(&head()).expect("a head");
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
    assert!(
        here(depot, &seeds).contains(&true),
        "{:?}",
        here(depot, &seeds)
    );
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
