//! The worker protocol against the real daemons, old and new: what they know, what they take, what
//! they refuse, and what they keep.

mod support;

use std::path::PathBuf;

use futures::executor::block_on;
use futures::stream;
use snowcache_nix::daemon::{DaemonError, ImportError, Trust};
use snowcache_nix::{SecretKey, StorePath};
use support::cargo::Cargo;
use support::corpus;
use support::daemon::{Client, Daemon};
use support::nix::{Nix, Node, User};

fn key() -> SecretKey {
    SecretKey::generate("test-1", [7; 32]).expect("a good name")
}

fn trusting() -> User {
    let mut user = User::new();
    user.set("trusted-public-keys", &key().public().to_string());
    user
}

/// The closure of the small corpus, references first, signed by [`key`].
fn cargo() -> Vec<Cargo> {
    let (user, here) = (User::new(), Node::this_machine());
    let top = &corpus::small().top;
    let sorted = format!("nix-store --query --requisites {top}");
    let sorted = here.sh(&user, &Nix::installed(), &sorted).ok();
    let sorted = sorted.lines();
    sorted.map(|path| Cargo::of(path, &key())).collect()
}

fn import(cargo: &Cargo, client: &mut Client) -> Result<(), ImportError<&'static str>> {
    let pieces = cargo.nar.chunks(100_000).map(Ok);
    block_on(client.add_to_store_nar(&cargo.info, stream::iter(pieces)))
}

fn export(client: &mut Client, cargo: &Cargo) -> Vec<u8> {
    let mut nar = Vec::new();
    block_on(client.begin_nar(&cargo.info.store_path)).expect("valid");
    while let Some(bytes) = block_on(client.next_of_nar()).expect("a NAR") {
        nar.extend(bytes);
    }
    nar
}

fn paths(cargo: &[Cargo]) -> Vec<StorePath> {
    cargo.iter().map(|it| it.info.store_path.clone()).collect()
}

