//! kill -9, over and over, in every phase of an upload: nothing that was acknowledged is lost,
//! what was not acknowledged is wholly there or wholly absent, and the server is back within two
//! seconds.
//!
//! ```text
//!   pushers (4 threads)  --PUT nar, PUT narinfo-->  snowcached  --"phase": "fsync"-->  killer
//!        |                                              ^                                 |
//!        v  2xx: write it down                          '------------- SIGKILL -----------'
//!      oracle  <--- after each restart: ask for everything again --- judge
//! ```
//!
//! The oracle (`support/oracle.rs`) is in this process, outside of the victim.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use support::oracle::{self, EndWith, Oracle, all_paths, assert_whole, small_upload, upload};
use support::random::Random;
use support::server::Snowcached;

/// What the server's log calls the steps of an upload, in their order.
const PHASES: [&str; 5] = ["receive", "spool", "fsync", "index", "acknowledge"];
/// Over all phases; `SNOWCACHE_KILLS` asks for another number.
const KILLS: u64 = 100;
const PUSHERS: u64 = 4;
/// Kills of a server that collects, likewise.
const COLLECTOR_KILLS: u64 = 20;
/// How long an upload without a narinfo stays.
const LEASE_S: u64 = 4;
/// Segments with less garbage than 64 KiB are not rewritten: a few of them.
const LEAKED_BYTES: u64 = 512 << 10;
/// Paths whose every byte is asked for after a kill, beside the newest; all of them in the end.
const SAMPLE: u64 = 10;
/// Kills between two lines that say how far it is.
const TOLD_EVERY: u64 = 100;
const READY_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn nothing_acknowledged_is_lost_however_often_it_is_killed() {
    let mut random = Random::announced("crash");
    let mut server = Snowcached::start_with(support::folder_on_disk(), "debug", &[]);
    let (oracle, token, http) = (Oracle::default(), server.push_token(), server.http());
    let each = oracle::setting("SNOWCACHE_KILLS", KILLS).div_ceil(PHASES.len() as u64);
    let mut hits: BTreeMap<&str, u64> = PHASES.map(|phase| (phase, 0)).into();
    let mut starts = Vec::new();
    thread::scope(|scope| {
        for _ in 0..PUSHERS {
            scope.spawn(|| oracle.push_until_over(http, &token, upload));
        }
        // Also when an assertion fails, so that the pushers end and the failure can be told.
        let end = EndWith(&oracle.over);
        while let Some(phase) = rarest(&hits, &mut random, each) {
            // A marker that was seen is a hit, when the kill comes in the milliseconds behind it.
            let from = server.log.len();
            let marker =
                |line: &str| line.contains("phase") && line.contains(&format!("\"{phase}\""));
            let seen = server.log.wait_for(from, Duration::from_secs(20), marker);
            assert!(
                seen.is_some(),
                "no sign of the phase {phase:?} in the log:\n{}",
                server.log.tail(20)
            );
            thread::sleep(Duration::from_micros(random.below(3_000)));
            server.kill();
            *hits.get_mut(phase).expect("one of PHASES") += 1;
            {
                let _nobody_asks = oracle.down.write().expect("no poison");
                server.start_again();
                starts.push(server.ready_in);
                oracle.assert_no_refusal_before(Instant::now());
                oracle.judge(http, &token, &mut random, SAMPLE, upload);
            }
            tell(hits.values().sum(), &oracle);
            // Let work pile up again before the next kill.
            thread::sleep(Duration::from_millis(random.below(120)));
        }
        drop(end);
    });
    println!("kills by phase: {hits:?}");
    assert_ready_soon(starts);

    oracle.judge(http, &token, &mut random, u64::MAX, upload);
    let acknowledged = oracle.acknowledged();
    println!(
        "{} uploads, {} acknowledged",
        oracle.tried(),
        acknowledged.len()
    );
    the_index_is_only_an_index(&mut server, &acknowledged);
}

