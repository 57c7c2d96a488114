//! `snowcache gate`: only what is ready passes, the cache dead, and whatever is tampered with is
//! noticed.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;
use support::agent::{Machine, World};
use support::nix::{Nix, Ran};

/// A node on which the small closure is ready, though nobody can be asked any more.
fn ready(nix: &Nix) -> Machine {
    let world = World::small();
    let machine = world.node(nix);
    world.prefetch(&machine, "--pin system").ok();
    machine
}

fn gate(machine: &Machine) -> Ran {
    machine.snowcache(&format!("gate {}", World::small().generation.top))
}

fn why(machine: &Machine) -> Value {
    let top = &World::small().generation.top;
    let ran = machine.snowcache(&format!("why {top} --json"));
    serde_json::from_str(&ran.stdout).expect("JSON")
}

fn receipt(machine: &Machine) -> PathBuf {
    let name = World::small().generation.top["/nix/store/".len()..].to_owned();
    machine.user.home().join("snowcache/receipts").join(name)
}

/// A folder of the closure, as it lies for everybody else.
fn some_folder(machine: &Machine) -> PathBuf {
    let closure = World::small().generation.closure.iter();
    let mut folders = closure.map(|path| machine.node.outside(path));
    folders.find(|path| path.is_dir()).expect("a folder")
}

#[track_caller]
fn refused(machine: &Machine, because: &str) {
    let ran = gate(machine);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{}", ran.stderr);
    assert!(ran.stderr.contains(because), "{}", ran.stderr);
    assert!(ran.stderr.contains("snowcache prefetch"), "{}", ran.stderr);
    let said = why(machine);
    assert_eq!(said["ready"], false);
    assert!(
        said["why"]
            .as_str()
            .is_some_and(|why| why.contains(because)),
        "{said}"
    );
}

#[test]
fn what_is_ready_passes_and_says_nothing_and_can_be_asked_why() {
    for nix in Nix::both() {
        let machine = ready(&nix);
        let ran = gate(&machine);
        assert_eq!(
            (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
            (0, "", "")
        );
        let said = why(&machine);
        assert_eq!(said["ready"], true);
        let closure = &World::small().generation.closure;
        assert_eq!(said["paths"], closure.len());
        let key = World::small().server.public_key();
        assert_eq!(said["keys"][0], key.as_str());
        let shown = machine.snowcache(&format!("why {}", World::small().generation.top));
        assert!(shown.ok().starts_with("ready: "));
    }
}

#[test]
fn what_was_never_fetched_or_another_nodes_does_not_pass() {
    let world = World::small();
    let machine = world.node(&Nix::newer());
    refused(&machine, "was never made ready on this node");
    let other = ready(&Nix::newer());
    let (from, to) = (receipt(&other), receipt(&machine));
    fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    fs::copy(&from, &to).expect("a stolen receipt");
    refused(&machine, "is not signed by this node's key");
    world.prefetch(&machine, "").ok();
    gate(&machine).ok();
    fs::copy(&from, &to).expect("a stolen receipt");
    refused(&machine, "is not signed by this node's key");
}

#[test]
fn a_receipt_that_was_changed_does_not_pass() {
    let machine = ready(&Nix::installed());
    let (file, text) = (
        receipt(&machine),
        fs::read_to_string(receipt(&machine)).expect("text"),
    );
    for (what, becomes) in [("time: 1", "time: 2"), ("paths: ", "paths: 1"), (".", "0.")] {
        fs::write(&file, text.replacen(what, becomes, 1)).expect("changed");
        refused(&machine, "is not signed by this node's key");
    }
    fs::write(&file, &text[..text.len() / 2]).expect("cut");
    refused(&machine, "is damaged");
    fs::write(&file, &text).expect("as it was");
    gate(&machine).ok();
    let key = machine.user.home().join("snowcache/node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("opened");
    refused(&machine, "others may read it");
}

#[test]
fn a_path_that_was_changed_replaced_or_removed_does_not_pass() {
    let machine = ready(&Nix::installed());
    let folder = some_folder(&machine);
    let mode = fs::metadata(&folder).expect("a folder").permissions();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("opened");
    fs::write(folder.join("planted"), "x").expect("planted");
    fs::remove_file(folder.join("planted")).expect("and taken away");
    fs::set_permissions(&folder, mode.clone()).expect("as it was");
    refused(&machine, "was changed since it was verified");

    // Read back and hashed, it is as it was, and so it passes again.
    World::small().prefetch(&machine, "--pin system").ok();
    gate(&machine).ok();

    let aside = folder.with_extension("aside");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("opened");
    fs::rename(&folder, &aside).expect("moved");
    refused(&machine, "is gone since it was verified");
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([&aside, &folder])
        .status();
    assert!(copied.expect("cp runs").success());
    refused(&machine, "was replaced since it was verified");
}

#[test]
fn a_damaged_path_gets_no_new_receipt() {
    let machine = ready(&Nix::newer());
    let folder = some_folder(&machine);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("opened");
    fs::write(folder.join("planted"), "x").expect("planted");
    refused(&machine, "was changed since it was verified");
    let ran = World::small().prefetch(&machine, "--pin system");
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("is damaged on this node's disk"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("nix-store --repair-path"),
        "{}",
        ran.stderr
    );
    refused(&machine, "was changed since it was verified");
}

#[test]
fn a_root_that_nix_does_not_know_any_more_does_not_pass() {
    for nix in Nix::both() {
        let machine = ready(&nix);
        let top = &World::small().generation.top;
        // Its record goes, its files stay as they are.
        let forget = format!(
            "python3 - <<'END'\n\
             import sqlite3\n\
             db = sqlite3.connect('/nix/var/nix/db/db.sqlite')\n\
             row = db.execute('select id from ValidPaths where path = ?', ('{top}',)).fetchone()\n\
             db.execute('delete from Refs where referrer = ?', row)\n\
             db.execute('delete from ValidPaths where id = ?', row)\n\
             db.commit()\n\
             END\n"
        );
        machine.sh(&forget).ok();
        let there = fs::symlink_metadata(machine.node.outside(top));
        assert!(there.is_ok());
        refused(&machine, "is not valid any more");
    }
}

#[test]
fn a_key_that_is_trusted_no_more_does_not_pass() {
    let mut machine = ready(&Nix::installed());
    machine.user.set("trusted-public-keys", "");
    refused(&machine, "and is not any more");
}

#[test]
fn the_previous_closure_is_hashed_once_and_then_known() {
    let world = World::small();
    let machine = world.node(&Nix::newer());
    let (top, key) = (&world.generation.top, world.server.public_key());
    let stock = format!(
        "NIX_REMOTE=daemon nix copy --from {} {top} --option trusted-public-keys {key}",
        world.server.url()
    );
    machine.sh(&stock).ok();
    let first = world.prefetch(&machine, "");
    let hashed = format!(
        "hashing what was here before: {} paths",
        world.generation.closure.len()
    );
    assert!(first.stderr.contains(&hashed), "{}", first.stderr);
    gate(&machine).ok();
    let second = world.prefetch(&machine, "");
    assert!(!second.stderr.contains("hashing"), "{}", second.stderr);
    second.ok();
}
