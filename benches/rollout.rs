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
//! ```text
//!   P6    a cold closure: prefetch, its floor and limit, nix-store --realise     cold
//!   P7    what goes over the wire from one generation to the next                here
//!   P15   the gate                                                               gate
//! ```

#[path = "rollout/cold.rs"]
mod cold;
#[path = "rollout/gate.rs"]
mod gate;
#[path = "support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use snowcache_nix::SecretKey;
use support::harness::cargo::Cargo;
use support::harness::corpus;
use support::harness::daemon::Daemon;
use support::harness::nix::{Nix, Node, User, inputs};
use support::harness::server::{Snowcached, binary};
use support::harness::wire::Wire;

/// Unless `SNOWCACHE_BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 5;

fn main() {
    let folder = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let folder = folder.map_or(inputs().join("corpus-120"), PathBuf::from);
    let [top, top2] = ["top1", "top2"].map(|name| {
        let top = std::fs::canonicalize(folder.join(name));
        let top = top.expect("a corpus; run: make test-setup");
        top.to_string_lossy().into_owned()
    });
    let server = Snowcached::start_with(support::harness::folder_on_disk(), "warn", &[]);
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
        gate::row(&trusted, &server, &key);
    }
    if wanted("P7") {
        rebuild(&trusted, &server, [&top, &top2]);
    }
    if wanted("P6") {
        cold::row(&cold::Cold {
            trusted: &trusted,
            server: &server,
            top: &top,
            cargo: &cargo,
            key: &key,
        });
    }
}

/// How often each thing is measured.
fn rounds() -> usize {
    let rounds = std::env::var("SNOWCACHE_BENCH_ROUNDS");
    rounds.map_or(ROUNDS, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Whether a row is wanted: `SNOWCACHE_BENCH_ONLY` names some.
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

/// The command that brings a closure.
fn prefetch(top: &str, url: &str) -> String {
    let program = binary("snowcache");
    format!("{} prefetch {top} --from {url} --quiet", program.display())
}

fn timed(node: &Node, user: &User, nix: &Nix, script: &str) -> Duration {
    let begin = Instant::now();
    node.sh(user, nix, script).ok();
    begin.elapsed()
}