#[track_caller]
fn refusal(result: Result<(), ImportError<&'static str>>) -> String {
    match result {
        Err(ImportError::Daemon(DaemonError::Refused(text))) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_closure_is_imported_and_everything_about_it_is_known() {
    for nix in Nix::both() {
        let (node, user) = (Node::empty(), trusting());
        let daemon = Daemon::start(&node, &user, &nix);
        let mut client = daemon.connect();
        let cargo = cargo();
        let mut wanted = paths(&cargo);
        assert_eq!(block_on(client.valid_paths(&wanted)).expect("asked"), []);
        for path in &cargo {
            import(path, &mut client).expect("imported");
        }
        let mut valid = block_on(client.valid_paths(&wanted)).expect("asked");
        valid.sort();
        wanted.sort();
        assert_eq!(valid, wanted);
        for Cargo { info, .. } in &cargo {
            let known = block_on(client.path_info(&info.store_path)).expect("asked");
            let known = known.expect("valid");
            assert_eq!(&known.info, info);
            assert!(known.registration_time_s > 1_700_000_000 && !known.ultimate);
            let hash = info.store_path.hash();
            let found = block_on(client.path_of(hash)).expect("asked");
            assert_eq!(found.as_ref(), Some(&info.store_path));
        }
        for path in &cargo {
            assert!(
                export(&mut client, path) == path.nar,
                "the same NAR comes back"
            );
        }
        let closure: Vec<String> = wanted.iter().map(StorePath::absolute).collect();
        corpus::assert_same_bytes(&node, &closure);
        let verified = "nix-store --verify --check-contents 2>&1";
        let said = node.sh(&user, &nix, verified).ok();
        assert!(!said.contains("error"), "{said}");
    }
}

#[test]
fn a_daemon_says_who_it_is() {
    for (nix, minor, trust) in [
        (Nix::installed(), 34, Trust::Unknown),
        (Nix::newer(), 38, Trust::Trusted),
    ] {
        let (node, user) = (Node::empty(), User::new());
        let client = Daemon::start(&node, &user, &nix).connect();
        assert_eq!(client.version().minor(), minor);
        assert_eq!(client.trust(), trust);
        let says = client.nix_version().expect("it says").to_owned();
        assert!(nix.version.ends_with(&says), "{says}: {}", nix.version);
    }
}

#[test]
fn nothing_wrong_becomes_valid_and_the_connection_goes_on() {
    for nix in Nix::both() {
        let (node, user) = (Node::empty(), trusting());
        let daemon = Daemon::start(&node, &user, &nix);
        let mut client = daemon.connect();
        let cargo = cargo();
        let leaf = cargo.iter().find(|it| it.info.references.is_empty());
        let leaf = leaf.expect("a path without references");

        let mut unsigned = Cargo {
            info: leaf.info.clone(),
            nar: leaf.nar.clone(),
        };
        unsigned.info.signatures.clear();
        let said = refusal(import(&unsigned, &mut client));
        assert!(said.contains("signature"), "{said}");

        let mut damaged = leaf.nar.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 1;
        let other = Cargo {
            info: leaf.info.clone(),
            nar: damaged,
        };
        refusal(import(&other, &mut client));

        let cut = [Ok(&leaf.nar[..leaf.nar.len() - 8]), Err("cut")];
        let cut = block_on(client.add_to_store_nar(&leaf.info, stream::iter(cut)));
        assert!(matches!(cut, Err(ImportError::Nar("cut"))), "{cut:?}");

        let valid = block_on(client.valid_paths(&paths(&cargo))).expect("asked");
        assert_eq!(valid, [], "{}", nix.version);
        import(leaf, &mut client).expect("the same connection, the true path");
        import(leaf, &mut client).expect("and once more, which changes nothing");
        let top = cargo.last().expect("a top");
        if !top.info.references.is_empty() {
            let said = refusal(import(top, &mut client));
            assert!(said.contains("is not valid"), "{said}");
        }
    }
}

#[test]
fn what_is_held_survives_a_collection_and_what_is_let_go_does_not() {
    for nix in Nix::both() {
        let (node, user) = (Node::empty(), trusting());
        let daemon = Daemon::start(&node, &user, &nix);
        let cargo = cargo();
        let all = paths(&cargo);
        let mut keeper = daemon.connect();
        // Before anything is there.
        block_on(keeper.add_temp_roots(&all)).expect("held");
        let mut client = daemon.connect();
        for path in &cargo {
            import(path, &mut client).expect("imported");
        }
        drop(client);
        let collect = || node.sh(&user, &nix, "nix-store --gc").ok();
        let valid = || {
            let valid = block_on(daemon.connect().valid_paths(&all));
            valid.expect("asked").len()
        };
        collect();
        assert_eq!(valid(), all.len(), "{}: held", nix.version);

        let top = cargo.last().expect("a top").info.store_path.absolute();
        let link = user.home().join("root");
        std::os::unix::fs::symlink(&top, &link).expect("a symlink");
        let links: Vec<String> = [&link].map(|it| it.to_string_lossy().into_owned()).into();
        block_on(keeper.add_indirect_roots(&links)).expect("rooted");
        drop(keeper);
        wait_for_the_keepers_end(&node);
        collect();
        assert_eq!(valid(), all.len(), "{}: rooted", nix.version);

        std::fs::remove_file(&link).expect("the link goes");
        collect();
        assert_eq!(valid(), 0, "{}: let go", nix.version);
    }
}

/// The daemon's child lets go of its roots when it notices that its client has gone.
fn wait_for_the_keepers_end(node: &Node) {
    let folder: PathBuf = node.outside("/nix/var/nix/temproots");
    let begin = std::time::Instant::now();
    while std::fs::read_dir(&folder).expect("temproots").count() > 0 {
        // A stale file is taken away by the next collection; a live child removes its own.
        if begin.elapsed().as_secs() >= 2 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