/// The same while paths are removed, a pin moves and garbage is collected: what was removed stays
/// away, what was not stays here, and in the end no byte is leaked.
#[test]
fn a_collector_that_is_killed_loses_nothing_and_leaks_nothing() {
    let mut random = Random::announced("crash while collecting");
    let configured = support::folder_on_disk();
    let [flag, config] = oracle::quick_collections(configured.path(), LEASE_S);
    let folder = support::folder_on_disk();
    let mut server = Snowcached::start_with(folder, "warn", &[&flag, &config]);
    let (oracle, token, http) = (Oracle::default(), server.push_token(), server.http());
    let admin_token = server.admin_token();
    oracle.leases_end.store(true, Ordering::Relaxed);
    let kills = oracle::setting("SNOWCACHE_KILLS", COLLECTOR_KILLS);
    let mut starts = Vec::new();
    thread::scope(|scope| {
        for _ in 0..PUSHERS {
            scope.spawn(|| oracle.push_until_over(http, &token, small_upload));
        }
        scope.spawn(|| oracle.collect_until_over(http, &token, &admin_token));
        let end = EndWith(&oracle.over);
        for number in 1..=kills {
            thread::sleep(Duration::from_millis(random.below(400)));
            server.kill();
            let _nobody_asks = oracle.down.write().expect("no poison");
            server.start_again();
            starts.push(server.ready_in);
            oracle.judge(http, &token, &mut random, SAMPLE, small_upload);
            tell(number, &oracle);
        }
        drop(end);
    });
    oracle.judge(http, &token, &mut random, u64::MAX, small_upload);
    let (tried, collections) = (oracle.tried(), oracle.collected());
    println!("{kills} kills, {tried} uploads, {collections} collections");
    assert_ready_soon(starts);

    // What no path has is gone when the leases are over.
    thread::sleep(Duration::from_secs(LEASE_S + 1));
    let collected = oracle::collect(http, &admin_token).expect("a collection");
    let bytes = |what: &str| collected[what].as_u64().expect("a number");
    let (live, stored) = (bytes("live_bytes"), bytes("stored_bytes"));
    println!("{live} bytes live, {stored} are stored");
    assert!(stored <= live + live / 10 + LEAKED_BYTES, "{collected}");
    let stats = server.stats();
    assert_eq!(stats["nars"], stats["paths"], "a NAR without a path stays");
    assert_eq!(stats["segment_bytes"], stored);
    oracle.judge(http, &token, &mut random, u64::MAX, small_upload);
    server.kill();
    fs::remove_dir_all(server.depot().join("index")).expect("DIR/depot/index is the index");
    server.start_again();
    oracle.judge(http, &token, &mut random, u64::MAX, small_upload);
}

/// Most starts are: one or another may be held up by a machine that has much else to do.
fn assert_ready_soon(mut starts: Vec<Duration>) {
    starts.sort_unstable();
    let [middle, slowest] = [starts.len() / 2, starts.len() - 1].map(|at| starts[at]);
    println!("ready after {middle:?} in the middle, {slowest:?} at most");
    assert!(middle < READY_WITHIN, "ready after {starts:?}");
}

/// Says now and then how far it is.
fn tell(kills: u64, oracle: &Oracle) {
    if kills.is_multiple_of(TOLD_EVERY) {
        println!("{kills} kills, {} uploads", oracle.tried());
    }
}

/// The RocksDB folder deleted: everything is back, byte for byte.
fn the_index_is_only_an_index(server: &mut Snowcached, acknowledged: &[u64]) {
    let before = (server.stats(), all_paths(server.http()));
    server.kill();
    fs::remove_dir_all(server.depot().join("index")).expect("DIR/depot/index is the index");
    let begin = Instant::now();
    server.start_again();
    println!(
        "index of {} paths rebuilt in {:?}",
        before.1.len(),
        begin.elapsed()
    );
    for &number in acknowledged {
        assert_whole(server.http(), &upload(number));
    }
    assert_eq!(all_paths(server.http()), before.1);
    for count in ["paths", "nars", "frames"] {
        assert_eq!(server.stats()[count], before.0[count], "{count}");
    }
}

/// One of the phases that still lack hits, the rarer the likelier; none when all have enough.
fn rarest<'a>(hits: &BTreeMap<&'a str, u64>, random: &mut Random, each: u64) -> Option<&'a str> {
    let lacking: Vec<&str> = hits
        .iter()
        .filter(|(_, hits)| **hits < each)
        .map(|(&phase, _)| phase)
        .collect();
    let choice = random.below(lacking.len().max(1) as u64) as usize;
    lacking.get(choice).copied()
}
