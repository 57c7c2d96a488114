//! P15: how long the gate takes for a closure of 10,000 paths.

use futures::executor::block_on;
use futures::stream;
use snowcache_nix::nar::Writer;
use snowcache_nix::{SecretKey, StoreHash, StorePath};

use super::support::harness::cargo::Cargo;
use super::support::harness::nix::Nix;
use super::support::harness::server::{Snowcached, binary};
use super::{node, prefetch};

/// As large as a system gets.
const PATHS: usize = 10_000;

/// How long the gate takes for a large closure of small paths.
pub fn row(trusted: &str, server: &Snowcached, key: &SecretKey) {
    let nix = Nix::newer();
    let (node, user, daemon) = node(&nix, trusted, "");
    let cargo = many(PATHS, key);
    let top = cargo[0].info.store_path.absolute();
    let mut client = daemon.connect();
    for cargo in cargo.iter().rev() {
        let nar = stream::iter([Ok::<_, ()>(&cargo.nar)]);
        block_on(client.add_to_store_nar(&cargo.info, nar)).expect("imported");
    }
    let program = binary("snowcache").display().to_string();
    let url = server.url();
    node.sh(&user, &nix, &prefetch(&top, &url)).ok();
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
    println!("gate, {PATHS} paths: best {best:.1} ms, median {median:.1}, worst {worst:.1}");
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
