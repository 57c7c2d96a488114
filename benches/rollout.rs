//! What it takes to bring a closure to a node: `snowcache prefetch`, beside its floor and beside
//! stock Nix.
//!
//! ```text
//! cargo bench --bench rollout                        the quick corpus that `make test-setup` makes
//! cargo bench --bench rollout -- CORPUS-FOLDER       one that tests/corpus/make-corpus.sh made
//! ```
//!
//! `SNOWCACHE_BENCH_ONLY=P7` or `P6,P15` for some of the rows.
//!
//! Each round, for each version of Nix, on new nodes with an empty store and a nix-daemon: the
//! floor (NARs that lie unpacked in this process's memory, pushed over as many connections as are
//! best), prefetch from a snowcached, and nix-store --realise with the snowcached as substituter.
//! Before that, once for each: what goes over the wire from one generation to the next, which is a
//! rebuild of everything, everything counted, by prefetch and by nix-store --realise.

#[path = "../tests/support/mod.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::stream;
use snowcache_nix::nar::Writer;
use snowcache_nix::{SecretKey, StoreHash, StorePath};
use support::cargo::Cargo;
use support::corpus;
use support::daemon::Daemon;
use support::nix::{Nix, Node, User, inputs};
use support::server::{Snowcached, binary};
use support::wire::Wire;

/// Unless `SNOWCACHE_BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 5;
/// Connections of the floor; the best one counts.
const CONNECTIONS: [usize; 2] = [2, 4];

/// As large as a system gets.
const PATHS_OF_THE_GATE: usize = 10_000;

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let folder = folder.map_or(inputs().join("corpus-120"), PathBuf::from);
    let tops = ["top1", "top2"].map(|name| {
        let top = std::fs::canonicalize(folder.join(name));
        let top = top.expect("a corpus; run: make test-setup");
        top.to_string_lossy().into_owned()
    });
    let [top, top2] = tops;
    let server = Snowcached::start_with(support::folder_on_disk(), "warn", &[]);
    let mut user = User::of(&server);
    user.variable("TOPS", &format!("{top} {top2}"));
    let push = "nix copy --to \"$PUSH?compression=zstd\" $TOPS";
    let here = Node::this_machine();
    here.sh(&user, &Nix::installed(), push).ok();
    let key = SecretKey::generate("floor-1", [7; 32]).expect("a good name");
    let cargo: Vec<Cargo> = corpus::closure(&top)
        .iter()
        .map(|path| Cargo::of(path, &key))
        .collect();
    let size: u64 = cargo.iter().map(|it| it.info.nar_size).sum();
    println!("{} paths, {:.1} MB of NARs", cargo.len(), size as f64 / 1e6);
    let trusted = format!("{} {}", server.public_key(), key.public());
    if wanted("P15") {
        gate(&trusted, &server, &key);
    }
    if wanted("P7") {
        rebuild(&trusted, &server, [&top, &top2]);
    }
    if !wanted("P6") {
        return;
    }
    let rounds = std::env::var("SNOWCACHE_BENCH_ROUNDS");
    let rounds = rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"));
    println!("| nix | round | floor s | prefetch s | of the floor | realise s |");
    println!("|---|---|---|---|---|---|");
    for nix in Nix::both() {
        let mut ratios = Vec::new();
        for round in 1..=rounds {
            let floors = CONNECTIONS.map(|count| floor(&nix, &trusted, &cargo, count));
            let floor = floors.into_iter().min().expect("two").as_secs_f64();
            let prefetch = prefetch(&nix, &trusted, &server, &top).as_secs_f64();
            let stock = realise(&nix, &trusted, &server, &top).as_secs_f64();
            let ratio = prefetch / floor;
            ratios.push(ratio);
            let version = &nix.version;
            println!(
                "| {version} | {round} | {floor:.2} | {prefetch:.2} | {ratio:.2} | {stock:.2} |"
            );
        }
        ratios.sort_by(f64::total_cmp);
        let median = ratios[rounds / 2];
        println!("{}: median {median:.2} of the floor", nix.version);
    }
}

/// Whether a row is wanted: `SNOWCACHE_BENCH_ONLY` names some, of P6, P7 and P15.
fn wanted(row: &str) -> bool {
    let only = std::env::var("SNOWCACHE_BENCH_ONLY");
    only.is_err() || only.is_ok_and(|only| only.split(',').any(|it| it == row))
}

/// Bytes on the wire from generation to generation.
fn rebuild(trusted: &str, server: &Snowcached, [before, after]: [&str; 2]) {
    println!("| nix | 1 -> 2 by prefetch | by nix-store --realise | of it |");
    println!("|---|---|---|---|");
    for nix in Nix::both() {
        let wire = Wire::to(server.address());
        let url = wire.url();
        let program = binary("snowcache").display().to_string();
        let by_prefetch = |top: &str| format!("{program} prefetch {top} --from {url} --quiet");
        let realised = |top: &str| format!("NIX_REMOTE=daemon nix-store --realise {top}");
        let carried = |script: &dyn Fn(&str) -> String| {
            let (node, user, _daemon) = node(&nix, trusted, &url);
            node.sh(&user, &nix, &script(before)).ok();
            let (carried, begin) = (wire.carried(), Instant::now());
            node.sh(&user, &nix, &script(after)).ok();
            let seconds = begin.elapsed().as_secs_f64();
            (wire.carried() - carried, seconds)
        };
        let (ours, our_s) = carried(&by_prefetch);
        let (stock, stock_s) = carried(&realised);
        println!(
            "| {} | {ours} B, {our_s:.2} s | {stock} B, {stock_s:.2} s | {:.3} % |",
            nix.version,
            100.0 * ours as f64 / stock as f64
        );
    }
}

