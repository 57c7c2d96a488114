//! Closures that come as what is new in them, on nodes with a real nix-daemon, old and new: less on
//! the wire, the same in the store; and whatever goes wrong with it, whole NARs instead.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::agent::{Machine, Rebuilt};
use support::corpus::{self, Generation};
use support::http::Response;
use support::nix::Nix;
use support::proxy::{Proxy, cut_off, missing};
use support::random::Random;
use support::versions::Versions;

/// A patch is made in a second of one core, in the background of a server that is never told to
/// hurry: on a machine that does ten other things, minutes. Only a failure takes all of it.
const PATIENCE: Duration = Duration::from_secs(900);

/// What of the second generation is not in the first.
fn new_paths([before, after]: [&Generation; 2]) -> Vec<String> {
    let is_new = |path: &&String| !before.closure.contains(path);
    after.closure.iter().filter(is_new).cloned().collect()
}

/// A node that has the first generation.
fn node_before(world: &Rebuilt, nix: &Nix) -> Machine {
    let machine = world.after.node(nix);
    let (top, url) = (&world.before.top, world.after.server.url());
    let said = machine.snowcache(&format!("prefetch {top} --pin system --from {url}"));
    assert!(!said.ok().contains("made of older"), "nothing is there yet");
    machine
}

/// Prefetches the second generation through `cache`; gives what it said.
fn go_on(world: &Rebuilt, machine: &Machine, cache: &str) -> String {
    let Generation { top, closure } = world.after.generation;
    let said = machine.snowcache(&format!("prefetch {top} --pin system --from {cache}"));
    let said = said.ok();
    assert_eq!(machine.valid(closure), closure.len(), "{said}");
    corpus::assert_same_bytes(&machine.node, closure);
    machine.assert_sound();
    machine.snowcache(&format!("gate {top}")).ok();
    said
}

#[test]
fn a_rebuild_comes_without_a_single_nar() {
    let world = Rebuilt::system();
    for nix in Nix::both() {
        let machine = node_before(world, &nix);
        let honest = Proxy::before(world.after.server.address(), |_, answer| answer);
        let said = go_on(world, &machine, &honest.url());
        let made = format!(
            "{} made of older paths",
            new_paths(world.generations()).len()
        );
        assert!(said.contains(&made), "{said}");
        let asked = honest.asked();
        assert!(!asked.iter().any(|it| it.contains("/nar/")), "{asked:?}");
    }
}

/// Every file of a path on a node, and how to change one.
fn files(node: &Machine, path: &str) -> Vec<PathBuf> {
    let mut found = vec![node.node.outside(path)];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_symlink() {
            found.swap_remove(at);
        } else if found[at].is_dir() {
            let folder = found.swap_remove(at);
            let entries = fs::read_dir(folder).expect("a folder");
            found.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            at += 1;
        }
    }
    found
}

fn unlock(file: &Path) {
    for place in [file, file.parent().expect("a folder")] {
        let mode = fs::metadata(place).expect("there").permissions().mode();
        let mode = fs::Permissions::from_mode(mode | 0o200);
        fs::set_permissions(place, mode).expect("our own");
    }
}

#[test]
fn old_paths_that_are_damaged_or_gone_only_cost_a_fetch() {
    let world = Rebuilt::system();
    for nix in Nix::both() {
        let machine = node_before(world, &nix);
        let [before, after] = world.generations();
        let old = before
            .closure
            .iter()
            .filter(|it| !after.closure.contains(it));
        let with_files = old.filter(|path| !files(&machine, path).is_empty());
        let old: Vec<&String> = with_files.collect();
        assert!(old.len() > 9, "paths to spoil: {}", old.len());
        let largest = |path: &&String| {
            let sizes = files(&machine, path);
            let sizes = sizes
                .iter()
                .map(|it| fs::metadata(it).expect("a file").len());
            sizes.max().expect("has files")
        };
        let damaged = old.iter().max_by_key(|it| largest(it)).expect("some");
        let inside = files(&machine, damaged).remove(0);
        unlock(&inside);
        let mut bytes = fs::read(&inside).expect("a file");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&inside, bytes).expect("unlocked");

        let others: Vec<_> = old.iter().filter(|it| it != &damaged).collect();
        let gone = files(&machine, others[0]).remove(0);
        unlock(&gone);
        fs::remove_file(gone).expect("unlocked");
        let collected = machine.node.outside(others[1]);
        machine
            .sh(&format!("chmod -R u+w {0}; rm -rf {0}", others[1]))
            .ok();
        assert!(!collected.exists());

        let top = &world.after.generation.top;
        let url = world.after.server.url();
        let said = machine.snowcache(&format!("prefetch {top} --pin system --from {url}"));
        let (wrong, said) = (said.stderr.clone(), said.ok());
        assert!(wrong.contains("it is fetched whole"), "{wrong}");
        let made = format!(
            "{} made of older paths",
            new_paths(world.generations()).len() - 3
        );
        assert!(said.contains(&made), "{said}\n{wrong}");
        corpus::assert_same_bytes(&machine.node, &world.after.generation.closure);
    }
}

