//! What it takes to bring a closure to a node: `snowcache prefetch`, beside its floor and beside
//! stock Nix.
//!
//! ```text
//! tests/corpus/make-bumps.sh ~/.cache/snowcache-tests/bumps-120      once, for P8: downloads 90 MB
//! cargo bench --bench rollout                        the quick corpus that `make test-setup` makes
//! cargo bench --bench rollout -- CORPUS-FOLDER       one that tests/corpus/make-corpus.sh made
//! ```
//!
//! `SNOWCACHE_BENCH_ONLY=P7` or `P6,P15` for some of the rows; `SNOWCACHE_BENCH_BUMPS=FOLDER` for
//! another corpus of P8; `SNOWCACHE_BENCH_BEFORE=PROGRAM` for P16 of another snowcached beside,
//! and `asked` among the rows for P16 without those that fetch.
//!
//! ```text
//!   P6    a cold closure: prefetch, its floor and limit, nix-store --realise     cold
//!   P7    what goes over the wire from one generation to the next                carried
//!   P8    the same where packages got new versions                               carried
//!   P9    P6 and P7 from far away, over slow links                               far
//!   P16   5,000 that ask at once, and 500 that fetch                             fleet
//!   P15   the gate, and a switch until the system's own program runs             gate
//!   again what receipts name, hashed again                                       again
//! ```

#[path = "rollout/again.rs"]
mod again;
#[path = "rollout/carried.rs"]
mod carried;
#[path = "rollout/cold.rs"]
mod cold;
#[path = "rollout/far.rs"]
mod far;
#[path = "rollout/fleet.rs"]
mod fleet;
#[path = "rollout/gate.rs"]
mod gate;
#[path = "support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::time::Duration;

use snowcache_nix::SecretKey;
use support::harness::cargo::Cargo;
use support::harness::corpus;
use support::harness::daemon::Daemon;
use support::harness::nix::{Nix, Node, User, inputs};
use support::harness::server::{Snowcached, binary};

/// Unless `SNOWCACHE_BENCH_ROUNDS` says otherwise.
const ROUNDS: usize = 5;

fn main() {
    support::peers::least::serve_if_told();
    let folder = std::env::args()
        .skip(1)
        .find(|word| !word.starts_with("--"));
    let folder = folder.map_or(inputs().join("corpus-120"), PathBuf::from);
    let [top, top2] = tops(&folder).expect("a corpus; run: make test-setup");
    if wanted("P8") {
        let folder = std::env::var("SNOWCACHE_BENCH_BUMPS");
        let folder = folder.map_or(inputs().join("bumps-120"), PathBuf::from);
        match tops(&folder) {
            Some([old, new]) => carried::bumps([&old, &new]),
            None => println!(
                "P8 needs a corpus: tests/corpus/make-bumps.sh {}",
                folder.display()
            ),
        }
    }
    if is_inside() {
        return far::inside([&top, &top2]);
    }
    let server = pushed(&[&top, &top2]);
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
    if wanted("again") {
        again::row(&trusted, &server, &top);
    }
    if wanted("P7") {
        carried::rebuild(&trusted, &server, [&top, &top2]);
    }
    if wanted("P16") || wanted("asked") {
        let before = std::env::var_os("SNOWCACHE_BENCH_BEFORE");
        let before = before.map(|program| pushed_to(Some(program.into()), &[&top, &top2]));
        fleet::row(&server, before.as_ref(), [&top, &top2]);
    }
    if wanted("P9") {
        far::row();
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
    rounds_or(ROUNDS)
}

/// How often something is measured that takes long.
fn rounds_or(usually: usize) -> usize {
    let rounds = std::env::var("SNOWCACHE_BENCH_ROUNDS");
    rounds.map_or(usually, |rounds| {
        rounds.parse().expect("a number of rounds")
    })
}

/// Whether this is the program that far::row started.
fn is_inside() -> bool {
    std::env::var("SNOWCACHE_BENCH_ONLY").is_ok_and(|only| only == far::INSIDE)
}

/// Whether a row is wanted: `SNOWCACHE_BENCH_ONLY` names some.
fn wanted(row: &str) -> bool {
    let only = std::env::var("SNOWCACHE_BENCH_ONLY");
    only.is_err() || only.is_ok_and(|only| only.split(',').any(|it| it == row))
}

/// A server that has the closures of these, and places for the connections of P16.
fn pushed(tops: &[&str]) -> Snowcached {
    pushed_to(None, tops)
}

/// The same, of another program than what was built here.
fn pushed_to(program: Option<PathBuf>, tops: &[&str]) -> Snowcached {
    let folder = support::harness::folder_on_disk();
    let config = folder.path().join("snowcached.toml");
    std::fs::write(&config, "[http]\nmax_connections = 8192\n").expect("a file");
    let config = config.to_string_lossy().into_owned();
    let mut server = Snowcached::stopped(folder, "warn", &["--config", &config]);
    if let Some(program) = program {
        server.program = program;
    }
    server.start_again();
    push(&server, tops);
    server
}

/// Pushes the closures of these.
fn push(server: &Snowcached, tops: &[&str]) {
    let mut user = User::of(server);
    user.variable("TOPS", &tops.join(" "));
    let push = "nix copy --to \"$PUSH?compression=zstd\" $TOPS";
    let here = Node::this_machine();
    here.sh(&user, &Nix::installed(), push).ok();
}

/// The roots of a corpus's two generations, if it is there.
fn tops(folder: &Path) -> Option<[String; 2]> {
    let top = |name| {
        let top = std::fs::canonicalize(folder.join(name)).ok()?;
        Some(top.to_string_lossy().into_owned())
    };
    Some([top("top1")?, top("top2")?])
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

/// How long a script takes on a node, without what it takes to get there: namespaces, mounts and
/// the shell.
fn timed(node: &Node, user: &User, nix: &Nix, script: &str) -> Duration {
    let script = format!(
        "begin=${{EPOCHREALTIME/./}}\n{script}\necho \"took $((${{EPOCHREALTIME/./}} - begin))\""
    );
    let said = node.sh(user, nix, &script).ok();
    let took = said.lines().last().and_then(|it| it.strip_prefix("took "));
    let microseconds = took.expect("its last line").parse().expect("a number");
    Duration::from_micros(microseconds)
}

/// The one in the middle, and the least and the most.
fn middle(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    match (ratios.first(), ratios.last()) {
        (Some(least), Some(most)) => {
            let middle = ratios[ratios.len() / 2];
            format!("{middle:.2} ({least:.2} to {most:.2})")
        }
        _ => "nothing".to_owned(),
    }
}
