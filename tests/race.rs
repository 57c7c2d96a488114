//! Sixty-four clients publish one path at once, from two builds that differ: one of them wins,
//! for everyone and for ever; every loser is answered 200 and recorded; what anybody is given at
//! any time is a narinfo and the NAR that it names.
//!
//! `SNOWCACHE_ROUNDS` (or `make test-race`) asks for more rounds.

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::codec::Codec;
use support::corpus::sha256;
use support::http::Http;
use support::nar::{Nar, Upload, hash_part};
use support::oracle::setting;
use support::random::Random;
use support::server::Snowcached;

const CLIENTS: usize = 64;
const READERS: usize = 4;
const ROUNDS: u64 = 50;
/// The index is thrown away after the last round: so many rounds must then say the same again.
const REMEMBERED: usize = 1000;

#[test]
fn one_of_two_builds_wins_for_everyone() {
    let mut random = Random::announced("race");
    let rounds = setting("SNOWCACHE_ROUNDS", ROUNDS);
    let mut server = Snowcached::stopped(support::folder_on_disk(), "error", &[]);
    server.start_again();
    let token = server.push_token();
    let (mut won, mut winners) = ([0, 0], Vec::new());
    for number in 0..rounds {
        let builds = [0, 1].map(|build| build_of(number, build, &mut random));
        let before = conflicts(&server);
        let winner = one_round(server.http(), &token, &builds);
        won[winner] += 1;
        assert_eq!(
            conflicts(&server) - before,
            CLIENTS as u64 / 2,
            "each of the losers is counted"
        );
        winners.push((
            builds[winner].hash_part().to_owned(),
            builds[winner].nar_hash.clone(),
        ));
    }
    println!("{rounds} rounds of {CLIENTS} clients: won by the builds {won:?}");

    let keep = winners.len().saturating_sub(REMEMBERED);
    server.kill();
    std::fs::remove_dir_all(server.depot().join("index")).expect("DIR/depot/index");
    server.start_again();
    for (hash, nar_hash) in &winners[keep..] {
        let narinfo = server
            .http()
            .get(&format!("/{hash}.narinfo"))
            .is(200)
            .text();
        assert!(
            narinfo.contains(nar_hash),
            "another one wins without the index:\n{narinfo}"
        );
    }
}

/// Build number `build` of the path of a round: the same file but for a time stamp in it.
fn build_of(round: u64, build: u64, random: &mut Random) -> Upload {
    let mut content = Random::seeded(round).bytes(random.below(30_000) as usize + 1);
    content.extend_from_slice(
        format!("/nix/store/{}-dep built at {build}", hash_part(round)).as_bytes(),
    );
    let nar = Nar::of_file(&content);
    Upload::honest(round, "irreproducible", &nar, Codec::named("none"))
}

/// All clients upload, then all publish at once; who won.
fn one_round(http: Http, token: &str, builds: &[Upload; 2]) -> usize {
    let (start, over, seen) = (
        Barrier::new(CLIENTS),
        AtomicBool::new(false),
        AtomicU64::new(0),
    );
    thread::scope(|scope| {
        for _ in 0..READERS {
            scope.spawn(|| read_until(&over, http, builds, &seen));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (build, start) = (&builds[client % 2], &start);
                scope.spawn(move || {
                    start.wait();
                    http.put(&build.nar_path(), token, &build.body).is(200);
                    http.put(&build.narinfo_path(), token, build.narinfo().as_bytes())
                        .is(200);
                    // What this client is given from now on is what everyone is given.
                    winner(http, builds).expect("published")
                })
            })
            .collect();
        let told: Vec<usize> = clients
            .into_iter()
            .map(|client| client.join().expect("a client"))
            .collect();
        over.store(true, Ordering::Relaxed);
        assert!(
            told.iter().all(|winner| *winner == told[0]),
            "no one winner: {told:?}"
        );
        told[0]
    })
}

/// Reads while the others race: nothing, or a winner, and always the same.
fn read_until(over: &AtomicBool, http: Http, builds: &[Upload; 2], seen: &AtomicU64) {
    while !over.load(Ordering::Relaxed) {
        if let Some(winner) = winner(http, builds) {
            let now = winner as u64 + 1;
            let before = seen.swap(now, Ordering::Relaxed);
            assert!(before == 0 || before == now, "the winner changed");
        }
    }
}

/// Whose narinfo is given out, if any; its NAR is as it says, and the other's is not given out.
fn winner(http: Http, builds: &[Upload; 2]) -> Option<usize> {
    let answer = http.get(&format!("/{}.narinfo", builds[0].hash_part()));
    if answer.status == 404 {
        return None;
    }
    let narinfo = answer.is(200).text();
    let field = |name: &str| {
        let line = narinfo.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}{narinfo}"))
            .to_owned()
    };
    let nar_hash = field("NarHash: ");
    let winner = builds.iter().position(|build| build.nar_hash == nar_hash);
    let winner = winner.unwrap_or_else(|| panic!("neither build:\n{narinfo}"));
    let size = builds[winner].nar_size.to_string();
    assert_eq!(field("NarSize: "), size);
    let packed = http.get(&format!("/{}", field("URL: "))).is(200);
    let unpacked = zstd::stream::decode_all(packed.body.as_slice()).expect("zstd");
    assert_eq!(
        sha256(unpacked.as_slice()),
        sha256(builds[winner].nar.as_slice())
    );
    Some(winner)
}

fn conflicts(server: &Snowcached) -> u64 {
    server.stats()["conflicts"].as_u64().expect("a number")
}