/// What becomes of an answer.
type Spoil = fn(Response) -> Response;

/// What a cache may do to its plans.
fn spoiled_plans() -> [(&'static str, Spoil); 5] {
    [
        ("none", |_| missing()),
        ("cut off", cut_off),
        ("a flipped bit", |mut answer| {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
            answer
        }),
        ("another path's", |mut answer| {
            let plan = zstd::decode_all(&answer.body[..]).expect("zstd");
            let mut deltas = deltas(&plan);
            deltas.reverse();
            answer.body = packed(&deltas);
            answer
        }),
        ("nonsense", |mut answer| {
            let plan = zstd::decode_all(&answer.body[..]).expect("zstd");
            let mut random = Random::seeded(7);
            let spoil = |delta: &Vec<u8>| random.bytes(delta.len());
            let deltas: Vec<Vec<u8>> = deltas(&plan).iter().map(spoil).collect();
            answer.body = packed(&deltas);
            answer
        }),
    ]
}

/// As docs/deltas.md says: each behind its length.
fn deltas(plan: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = plan.strip_prefix(b"spa1").expect("a plan");
    let mut deltas = Vec::new();
    while !rest.is_empty() {
        let (mut len, mut shift) = (0, 0);
        while let Some((byte, more)) = rest.split_first() {
            rest = more;
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let (delta, more) = rest.split_at(len);
        deltas.push(delta.to_vec());
        rest = more;
    }
    deltas
}

fn packed(deltas: &[Vec<u8>]) -> Vec<u8> {
    let mut plan = b"spa1".to_vec();
    for delta in deltas {
        let mut len = delta.len();
        while len >= 0x80 {
            plan.push(len as u8 | 0x80);
            len >>= 7;
        }
        plan.push(len as u8);
        plan.extend(delta);
    }
    zstd::encode_all(&plan[..], 3).expect("zstd")
}

#[test]
fn a_cache_whose_plans_are_wrong_is_asked_for_whole_nars() {
    let world = Rebuilt::small();
    for (number, (what, spoil)) in spoiled_plans().into_iter().enumerate() {
        let nix = Nix::both()[number % 2].clone();
        let machine = node_before(world, &nix);
        let lying = Proxy::before(world.after.server.address(), move |path, answer| match path
            .contains("/api/v1/plan")
        {
            true => spoil(answer),
            false => answer,
        });
        let said = go_on(world, &machine, &lying.url());
        let asked = lying.asked();
        assert!(
            asked.iter().any(|it| it.contains("/plan")),
            "{what}: {asked:?}"
        );
        let nars = asked.iter().filter(|it| it.contains("/nar/")).count();
        assert!(
            nars >= new_paths(world.generations()).len() / 2,
            "{what}: {nars} NARs; {said}"
        );
    }
}

impl Versions {
    /// A node with the first of them goes on to the second; gives what it said.
    fn go_on(
        &self,
        nix: &Nix,
        spoil: impl Fn(Response) -> Response + Send + Sync + 'static,
    ) -> (String, Vec<String>) {
        let machine = Machine::new(nix, &self.server.public_key());
        let [before, after] = self.paths();
        let url = self.server.url();
        machine
            .snowcache(&format!("prefetch {before} --from {url}"))
            .ok();
        let proxy = Proxy::before(self.server.address(), move |path, answer| {
            match path.contains("/api/v1/frames") {
                true => spoil(answer),
                false => answer,
            }
        });
        let url = proxy.url();
        let said = machine
            .snowcache(&format!("prefetch {after} --from {url}"))
            .ok();
        assert_eq!(machine.valid(std::slice::from_ref(&after)), 1);
        let there = corpus::dump_sha256(&machine.node.outside(&after));
        assert!(there == corpus::sha256(&self.uploads[1].nar[..]), "{said}");
        machine.assert_sound();
        (said, proxy.asked())
    }
}

#[test]
fn another_version_costs_the_frames_that_changed() {
    let versions = Versions::new();
    for nix in Nix::both() {
        let (said, asked) = versions.go_on(&nix, |answer| {
            // Up to a frame at each end besides.
            let (least, most) = (1 << 20, 3 << 20);
            let sent = answer.body.len();
            assert!((least..most).contains(&sent), "{sent} bytes of frames");
            answer
        });
        assert!(said.contains("1 made of older paths"), "{said}");
        assert!(!asked.iter().any(|it| it.contains("/nar/")), "{asked:?}");
    }
}

#[test]
fn frames_that_are_wrong_cut_off_or_gone_are_not_imported() {
    let versions = Versions::new();
    let spoils: [Spoil; 4] = [
        |_| missing(),
        cut_off,
        |mut answer| {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
            answer
        },
        |mut answer| {
            let more = zstd::encode_all(&b"more than was asked for"[..], 3).expect("zstd");
            answer.body.extend(more);
            answer
        },
    ];
    for (number, spoil) in spoils.into_iter().enumerate() {
        let nix = Nix::both()[number % 2].clone();
        let (said, asked) = versions.go_on(&nix, spoil);
        assert!(!said.contains("made of older"), "{number}: {said}");
        assert!(asked.iter().any(|it| it.contains("/frames")), "{asked:?}");
        assert!(asked.iter().any(|it| it.contains("/nar/")), "{asked:?}");
    }
}

#[test]
fn frames_that_are_cut_off_go_on_where_they_ended() {
    let versions = Versions::new();
    let bytes = Arc::new(AtomicUsize::new(0));
    let (sent, first) = (bytes.clone(), AtomicBool::new(true));
    let (said, asked) = versions.go_on(&Nix::newer(), move |answer| {
        let is_first = first.swap(false, Ordering::Relaxed);
        let len = answer.body.len() / if is_first { 2 } else { 1 };
        sent.fetch_add(len, Ordering::Relaxed);
        if is_first { cut_off(answer) } else { answer }
    });
    assert!(said.contains("1 made of older paths"), "{said}");
    let frames = asked.iter().filter(|it| it.contains("/frames")).count();
    let sent = bytes.load(Ordering::Relaxed);
    assert!(
        frames == 2 && sent < 3 << 20,
        "{sent} bytes in {frames} answers"
    );
}

#[test]
fn a_version_that_a_pin_moved_to_costs_a_patch() {
    let versions = Versions::new();
    let (http, token) = (versions.server.http(), versions.server.push_token());
    for upload in &versions.uploads {
        let roots = format!("{{\"roots\": [\"{}\"]}}", upload.store_path);
        http.put("/api/v1/pins/system", &token, roots.as_bytes())
            .is(200);
    }
    let begin = Instant::now();
    loop {
        let metrics = http.get("/metrics").text();
        if metrics.contains("snowcache_patches_made_total 1") {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "no patch: {metrics}");
        thread::sleep(Duration::from_millis(50));
    }
    for nix in Nix::both() {
        let (said, asked) = versions.go_on(&nix, |answer| {
            // The new middle, 1 MiB, and not the frames around it.
            let sent = answer.body.len();
            assert!((1 << 20..(1 << 20) + 4096).contains(&sent), "{sent} bytes");
            answer
        });
        assert!(said.contains("1 made of older paths"), "{said}");
        assert!(!asked.iter().any(|it| it.contains("/nar/")), "{asked:?}");
    }
    let spoils: [Spoil; 3] = [
        |_| missing(),
        cut_off,
        |mut answer| {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
            answer
        },
    ];
    for spoil in spoils {
        let (said, _) = versions.go_on(&Nix::newer(), spoil);
        assert!(!said.contains("made of older"), "{said}");
    }
}
