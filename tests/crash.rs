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
//! The oracle is in this process, outside of the victim. Every path is made from its number alone,
//! so that the oracle need only remember numbers.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use support::http::Http;
use support::oracle::{self, all_paths, assert_whole, upload};
use support::random::Random;
use support::server::Snowcached;

/// What the server's log calls the steps of an upload, in their order.
const PHASES: [&str; 5] = ["receive", "spool", "fsync", "index", "acknowledge"];
const KILLS_IN_EACH_PHASE: u32 = 20;
const PUSHERS: u64 = 4;
const READY_WITHIN: Duration = Duration::from_secs(2);

/// How far one upload got, as its pusher saw it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Progress {
    /// The NAR was sent, and no 2xx came back.
    NarSent,
    /// The NAR's 2xx came back: it is durable.
    NarAcknowledged,
    /// The narinfo was sent, and no 2xx came back.
    InfoSent,
    /// The narinfo's 2xx came back: the path is durable and visible.
    Acknowledged,
}

#[derive(Default)]
struct Oracle {
    progress: Mutex<BTreeMap<u64, Progress>>,
    next: AtomicU64,
    /// Held for reading while an upload is under way, for writing from after a kill (which waits
    /// for nobody) until all is judged.
    down: RwLock<()>,
    over: AtomicBool,
}

#[test]
fn nothing_acknowledged_is_lost_however_often_it_is_killed() {
    let mut random = Random::announced("crash");
    let mut server = Snowcached::start_with(support::folder_on_disk(), "debug", &[]);
    let (oracle, token, http) = (Oracle::default(), server.push_token(), server.http());
    let mut hits: BTreeMap<&str, u32> = PHASES.map(|phase| (phase, 0)).into();
    let mut slowest = Duration::ZERO;
    thread::scope(|scope| {
        for _ in 0..PUSHERS {
            scope.spawn(|| push_until_over(&oracle, http, &token));
        }
        // Also when an assertion fails, so that the pushers end and the failure can be told.
        let end = EndWith(&oracle.over);
        while let Some(phase) = rarest(&hits, &mut random) {
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
                slowest = slowest.max(server.ready_in);
                assert!(
                    server.ready_in < READY_WITHIN,
                    "ready after {:?}",
                    server.ready_in
                );
                judge(&oracle, http, &token, &mut random, 40);
            }
            // Let work pile up again before the next kill.
            thread::sleep(Duration::from_millis(random.below(120)));
        }
        drop(end);
    });
    println!("kills by phase: {hits:?}; slowest restart {slowest:?}");

    judge(&oracle, http, &token, &mut random, u64::MAX);
    let acknowledged = oracle.acknowledged();
    println!(
        "{} uploads, {} acknowledged",
        oracle.next.load(Ordering::Relaxed),
        acknowledged.len()
    );
    the_index_is_only_an_index(&mut server, &acknowledged);
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

// ---- the pushers ----

fn push_until_over(oracle: &Oracle, http: Http, token: &str) {
    while !oracle.over.load(Ordering::Relaxed) {
        let number = oracle.next.fetch_add(1, Ordering::Relaxed);
        let upload = upload(number);
        let _asking = oracle.down.read().expect("no poison");
        oracle.note(number, Progress::NarSent);
        if !put(http, &upload.nar_path(), token, &upload.body) {
            continue;
        }
        oracle.note(number, Progress::NarAcknowledged);
        // Some uploads stop here: their NAR must still be there when the narinfo comes much later.
        if number.is_multiple_of(7) {
            continue;
        }
        oracle.note(number, Progress::InfoSent);
        if put(
            http,
            &upload.narinfo_path(),
            token,
            upload.narinfo().as_bytes(),
        ) {
            oracle.note(number, Progress::Acknowledged);
        }
    }
}

/// Whether it was acknowledged. A refusal is a failure of the test: only silence is allowed, when
/// the server has been killed.
fn put(http: Http, path: &str, token: &str, body: &[u8]) -> bool {
    oracle::put(http, path, token, body).is_ok_and(|answer| answer.is(200).status == 200)
}

// ---- the judge ----

/// Every path that the oracle knows of (or, of those that were acknowledged long ago, a sample) is
/// as it must be.
fn judge(oracle: &Oracle, http: Http, token: &str, random: &mut Random, sample: u64) {
    let known: Vec<(u64, Progress)> = oracle
        .progress
        .lock()
        .expect("no poison")
        .clone()
        .into_iter()
        .collect();
    let recent = known.len().saturating_sub(24);
    let listed = all_paths(http);
    for (index, &(number, progress)) in known.iter().enumerate() {
        let name = oracle::base_name(number);
        let visible = listed.contains(&name);
        let look_closely =
            index >= recent || sample == u64::MAX || random.below(known.len() as u64) < sample;
        match progress {
            Progress::Acknowledged => {
                assert!(visible, "{name} was acknowledged and is gone");
                if look_closely {
                    assert_whole(http, &upload(number));
                }
            }
            Progress::InfoSent if visible => assert_whole(http, &upload(number)),
            Progress::InfoSent | Progress::NarSent | Progress::NarAcknowledged => {
                assert!(!visible, "{name} is visible, and its narinfo was not sent");
                if look_closely {
                    http.get(&format!("/{}.narinfo", &name[..32])).is(404);
                }
            }
        }
        // A NAR that was acknowledged needs no second upload, only its narinfo.
        if progress == Progress::NarAcknowledged && look_closely {
            let upload = upload(number);
            http.put(&upload.narinfo_path(), token, upload.narinfo().as_bytes())
                .is(200);
            oracle.note(number, Progress::Acknowledged);
            assert_whole(http, &upload);
        }
    }
}

impl Oracle {
    fn note(&self, number: u64, progress: Progress) {
        self.progress
            .lock()
            .expect("no poison")
            .insert(number, progress);
    }

    fn acknowledged(&self) -> Vec<u64> {
        let progress = self.progress.lock().expect("no poison");
        progress
            .iter()
            .filter(|(_, p)| **p == Progress::Acknowledged)
            .map(|(&number, _)| number)
            .collect()
    }
}

struct EndWith<'a>(&'a AtomicBool);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One of the phases that still lack hits, the rarer the likelier; none when all have enough.
fn rarest<'a>(hits: &BTreeMap<&'a str, u32>, random: &mut Random) -> Option<&'a str> {
    let lacking: Vec<&str> = hits
        .iter()
        .filter(|(_, hits)| **hits < KILLS_IN_EACH_PHASE)
        .map(|(&phase, _)| phase)
        .collect();
    let choice = random.below(lacking.len().max(1) as u64) as usize;
    lacking.get(choice).copied()
}
