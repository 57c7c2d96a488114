//! What each cache holds and may, what stays of it, and what becomes of one that was deleted.

use super::collect::{DAY, Yard, strict};
use super::*;

fn named(name: &str) -> CacheName {
    name.parse().expect("a name")
}

/// Path `number` with half a megabyte of content that is `seed`'s, in a cache.
fn add(yard: &Yard, cache: &CacheName, number: u8, seed: u64, references: &[u8]) -> Result<Nar> {
    let depot = &yard.bench.depot;
    let bytes = nar_of(&noise(seed, 500_000));
    let mut ingest = depot.ingest()?;
    ingest.write(&bytes)?;
    let upload = Upload {
        cache: cache.clone(),
        ..upload(&format!("{number}.nar"))
    };
    let nar = ingest.finish(upload)?;
    let info = signed(path(number, nar, references), nar);
    depot.publish(cache, info, "tester")?;
    Ok(nar)
}

fn paths(yard: &Yard, cache: &CacheName) -> usize {
    let paths = yard.bench.depot.paths(cache, None, 1000);
    paths.expect("list").len()
}

fn holds(yard: &Yard, cache: &CacheName) -> Option<(u64, u64)> {
    let holding = yard.bench.depot.holding(cache)?;
    Some((holding.paths, holding.nar_bytes))
}

fn raw(yard: &Yard, cache: &CacheName, nar: &Nar) -> Option<Vec<u8>> {
    let reader = yard.bench.depot.nar(cache, &nar.nar_hash).expect("look up");
    reader.map(|reader| collect(reader.raw(0..u64::MAX)))
}

#[test]
fn a_cache_is_counted_while_it_grows_and_shrinks() {
    let yard = Yard::new();
    let (a, b) = (named("a"), named("b"));
    let depot = &yard.bench.depot;
    let one = add(&yard, &a, 1, 1, &[]).expect("added");
    add(&yard, &b, 1, 1, &[]).expect("added");
    assert_eq!(holds(&yard, &a), None, "nobody watches it");
    depot.watch_holding(&a, None);
    assert_eq!(holds(&yard, &a), None, "not counted yet");
    depot.count_holdings().expect("counted");
    let size = one.nar_size_bytes;
    assert_eq!(holds(&yard, &a), Some((1, size)));
    add(&yard, &a, 2, 2, &[1]).expect("added");
    add(&yard, &a, 2, 2, &[1]).expect("the same again");
    assert_eq!(holds(&yard, &a), Some((2, 2 * size)));
    let gone = path(2, one, &[]).store_path.hash();
    for dry_run in [true, false] {
        let removed = depot.remove_paths(&a, &[gone], "tester", dry_run);
        assert_eq!(removed.expect("removed").removed.len(), 1);
        let left = if dry_run { 2 } else { 1 };
        assert_eq!(holds(&yard, &a), Some((left, left * size)));
    }
    yard.wait(DAY);
    yard.collect(&strict());
    assert_eq!(holds(&yard, &a), Some((0, 0)));
    depot.unwatch_holding(&a);
    assert_eq!(holds(&yard, &a), None);
}

#[test]
fn what_comes_while_a_cache_is_counted_counts_once() {
    let yard = Yard::new();
    let a = named("a");
    for number in 0..16 {
        add(&yard, &a, number, number.into(), &[]).expect("added");
    }
    let depot = yard.bench.depot.clone();
    depot.watch_holding(&a, None);
    let counting = std::thread::spawn(move || depot.count_holdings());
    for number in 16..32 {
        add(&yard, &a, number, number.into(), &[]).expect("added");
    }
    counting.join().expect("no panic").expect("counted");
    let (paths, _) = holds(&yard, &a).expect("counted");
    assert_eq!(paths, 32);
}

#[test]
fn no_commit_takes_a_cache_over_its_quota() {
    let yard = Yard::new();
    let (a, b) = (named("a"), named("b"));
    let depot = &yard.bench.depot;
    let size = add(&yard, &b, 9, 9, &[]).expect("added").nar_size_bytes;
    depot.watch_holding(&a, Some(2 * size));
    depot.count_holdings().expect("counted");
    add(&yard, &a, 1, 1, &[]).expect("the first");
    add(&yard, &a, 2, 2, &[]).expect("the second");
    let error = add(&yard, &a, 3, 3, &[]).expect_err("one too many");
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("its quota is"), "{error}");
    assert_eq!(
        (paths(&yard, &a), holds(&yard, &a)),
        (2, Some((2, 2 * size)))
    );
    // What is there may be put again, and others are not concerned.
    add(&yard, &a, 2, 2, &[]).expect("the same");
    add(&yard, &b, 3, 3, &[]).expect("in another cache");
    assert!(depot.check_quota(&a).is_err() && depot.check_quota(&b).is_ok());
    // Many at once are looked at one after the other.
    depot.watch_holding(&a, Some(3 * size));
    let infos = [4, 5].map(|number| {
        let bytes = nar_of(&noise(number, 500_000));
        let mut ingest = depot.ingest().expect("ingest");
        ingest.write(&bytes).expect("write");
        let upload = Upload {
            cache: a.clone(),
            ..upload(&format!("{number}.nar"))
        };
        let nar = ingest.finish(upload).expect("finish");
        signed(path(number as u8, nar, &[]), nar)
    });
    let published = depot.publish_all(&a, Vec::from(infos), Default::default(), "tester");
    assert!(
        matches!(published[..], [Ok(Published::New), Err(_)]),
        "{published:?}"
    );
    assert_eq!(holds(&yard, &a), Some((3, 3 * size)));
}