/// How long the gate takes for a large closure of small paths.
fn gate(trusted: &str, server: &Snowcached, key: &SecretKey) {
    let nix = Nix::newer();
    let (node, user, daemon) = node(&nix, trusted, "");
    let cargo = many(PATHS_OF_THE_GATE, key);
    let top = cargo[0].info.store_path.absolute();
    let mut client = daemon.connect();
    for cargo in cargo.iter().rev() {
        let nar = stream::iter([Ok::<_, ()>(&cargo.nar)]);
        block_on(client.add_to_store_nar(&cargo.info, nar)).expect("imported");
    }
    let program = binary("snowcache").display().to_string();
    let url = server.url();
    let prefetch = format!("{program} prefetch {top} --from {url} --quiet");
    node.sh(&user, &nix, &prefetch).ok();
    // Timed inside, so that making the node's namespace does not count.
    let script = format!(
        "for _ in $(seq 20); do\n\
         begin=$(date +%s%N); {program} gate {top}; echo $((($(date +%s%N) - begin) / 1000))\n\
         done"
    );
    let said = node.sh(&user, &nix, &script).ok();
    let mut times: Vec<u64> = said.lines().filter_map(|line| line.parse().ok()).collect();
    times.sort_unstable();
    let places = [0, times.len() / 2, times.len() - 1];
    let [best, median, worst] = places.map(|at| times[at] as f64 / 1000.0);
    println!(
        "gate, {PATHS_OF_THE_GATE} paths: best {best:.1} ms, median {median:.1}, worst {worst:.1}"
    );
}

/// So many small files, each with references to ten more: the first one's closure is all.
fn many(count: usize, key: &SecretKey) -> Vec<Cargo> {
    let mut cargo: Vec<Cargo> = Vec::new();
    for number in (0..count).rev() {
        let mut hash = [0; 20];
        hash[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let hash = StoreHash::from_bytes(hash);
        let path = StorePath::new(hash, &format!("path-{number}")).expect("a path");
        let mut writer = Writer::new(Vec::new());
        let text = number.to_string();
        writer.file(false, text.len() as u64).expect("a NAR");
        writer.data(text.as_bytes()).expect("a NAR");
        let nar = writer.finish().expect("a NAR");
        // `cargo` holds those with higher numbers, the highest first.
        let references = (10 * number + 1..=10 * number + 10)
            .filter(|other| *other < count)
            .map(|other| cargo[count - 1 - other].info.store_path.clone());
        let references = references.collect();
        cargo.push(Cargo::new(path, references, nar, key));
    }
    cargo.reverse();
    cargo
}

/// A node of its own, with a daemon that trusts these keys.
fn node(nix: &Nix, trusted: &str, substituters: &str) -> (Node, User, Daemon) {
    let (node, mut user) = (Node::empty(), User::new());
    user.set("trusted-public-keys", trusted);
    user.set("substituters", substituters);
    let daemon = Daemon::start(&node, &user, nix);
    let socket = daemon.socket().to_string_lossy().into_owned();
    user.variable("NIX_DAEMON_SOCKET_PATH", &socket);
    let state = user.home().join("state").to_string_lossy().into_owned();
    user.variable("SNOWCACHE_STATE", &state);
    (node, user, daemon)
}

/// Pushes what lies in memory, each path after its references.
fn floor(nix: &Nix, trusted: &str, cargo: &[Cargo], connections: usize) -> Duration {
    let (_node, _user, daemon) = node(nix, trusted, "");
    let waiting: BTreeMap<&StorePath, &Cargo> =
        cargo.iter().map(|it| (&it.info.store_path, it)).collect();
    let state = Mutex::new((waiting, BTreeSet::<&StorePath>::new()));
    let changed = Condvar::new();
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut client = daemon.connect();
                loop {
                    let mut guard = state.lock().expect("no poison");
                    let next = loop {
                        let (waiting, done) = &*guard;
                        if waiting.is_empty() {
                            return;
                        }
                        let ready = waiting.values().find(|it| {
                            let path = &it.info.store_path;
                            let there = |other: &&StorePath| done.contains(other) || *other == path;
                            it.info.references.iter().all(|it| there(&it))
                        });
                        match ready {
                            Some(&cargo) => break cargo,
                            None => guard = changed.wait(guard).expect("no poison"),
                        }
                    };
                    guard.0.remove(&next.info.store_path);
                    drop(guard);
                    let pieces = next.nar.chunks(1 << 18).map(Ok::<_, ()>);
                    let pushed = client.add_to_store_nar(&next.info, stream::iter(pieces));
                    block_on(pushed).expect("imported");
                    state
                        .lock()
                        .expect("no poison")
                        .1
                        .insert(&next.info.store_path);
                    changed.notify_all();
                }
            });
        }
    });
    begin.elapsed()
}

fn prefetch(nix: &Nix, trusted: &str, server: &Snowcached, top: &str) -> Duration {
    let (node, user, _daemon) = node(nix, trusted, "");
    let program = binary("snowcache");
    let script = format!(
        "{} prefetch {top} --from {} --quiet",
        program.display(),
        server.url()
    );
    timed(&node, &user, nix, &script)
}

fn realise(nix: &Nix, trusted: &str, server: &Snowcached, top: &str) -> Duration {
    let (node, user, _daemon) = node(nix, trusted, &server.url());
    let script = format!("NIX_REMOTE=daemon nix-store --realise {top}");
    timed(&node, &user, nix, &script)
}

fn timed(node: &Node, user: &User, nix: &Nix, script: &str) -> Duration {
    let begin = Instant::now();
    node.sh(user, nix, script).ok();
    begin.elapsed()
}
