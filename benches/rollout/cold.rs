//! P6: a cold closure, into the store of a new node, in rounds, each thing in turn.
//!
//! ```text
//!   floor     NARs that lie unpacked in this process's memory, pushed into the daemon over as many
//!             connections as are best
//!   work      fetched, unpacked and hashed once, by the plainest program, on one thread: what a
//!             client must do besides the floor, whatever it is like
//!   limit     the CPU time of both over the cores of this machine, if nothing ever waited
//!   prefetch  snowcache prefetch from a snowcached
//!   stock     nix-store --realise with the snowcached, or nginx's static .zst, as substituter
//! ```
//! CPU time is the whole machine's, so that of daemons, of the server and of the kernel counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::stream;
use sha2::{Digest, Sha256};
use snowcache_nix::{SecretKey, StorePath};

use super::support::harness::cargo::Cargo;
use super::support::harness::nix::{Nix, Node, User};
use super::support::harness::server::Snowcached;
use super::support::peers::nginx::Nginx;
use super::{middle, node, prefetch, rounds, timed};

/// Connections of the floor; the best one counts.
const CONNECTIONS: [usize; 2] = [2, 4];

/// What is brought, and from where.
pub struct Cold<'a> {
    pub trusted: &'a str,
    pub server: &'a Snowcached,
    pub top: &'a str,
    pub cargo: &'a [Cargo],
    pub key: &'a SecretKey,
}

/// Seconds by the clock, and of CPUs.
#[derive(Clone, Copy)]
struct Took {
    wall: f64,
    cpu: f64,
}

/// All rounds with both versions of Nix.
pub fn row(cold: &Cold<'_>) {
    let folder = super::support::harness::folder_on_disk();
    let nginx = cold.nginx(folder.path());
    println!(
        "| nix | round | floor s (CPU) | work CPU | limit s | prefetch s (CPU) | of the floor | \
         of the limit | realise s | from nginx s |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for nix in Nix::both() {
        let (mut of_floor, mut of_limit, mut of_stock) = (Vec::new(), Vec::new(), Vec::new());
        for round in 1..=rounds() {
            let floors = CONNECTIONS.map(|count| cold.floor(&nix, count));
            let floor = floors.into_iter().min_by(|a, b| a.wall.total_cmp(&b.wall));
            let floor = floor.expect("two");
            let work = measured(|| cold.work());
            let limit = ((floor.cpu + work.cpu) / cores()).max(floor.wall);
            let (node, user, _daemon) = node(&nix, cold.trusted, "");
            let script = prefetch(cold.top, &cold.server.url());
            let ours = took(|| timed(&node, &user, &nix, &script));
            let stock = cold.realise(&nix, &cold.server.url());
            let static_files = nginx.as_ref().map(|it| cold.realise(&nix, &it.url()));
            of_floor.push(ours.wall / floor.wall);
            of_limit.push(ours.wall / limit);
            of_stock.extend(static_files.map(|it| ours.wall / it));
            println!(
                "| {} | {round} | {:.2} ({:.2}) | {:.2} | {limit:.2} | {:.2} ({:.2}) | {:.2} | \
                 {:.2} | {stock:.2} | {} |",
                nix.version,
                floor.wall,
                floor.cpu,
                work.cpu,
                ours.wall,
                ours.cpu,
                ours.wall / floor.wall,
                ours.wall / limit,
                static_files.map_or("no nginx".to_owned(), |it| format!("{it:.2}"))
            );
        }
        println!(
            "{}: {} of the floor, {} of the limit, {} of stock Nix from nginx",
            nix.version,
            middle(of_floor),
            middle(of_limit),
            middle(of_stock)
        );
    }
}

impl Cold<'_> {
    /// The same closure as static files, signed; nothing where there is no nginx.
    fn nginx(&self, folder: &std::path::Path) -> Option<Nginx> {
        let secret = folder.join("key.sec");
        std::fs::write(&secret, self.key.to_string()).expect("a file");
        let files = folder.join("files");
        let copy = format!(
            "nix copy --to 'file://{}?compression=zstd&secret-key={}' {}",
            files.display(),
            secret.display(),
            self.top
        );
        Node::this_machine()
            .sh(&User::new(), &Nix::installed(), &copy)
            .ok();
        let nginx = Nginx::start(&files, None);
        nginx.inspect_err(|why| eprintln!("{why}")).ok()
    }

    /// Fetches, unpacks and hashes every NAR, one after the other.
    fn work(&self) {
        let http = self.server.http();
        for cargo in self.cargo {
            let hash = cargo.info.store_path.hash();
            let narinfo = http.get(&format!("/{hash}.narinfo")).is(200).text();
            let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: "));
            let packed = http.get(&format!("/{}", url.expect("a URL"))).is(200).body;
            let mut unpacked = zstd::stream::read::Decoder::new(packed.as_slice()).expect("zstd");
            let (mut hasher, mut chunk) = (Sha256::new(), vec![0; 128 << 10]);
            while let len @ 1.. = std::io::Read::read(&mut unpacked, &mut chunk).expect("good") {
                hasher.update(&chunk[..len]);
            }
            assert_eq!(hasher.finalize()[..], cargo.info.nar_hash.as_bytes()[..]);
        }
    }

    fn realise(&self, nix: &Nix, url: &str) -> f64 {
        let (node, user, _daemon) = node(nix, self.trusted, url);
        let script = format!("NIX_REMOTE=daemon nix-store --realise {}", self.top);
        took(|| timed(&node, &user, nix, &script)).wall
    }

    /// Pushes what lies in memory, each path after its references.
    fn floor(&self, nix: &Nix, connections: usize) -> Took {
        let (_node, _user, daemon) = node(nix, self.trusted, "");
        let waiting: BTreeMap<&StorePath, &Cargo> = self
            .cargo
            .iter()
            .map(|it| (&it.info.store_path, it))
            .collect();
        let state = Mutex::new((waiting, BTreeSet::<&StorePath>::new()));
        let changed = Condvar::new();
        measured(|| {
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
                                    let there =
                                        |other: &&StorePath| done.contains(other) || *other == path;
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
            })
        })
    }
}

/// What the whole machine did meanwhile; `timed` tells the time.
fn took(timed: impl FnOnce() -> Duration) -> Took {
    // What was written before is not written back meanwhile.
    rustix::fs::sync();
    let before = busy_seconds();
    let wall = timed().as_secs_f64();
    Took {
        wall,
        cpu: busy_seconds() - before,
    }
}

fn measured(work: impl FnOnce()) -> Took {
    took(|| {
        let begin = Instant::now();
        work();
        begin.elapsed()
    })
}

/// Seconds that the cores of this machine were not idle, since it was started.
fn busy_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/stat").expect("/proc");
    let line = stat.lines().next().expect("a line of all cores");
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        .filter_map(|ticks| ticks.parse().ok())
        .collect();
    // user, nice, system, idle, waiting for disks, interrupts, soft interrupts
    (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) as f64 / 100.0
}

fn cores() -> f64 {
    thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}
