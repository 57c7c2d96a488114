//! What nobody needs goes; what somebody needs stays, whoever is at work meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

pub(super) const DAY: u64 = 86_400;
const START: u64 = 1_700_000_000;

/// A depot whose clock the test sets.
pub(super) struct Yard {
    pub(super) bench: Bench,
    pub(super) time: Arc<AtomicU64>,
}

/// Everything that may go goes at once.
pub(super) fn strict() -> Policy {
    Policy {
        grace_s: 0,
        max_age_s: Some(0),
        sweep_grace_s: 0,
        max_garbage_percent: 10,
        caches: Default::default(),
    }
}

impl Yard {
    pub(super) fn new() -> Yard {
        Yard::with(|_| {})
    }

    /// The same, with other options.
    pub(super) fn with(change: impl FnOnce(&mut Options)) -> Yard {
        let time = Arc::new(AtomicU64::new(START));
        let clock = time.clone();
        let bench = Bench::with(MemorySegments::default(), move |options| {
            options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
            change(options);
        });
        Yard { bench, time }
    }

    pub(super) fn wait(&self, seconds: u64) {
        self.time.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(super) fn collect(&self, policy: &Policy) -> (Collected, Vec<Finding>) {
        let mut findings = Vec::new();
        let collected = self
            .bench
            .depot
            .collect(policy, false, &mut |finding| findings.push(finding))
            .expect("collect");
        (collected, findings)
    }

    /// Path `number` with half a megabyte of its own.
    fn add(&self, number: u8, references: &[u8]) -> (Nar, Vec<u8>) {
        let bytes = nar_with(digit(number), 1000 + u64::from(number), 500_000);
        let nar = self.bench.put(&format!("{number}.nar"), &bytes);
        let published = self.bench.publish(path(number, nar, references));
        assert_eq!(published.expect("publish"), Published::New);
        (nar, bytes)
    }

    pub(super) fn has(&self, number: u8) -> bool {
        let rows = self.bench.depot.paths(&cache(), None, 1000).expect("list");
        rows.iter()
            .any(|path| path.name() == format!("path{number}"))
    }

    pub(super) fn pin(&self, name: &str, roots: &[u8], keep: &str) -> Pin {
        let nar = Nar {
            nar_hash: snowcache_nix::NarHash::from_bytes([0; 32]),
            nar_size_bytes: 1,
        };
        let roots = roots.iter().map(|root| path(*root, nar, &[]).store_path);
        let change = PinChange {
            roots: roots.collect(),
            keep: Some(keep.parse().expect("a rule")),
            expires: None,
        };
        let name = name.parse().expect("a name");
        let pin = self.bench.depot.set_pin(&cache(), &name, change, "tester");
        pin.expect("pinned")
    }
}

#[test]
fn an_upload_without_a_path_goes_when_its_lease_ends() {
    let yard = Yard::new();
    yard.bench.put("forgotten.nar", &nar_of(&noise(1, 300_000)));
    let policy = Policy {
        max_age_s: None,
        ..strict()
    };
    yard.collect(&policy);
    assert_eq!(yard.bench.depot.stats().expect("stats").uploads, 1);
    yard.wait(2 * DAY);
    let (collected, findings) = yard.collect(&policy);
    assert_eq!((collected.uploads, collected.nars), (1, 1));
    assert!(
        matches!(&findings[0], Finding::Upload { reason, .. } if reason.contains("lease ended")),
        "{findings:?}"
    );
    assert_eq!(yard.bench.total_bytes(), 0);
    let stats = yard.bench.depot.stats().expect("stats");
    assert_eq!((stats.uploads, stats.frames, stats.nars), (0, 0, 0));
}

#[test]
fn a_pin_holds_its_closure_and_the_rest_goes_by_age() {
    let yard = Yard::new();
    yard.add(1, &[]);
    let (nar, bytes) = yard.add(2, &[1]);
    yard.add(3, &[]);
    yard.pin("web", &[2], "5");
    yard.wait(3 * DAY);
    let policy = Policy {
        max_age_s: Some(2 * DAY),
        ..strict()
    };
    let (collected, findings) = yard.collect(&policy);
    assert_eq!(collected.paths, 1);
    assert!(
        matches!(&findings[0], Finding::Path { path, reason, .. }
            if path.name() == "path3" && reason.contains("max_age_s")),
        "{findings:?}"
    );
    assert_eq!(yard.bench.raw(&nar), Some(bytes));
    assert!(yard.has(1) && yard.has(2) && !yard.has(3));
    assert!(collected.stored_bytes <= collected.live_bytes * 11 / 10 + 1000);
}

#[test]
fn old_generations_of_a_pin_go_and_a_rollback_holds_them() {
    let yard = Yard::new();
    (1..=3).for_each(|number| drop(yard.add(number, &[])));
    yard.wait(2 * DAY);
    yard.pin("web", &[1], "2");
    yard.pin("web", &[2], "2");
    yard.collect(&strict());
    assert!(yard.has(1) && yard.has(2) && !yard.has(3));
    let name = "web".parse().expect("a name");
    let pin = yard.bench.depot.rollback_pin(&cache(), &name, None, "t");
    assert_eq!(pin.expect("back").current, 1);
    yard.add(4, &[]);
    yard.pin("web", &[4], "1");
    yard.collect(&strict());
    assert!(!yard.has(1) && !yard.has(2) && yard.has(4));
    yard.bench
        .depot
        .remove_pin(&cache(), &name, "t")
        .expect("removed");
    assert!(yard.bench.depot.pins(&cache()).expect("list").is_empty());
    yard.collect(&strict());
    assert!(!yard.has(4));
}

#[test]
fn a_download_under_way_ends_well_while_its_segment_is_rewritten() {
    let yard = Yard::new();
    yard.add(1, &[]);
    let (nar, bytes) = yard.add(2, &[]);
    yard.add(3, &[]);
    yard.pin("web", &[2], "5");
    let reader = yard.bench.depot.nar(&cache(), &nar.nar_hash);
    let reader = reader.expect("look up").expect("is there");
    let mut chunks = reader.raw(0..u64::MAX);
    let first = chunks.next().expect("a chunk").expect("well");
    yard.wait(2 * DAY);
    let (collected, _) = yard.collect(&strict());
    assert_eq!(collected.paths, 2);
    assert!(collected.segments_rewritten > 0, "{collected:?}");
    let rest = collect(chunks);
    assert_eq!([first.to_vec(), rest].concat(), bytes);
    assert_eq!(yard.bench.raw(&nar), Some(bytes), "and the next one");
}

#[test]
fn a_removed_path_can_still_be_downloaded_for_the_grace() {
    let yard = Yard::new();
    let (nar, bytes) = yard.add(1, &[]);
    let policy = Policy {
        sweep_grace_s: 3600,
        ..strict()
    };
    yard.collect(&policy);
    assert!(!yard.has(1));
    assert_eq!(yard.bench.raw(&nar).as_ref(), Some(&bytes));
    yard.wait(3000);
    yard.collect(&policy);
    assert_eq!(yard.bench.raw(&nar).as_ref(), Some(&bytes));
    yard.wait(2 * DAY);
    yard.collect(&policy);
    assert_eq!(yard.bench.raw(&nar), None);
    assert!(yard.bench.total_bytes() < 1000, "only its removal is left");
}

#[test]
fn a_path_comes_back_when_it_is_pushed_again() {
    let yard = Yard::new();
    yard.add(1, &[]);
    yard.wait(2 * DAY);
    yard.collect(&strict());
    assert!(!yard.has(1));
    let (nar, bytes) = yard.add(1, &[]);
    for _ in 0..2 {
        yard.pin("web", &[1], "5");
        yard.collect(&strict());
        assert_eq!(yard.bench.raw(&nar).as_ref(), Some(&bytes));
    }
    let again = yard.bench.reopened();
    assert_eq!(again.raw(&nar), Some(bytes), "also from the segments alone");
}

#[test]
fn what_was_removed_stays_removed_when_the_index_is_lost() {
    let yard = Yard::new();
    yard.add(1, &[]);
    yard.add(2, &[1]);
    yard.add(3, &[]);
    yard.pin("web", &[3], "5");
    let keep_all = Policy {
        sweep_grace_s: DAY,
        max_garbage_percent: 100_000,
        ..strict()
    };
    yard.collect(&keep_all);
    let again = yard.bench.reopened();
    let left = again.depot.paths(&cache(), None, 10).expect("list");
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(again.depot.pins(&cache()).expect("pins").len(), 1);
}

#[test]
fn names_are_removed_when_nothing_needs_them() {
    let yard = Yard::new();
    yard.add(1, &[]);
    yard.add(2, &[1]);
    yard.add(3, &[]);
    yard.pin("web", &[3], "5");
    let hash = |number| {
        let nar = Nar {
            nar_hash: snowcache_nix::NarHash::from_bytes([0; 32]),
            nar_size_bytes: 1,
        };
        path(number, nar, &[]).store_path.hash()
    };
    let remove = |numbers: &[u8], dry| {
        let hashes: Vec<_> = numbers.iter().map(|number| hash(*number)).collect();
        let removal = yard.bench.depot.remove_paths(&cache(), &hashes, "me", dry);
        removal.expect("decided")
    };
    let removal = remove(&[1, 3], false);
    assert!(removal.removed.is_empty());
    assert!(removal.kept[0].1.contains("-path2 needs it"), "{removal:?}");
    assert!(removal.kept[1].1.contains("holds it"), "{removal:?}");
    assert_eq!(remove(&[1, 2], true).removed.len(), 2);
    assert!(yard.has(1), "a dry run removes nothing");
    assert_eq!(remove(&[1, 2], false).removed.len(), 2);
    assert!(!yard.has(1) && !yard.has(2) && yard.has(3));
}

/// A depot that is two thirds full is too full for an upload of half of it: one collection after
/// the other makes room until it fits.
#[test]
fn what_does_not_fit_fits_after_collections_even_below_the_high_water() {
    let time = Arc::new(AtomicU64::new(START));
    let clock = time.clone();
    let bench = Bench::with(MemorySegments::default(), move |options| {
        options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
        options.max_size_bytes = Some(3_000_000);
    });
    let yard = Yard { bench, time };
    (0..5).for_each(|number| drop(yard.add(number, &[])));
    // Until the leases have ended.
    yard.wait(2 * DAY);
    let policy = Policy {
        max_age_s: None,
        ..strict()
    };
    let (collected, _) = yard.collect(&policy);
    assert_eq!(collected.paths, 0, "nobody was refused, so nothing goes");
    let big = nar_of(&noise(77, 1_600_000));
    let put = || {
        let mut ingest = yard.bench.depot.ingest().expect("ingest");
        let written = ingest.write(&big);
        written.and_then(|()| ingest.finish(upload("big.nar")))
    };
    let mut collections = 0;
    while let Err(full) = put() {
        assert_eq!(full.kind(), ErrorKind::Full, "{full}");
        yard.collect(&policy);
        collections += 1;
        assert!(collections < 4, "there never was room");
    }
    assert!(collections > 0, "it fitted at once");
}

#[test]
fn at_the_limit_uploads_are_refused_and_the_least_used_paths_go() {
    let time = Arc::new(AtomicU64::new(START));
    let clock = time.clone();
    let bench = Bench::with(MemorySegments::default(), move |options| {
        options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
        options.max_size_bytes = Some(3_000_000);
    });
    let yard = Yard { bench, time };
    let mut number = 0;
    let full = loop {
        let bytes = nar_of(&noise(100 + u64::from(number), 500_000));
        let mut ingest = yard.bench.depot.ingest().expect("ingest");
        let written = ingest.write(&bytes);
        let nar = match written.and_then(|()| ingest.finish(upload(&format!("{number}.nar")))) {
            Ok(nar) => nar,
            Err(error) => break error,
        };
        yard.bench.publish(path(number, nar, &[])).expect("publish");
        yard.wait(10);
        number += 1;
    };
    assert_eq!(full.kind(), ErrorKind::Full, "{full}");
    assert!(full.to_string().contains("max_size_bytes"), "{full}");
    assert!(number >= 5, "{number} fitted");
    yard.wait(2 * DAY);
    // Path 0 is used once more, path 1 is the one longest not used.
    let nar = Nar {
        nar_hash: snowcache_nix::NarHash::from_bytes([0; 32]),
        nar_size_bytes: 1,
    };
    let hash = path(0, nar, &[]).store_path.hash();
    assert!(
        yard.bench
            .depot
            .path(&cache(), &hash)
            .expect("look up")
            .is_some()
    );
    let policy = Policy {
        max_age_s: None,
        ..strict()
    };
    let (collected, findings) = yard.collect(&policy);
    assert!(collected.paths >= 1, "{collected:?}");
    assert!(yard.has(0) && !yard.has(1), "{findings:?}");
    yard.bench.put("again.nar", &nar_of(&noise(999, 400_000)));
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let yard = Yard::new();
    yard.add(1, &[]);
    yard.add(2, &[]);
    yard.pin("web", &[2], "5");
    let (before, segments) = (yard.bench.depot.stats(), yard.bench.total_bytes());
    let mut findings = Vec::new();
    let dry = yard
        .bench
        .depot
        .collect(&strict(), true, &mut |finding| findings.push(finding));
    let dry = dry.expect("told");
    assert_eq!((dry.paths, findings.len()), (1, 1), "{findings:?}");
    assert_eq!(
        yard.bench.depot.stats().expect("stats"),
        before.expect("stats")
    );
    assert!(yard.has(1));
    assert!(yard.bench.total_bytes() <= segments);
}

/// Pushers, readers and collections at the same time: nothing that is pinned or was just put is
/// ever missing.
#[test]
fn collections_run_beside_pushes_and_reads() {
    let yard = Yard::new();
    let shared = nar_with('z', 77, 800_000);
    let (pushes, running) = (AtomicU64::new(0), AtomicU64::new(2));
    std::thread::scope(|scope| {
        for pusher in 0..2u8 {
            let (yard, shared, pushes, running) = (&yard, &shared, &pushes, &running);
            scope.spawn(move || {
                for round in 0..60u64 {
                    let number = pusher * 8 + (round % 8) as u8;
                    let own = nar_with(digit(number), round % 5, 300_000);
                    let bytes = if round % 3 == 0 { shared } else { &own };
                    let name = format!("{pusher}-{round}.nar");
                    let nar = yard.bench.put(&name, bytes);
                    let uploaded = yard.bench.depot.uploaded_nar(&cache(), &name);
                    let reader = uploaded.expect("look up").expect("leased");
                    assert!(collect(reader.raw(0..u64::MAX)) == *bytes, "{name}");
                    let published = yard.bench.publish(path(number, nar, &[]));
                    published.expect("its NAR is under lease");
                    pushes.fetch_add(1, Ordering::Relaxed);
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        while running.load(Ordering::Relaxed) > 0 {
            yard.collect(&strict());
        }
    });
    assert_eq!(pushes.load(Ordering::Relaxed), 120);
    yard.wait(2 * DAY);
    yard.collect(&strict());
    yard.collect(&strict());
    let stats = yard.bench.depot.stats().expect("stats");
    assert_eq!(
        (stats.paths, stats.nars, stats.frames),
        (0, 0, 0),
        "{stats:?}"
    );
}

/// A NAR may be stored anew when another copy of its frames went: its recipe is then younger than
/// its path, and that must not matter to who reads the segments in order.
#[test]
fn a_nar_that_was_stored_anew_after_its_path_survives_the_loss_of_the_index() {
    let yard = Yard::new();
    // More than what waits for compression, so that the uploads get a segment each.
    let shared = noise(5, 12_000_000);
    let (one, two) = (
        nar_of(&shared),
        nar_of(&[&shared[..], b"and more"].concat()),
    );
    let mut first = yard.bench.depot.ingest().expect("ingest");
    let mut second = yard.bench.depot.ingest().expect("ingest");
    first.write(&one).expect("write");
    second.write(&two).expect("write");
    let nar = first.finish(upload("one.nar")).expect("durable");
    second
        .finish(upload("two.nar"))
        .expect("durable, its frames a second time");
    yard.bench.publish(path(1, nar, &[])).expect("published");
    yard.pin("web", &[1], "5");
    yard.wait(2 * DAY);
    yard.collect(&strict());
    assert_eq!(yard.bench.depot.stats().expect("stats").nars, 1);
    yard.bench.put("one-again.nar", &one);
    yard.wait(2 * DAY);
    yard.collect(&strict());
    assert!(yard.bench.raw(&nar).as_ref() == Some(&one));
    let again = yard.bench.reopened();
    assert!(again.raw(&nar) == Some(one), "the path lost its NAR");
    assert_eq!(again.depot.stats().expect("stats").paths, 1);
}

#[test]
fn what_nobody_named_is_bounded_for_each_pusher() {
    let time = Arc::new(AtomicU64::new(START));
    let clock = time.clone();
    let bench = Bench::with(MemorySegments::default(), move |options| {
        options.clock = Arc::new(move || clock.load(Ordering::Relaxed));
        options.max_leased_bytes = Some(1_000_000);
    });
    let yard = Yard { bench, time };
    let put = |seed: u64| {
        let mut ingest = yard.bench.depot.ingest().expect("ingest");
        ingest.write(&nar_of(&noise(seed, 400_000))).expect("write");
        ingest.finish(upload(&format!("{seed}.nar")))
    };
    let named = put(1).expect("the first");
    put(2).expect("the second");
    let refused = put(3).expect_err("the third");
    assert_eq!(refused.kind(), ErrorKind::Full);
    assert!(
        refused.to_string().contains("max_leased_bytes"),
        "{refused}"
    );
    yard.bench.publish(path(1, named, &[])).expect("named");
    put(3).expect("there is room for what is not named");
    put(4).expect_err("and no more");
    put(3).expect("the same again is no more");
    let policy = Policy {
        max_age_s: None,
        ..strict()
    };
    yard.wait(2 * DAY);
    yard.collect(&policy);
    let again = put(5);
    again.expect("leases have ended");
}