#[test]
fn each_cache_has_its_own_retention() {
    let yard = Yard::new();
    let (short, long, root) = (named("short"), named("long"), cache());
    for cache in [&short, &long, &root] {
        add(&yard, cache, 1, 1, &[]).expect("added");
    }
    let policy = Policy {
        max_age_s: None,
        caches: [
            (
                short.clone(),
                Stay::For {
                    grace_s: 0,
                    max_age_s: Some(DAY),
                },
            ),
            (
                long.clone(),
                Stay::For {
                    grace_s: 10 * DAY,
                    max_age_s: Some(DAY),
                },
            ),
        ]
        .into(),
        ..strict()
    };
    yard.wait(2 * DAY);
    let (collected, findings) = yard.collect(&policy);
    assert_eq!(collected.paths, 1, "{findings:?}");
    let left = [&short, &long, &root].map(|cache| paths(&yard, cache));
    assert_eq!(left, [0, 1, 1]);
    yard.wait(10 * DAY);
    yard.collect(&policy);
    let left = [&short, &long, &root].map(|cache| paths(&yard, cache));
    assert_eq!(left, [0, 0, 1]);
}

#[test]
fn of_a_deleted_cache_all_goes_and_what_others_share_stays() {
    let yard = Yard::new();
    let (gone, stays) = (named("gone"), named("stays"));
    let depot = &yard.bench.depot;
    let shared = add(&yard, &gone, 1, 1, &[]).expect("added");
    let alone = add(&yard, &gone, 2, 2, &[1]).expect("added");
    assert_eq!(add(&yard, &stays, 1, 1, &[]).expect("added"), shared);
    let change = PinChange {
        roots: vec![path(2, alone, &[]).store_path],
        keep: None,
        expires: None,
    };
    let pin: PinName = "web".parse().expect("a name");
    depot
        .set_pin(&gone, &pin, change, "tester")
        .expect("pinned");
    let key = format!("{}-x.drv", "0".repeat(32));
    let log = depot.put_document(&gone, Document::Log, &key, b"a log", "tester");
    assert_eq!(log.expect("stored"), Stored::New);
    // An upload that nobody named.
    let mut ingest = depot.ingest().expect("ingest");
    ingest.write(&nar_of(&noise(3, 500_000))).expect("write");
    let upload = Upload {
        cache: gone.clone(),
        ..upload("3.nar")
    };
    ingest.finish(upload).expect("finish");
    let policy = Policy {
        grace_s: 30 * DAY,
        max_age_s: None,
        caches: [(gone.clone(), Stay::Nothing)].into(),
        ..strict()
    };
    assert!(!depot.is_gone(&gone).expect("asked"));
    let dry = depot.collect(&policy, true, &mut |_| {}).expect("collect");
    assert_eq!((dry.paths, paths(&yard, &gone)), (2, 2), "only told");
    let (collected, findings) = yard.collect(&policy);
    assert_eq!(collected.paths, 2, "{findings:?}");
    let why = |finding: &Finding| match finding {
        Finding::Path { reason, .. } => reason == "its cache was deleted",
        _ => true,
    };
    assert!(findings.iter().all(why), "{findings:?}");
    assert_eq!(paths(&yard, &gone), 0);
    assert!(raw(&yard, &gone, &shared).is_none() && raw(&yard, &gone, &alone).is_none());
    let content = raw(&yard, &stays, &shared).expect("there");
    assert!(content == nar_of(&noise(1, 500_000)));
    yard.collect(&policy);
    assert!(depot.is_gone(&gone).expect("asked"));
    let stats = depot.stats().expect("stats");
    assert_eq!((stats.paths, stats.nars, stats.uploads), (1, 1, 1));
    // Neither an index made anew nor another collection brings it back.
    let bench = yard.bench.reopened();
    assert_eq!(bench.depot.paths(&gone, None, 10).expect("list"), []);
    assert!(bench.depot.pins(&gone).expect("pins").is_empty());
}

#[test]
fn counting_does_not_hold_up_a_server_that_shuts_down() {
    let bench = Bench::new();
    let nar = bench.put("1.nar", &nar_of(b"one"));
    bench.publish(path(1, nar, &[])).expect("publish");
    bench.depot.watch_holding(&cache(), None);
    bench.depot.stop_collecting();
    let counted = bench.depot.stats().expect_err("not to the end");
    assert_eq!(counted.kind(), ErrorKind::Closed);
    let counted = bench.depot.count_holdings().expect_err("not to the end");
    assert_eq!(counted.kind(), ErrorKind::Closed);
}
