//! P15: how long the gate takes for a closure of 10,000 paths, and how long a switch takes until
//! the system's own program runs; and that neither sends a byte.

use futures::executor::block_on;
use futures::stream;
use snowcache_nix::nar::Writer;
use snowcache_nix::{SecretKey, StoreHash, StorePath};

use super::support::harness::cargo::Cargo;
use super::support::harness::nix::{Nix, Node, User};
use super::support::harness::server::{Snowcached, binary};
use super::{node, prefetch, rounds};

/// As large as a system gets.
const PATHS: usize = 10_000;

/// Times that each thing is done in a round.
const TIMES: usize = 10;

/// What stands in for NixOS's program: says when it began to run.
const STAND_IN: &str = "#!/bin/bash\necho ${EPOCHREALTIME/./} >> $HOME/began\n";

/// Inside a network namespace in which nobody can be reached, so that every cache is dead; `sent`
/// is what was tried to send all the same. Timed inside, so that making the namespaces does not
/// count; `now` is in microseconds.
const ALONE: &str = "ip link set lo up\n\
    now() { echo ${EPOCHREALTIME/./}; }\n\
    sent() { awk -F '[: ]+' 'NR > 2 { sum += $11 } END { print sum + 0 }' /proc/net/dev; }\n\
    before=$(sent)\n";

/// How long both take with a large closure of small paths.
pub fn row(trusted: &str, server: &Snowcached, key: &SecretKey) {
    for nix in Nix::both() {
        let (node, user, daemon) = node(&nix, trusted, "");
        let cargo = many(PATHS - 1, key);
        let base = &cargo[0].info.store_path;
        let systems = ["a", "b"].map(|name| system(name, base, key));
        let mut client = daemon.connect();
        for cargo in cargo.iter().rev().chain(&systems) {
            let nar = stream::iter([Ok::<_, ()>(&cargo.nar)]);
            block_on(client.add_to_store_nar(&cargo.info, nar)).expect("imported");
        }
        let tops = systems.map(|it| it.info.store_path.absolute());
        for top in &tops {
            node.sh(&user, &nix, &prefetch(top, &server.url())).ok();
        }
        let alone = Alone {
            node: &node,
            user: &user,
            nix: &nix,
        };
        let program = binary("snowcache").display().to_string();
        alone.row(
            "gate",
            &format!("begin=$(now); {program} gate {}; end=$(now)", tops[0]),
        );
        // To the other one each time: what runs already needs no new generation.
        let [a, b] = tops;
        alone.row(
            "switch, until switch-to-configuration runs",
            &format!(
                "if [ \"${{top-}}\" = {a} ]; then top={b}; else top={a}; fi\n\
                 begin=$(now); {program} switch $top > $HOME/said; end=$(tail -n 1 $HOME/began)"
            ),
        );
    }
}

/// A node that can reach nobody.
struct Alone<'a> {
    node: &'a Node,
    user: &'a User,
    nix: &'a Nix,
}

impl Alone<'_> {
    /// What is done sets `begin` and `end`.
    fn row(&self, what: &str, done: &str) {
        let script = format!(
            "cat > $HOME/alone.sh <<'END'\nset -eu\n{ALONE}\
             for _ in $(seq {TIMES}); do\n{done}\necho $((end - begin))\ndone\n\
             echo sent $(($(sent) - before))\nEND\n\
             unshare --net bash $HOME/alone.sh"
        );
        let (mut middles, mut all, mut sent) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds() {
            let said = self.node.sh(self.user, self.nix, &script).ok();
            let times = said.lines().filter_map(|line| line.parse::<u64>().ok());
            let mut times: Vec<u64> = times.collect();
            assert_eq!(times.len(), TIMES, "{said}");
            times.sort_unstable();
            middles.push(times[TIMES / 2]);
            all.extend(times);
            let bytes = said.lines().find_map(|line| line.strip_prefix("sent "));
            sent += bytes.expect("counted").parse::<u64>().expect("a number");
        }
        middles.sort_unstable();
        all.sort_unstable();
        let ms = |us: u64| us as f64 / 1000.0;
        println!(
            "P15 {what}, {PATHS} paths, {}: {:.1} ms ({:.1} to {:.1}), all {} of {} rounds: \
             {:.1} to {:.1}; {sent} bytes to the network",
            self.nix.version,
            ms(middles[middles.len() / 2]),
            ms(middles[0]),
            ms(middles[middles.len() - 1]),
            all.len(),
            middles.len(),
            ms(all[0]),
            ms(all[all.len() - 1]),
        );
    }
}

/// A system that refers to one path.
fn system(name: &str, base: &StorePath, key: &SecretKey) -> Cargo {
    let mut writer = Writer::new(Vec::new());
    let why = "a NAR";
    writer.directory().expect(why);
    writer.entry(b"base").expect(why);
    writer.symlink(base.absolute().as_bytes()).expect(why);
    writer.entry(b"bin").expect(why);
    writer.directory().expect(why);
    writer.entry(b"switch-to-configuration").expect(why);
    writer.file(true, STAND_IN.len() as u64).expect(why);
    writer.data(STAND_IN.as_bytes()).expect(why);
    writer.end_directory().expect(why);
    writer.end_directory().expect(why);
    let mut hash = [255; 20];
    hash[..name.len()].copy_from_slice(name.as_bytes());
    let path = StorePath::new(StoreHash::from_bytes(hash), name).expect("a path");
    let nar = writer.finish().expect(why);
    Cargo::new(path, vec![base.clone()], nar, key)
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
