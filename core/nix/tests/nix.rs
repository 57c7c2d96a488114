//! The same work done by a real Nix and by this crate, compared.
//!
//! Needs the programs of Nix 2.8 or newer in PATH. Whoever has none sets
//! SNOWCACHE_TESTS_WITHOUT_NIX=1 and knows that these tests did not run.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "tests read golden files and lay out trees"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use sha2::{Digest as _, Sha256};
use snowcache_nix::nar::{Parser, Writer};
use snowcache_nix::{
    ContentAddress, Hash, HashAlgorithm, NarHash, PathInfo, SecretKey, StoreHash, StorePath,
    base32, fingerprint,
};

mod support;
use support::{Node, apply, damage, nar_of, rewrite, tree};

/// Whether there is a Nix; says what to do when there should be one.
fn nix_is_here() -> bool {
    if std::env::var_os("SNOWCACHE_TESTS_WITHOUT_NIX").is_some() {
        eprintln!("skipped: SNOWCACHE_TESTS_WITHOUT_NIX is set");
        return false;
    }
    let found = Command::new("nix-store").arg("--version").output().is_ok();
    assert!(
        found,
        "nix is missing, and these tests compare with it. Install it (Debian: apt install \
        nix-bin), or set \
         SNOWCACHE_TESTS_WITHOUT_NIX=1 to go without."
    );
    true
}

/// Runs a program of Nix's with a home and configuration of its own, `input` on its standard input.
fn nix(home: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(arguments[0])
        .args(&arguments[1..])
        .env("HOME", home)
        .env("XDG_CACHE_HOME", home.join("cache"))
        .env("NIX_CONF_DIR", home.join("conf"))
        .env("NIX_CONFIG", "experimental-features = nix-command")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A refusal may close the pipe before all of the input is through.
    drop(child.stdin.take().unwrap().write_all(input));
    child.wait_with_output().unwrap()
}

fn nix_says(home: &Path, arguments: &[&str]) -> String {
    let output = nix(home, arguments, b"");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

/// So many values of a strategy, the same ones every time.
fn some<S: Strategy>(strategy: S, count: usize) -> Vec<S::Value> {
    let mut runner = TestRunner::deterministic();
    (0..count)
        .map(|_| strategy.new_tree(&mut runner).unwrap().current())
        .collect()
}

fn lay_out(node: &Node, at: &Path) {
    match node {
        Node::File(executable, bytes) => {
            fs::write(at, bytes).unwrap();
            let mode = if *executable { 0o755 } else { 0o644 };
            fs::set_permissions(at, fs::Permissions::from_mode(mode)).unwrap();
        }
        Node::Symlink(target) => symlink(std::ffi::OsStr::from_bytes(target), at).unwrap(),
        Node::Directory(entries) => {
            fs::create_dir(at).unwrap();
            for (name, node) in entries {
                lay_out(node, &at.join(std::ffi::OsStr::from_bytes(name)));
            }
        }
    }
}

fn read_back(at: &Path) -> Node {
    let kind = fs::symlink_metadata(at).unwrap();
    if kind.is_symlink() {
        return Node::Symlink(fs::read_link(at).unwrap().into_os_string().into_vec());
    }
    if kind.is_file() {
        return Node::File(
            kind.permissions().mode() & 0o100 != 0,
            fs::read(at).unwrap(),
        );
    }
    let entries = fs::read_dir(at).unwrap().map(|entry| entry.unwrap());
    let mut entries: Vec<_> = entries
        .map(|entry| (entry.file_name().into_vec(), read_back(&entry.path())))
        .collect();
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    Node::Directory(entries)
}

#[test]
fn nix_dumps_the_bytes_that_our_writer_writes_and_restores_what_it_wrote() {
    if !nix_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (n, tree) in some(tree(), 60).iter().enumerate() {
        let ours = nar_of(tree);
        let at = folder.path().join(format!("laid-out-{n}"));
        lay_out(tree, &at);
        let theirs = nix(
            folder.path(),
            &["nix-store", "--dump", at.to_str().unwrap()],
            b"",
        );
        assert!(
            theirs.stdout == ours,
            "tree {n} dumps differently: {tree:?}"
        );

        let restored = folder.path().join(format!("restored-{n}"));
        let output = nix(
            folder.path(),
            &["nix-store", "--restore", restored.to_str().unwrap()],
            &ours,
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            nar_of(&read_back(&restored)) == ours,
            "tree {n} restores differently: {tree:?}"
        );
    }
}

#[test]
fn what_we_accept_nix_accepts_and_dumps_again() {
    if !nix_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut accepted = 0;
    let cases = some((tree(), prop::collection::vec(damage(), 1..3)), 3000);
    for (tree, damage) in cases {
        let mut nar = nar_of(&tree);
        let whole = nar.clone();
        damage.iter().for_each(|damage| {
            if nar.len() >= 8 {
                apply(&mut nar, damage)
            }
        });
        let mut parser = Parser::new();
        let fed = parser
            .feed(&nar, &mut |_| {})
            .and_then(|()| parser.finish());
        // Every process costs time: only what we accept and what was really changed goes to nix.
        if fed.is_err() || nar == whole || accepted == 40 {
            continue;
        }
        let at = folder.path().join(format!("damaged-{accepted}"));
        let output = nix(
            folder.path(),
            &["nix-store", "--restore", at.to_str().unwrap()],
            &nar,
        );
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(nar_of(&read_back(&at)) == nar && rewrite(&nar) == nar);
        accepted += 1;
    }
    assert!(
        accepted > 20,
        "only {accepted} of the damaged NARs are still NARs: too few to tell"
    );
}

#[test]
fn nix_computes_the_same_fixed_output_paths() {
    if !nix_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let hashes = [
        (HashAlgorithm::Md5, "md5"),
        (HashAlgorithm::Sha1, "sha1"),
        (HashAlgorithm::Sha256, "sha256"),
        (HashAlgorithm::Sha512, "sha512"),
    ];
    for (n, bytes) in some(prop::array::uniform32(any::<u8>()), 6)
        .iter()
        .enumerate()
    {
        for (algorithm, name) in hashes {
            let bytes = [*bytes, *bytes].concat();
            let hash = Hash::new(algorithm, &bytes[..algorithm.size_bytes()]).unwrap();
            let text = base32::encode(hash.as_bytes());
            let file = format!("file-{n}.tar.gz");
            for (prefix, more) in [("fixed:", None), ("fixed:r:", Some("--recursive"))] {
                let mut arguments = vec!["nix-store", "--print-fixed-path", name, &text, &file];
                arguments.extend(more);
                let address: ContentAddress = format!("{prefix}{hash}").parse().unwrap();
                let ours = address.store_path_for(&file, &[], false).unwrap();
                assert_eq!(ours.absolute(), nix_says(folder.path(), &arguments));
            }
        }
    }
}

#[test]
fn nix_computes_the_same_paths_of_texts() {
    if !nix_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let eval = |expression: &str| {
        let arguments = [
            "nix-instantiate",
            "--eval",
            "--store",
            "dummy://",
            "--json",
            "-E",
            expression,
        ];
        nix_says(folder.path(), &arguments)
            .trim_matches('"')
            .to_owned()
    };
    let path = |text: &str, references: &[StorePath]| {
        let hash = Hash::new(HashAlgorithm::Sha256, &Sha256::digest(text)).unwrap();
        let address: ContentAddress = format!("text:{hash}").parse().unwrap();
        address.store_path_for("t", references, false).unwrap()
    };
    let alone = path("alone\n", &[]);
    assert_eq!(eval(r#"builtins.toFile "t" "alone\n""#), alone.absolute());
    let text = format!("see {}\n", alone.absolute());
    let refers = r#"builtins.toFile "t" "see ${builtins.toFile "t" "alone\n"}\n""#;
    assert_eq!(eval(refers), path(&text, &[alone]).absolute());
}

/// A binary cache in a folder, with one path that we signed; gives the path.
fn cache_with_one_path(cache: &Path, key: &SecretKey) -> StorePath {
    let mut nar = Writer::new(Vec::new());
    nar.directory().unwrap();
    nar.entry(b"hello").unwrap();
    nar.file(true, 6).unwrap();
    nar.data(b"world\n").unwrap();
    nar.end_directory().unwrap();
    let nar = nar.finish().unwrap();
    let path = |byte, name| StorePath::new(StoreHash::from_bytes([byte; 20]), name).unwrap();
    let mut info = PathInfo {
        store_path: path(1, "ours"),
        nar_hash: NarHash::from_bytes(Sha256::digest(&nar).into()),
        nar_size: nar.len() as u64,
        references: vec![path(1, "ours"), path(2, "other"), path(3, "third")],
        deriver: Some(path(4, "ours.drv")),
        ca: None,
        signatures: Vec::new(),
        unknown: vec![("System".to_owned(), "x86_64-linux".to_owned())],
    };
    info.references.sort();
    info.add_signature(key.sign(&fingerprint(&info)));
    fs::create_dir(cache).unwrap();
    fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
    fs::write(cache.join("ours.nar"), &nar).unwrap();
    let narinfo = info.to_narinfo("ours.nar", "none", Some(nar.len() as u64));
    fs::write(
        cache.join(format!("{}.narinfo", info.store_path.hash())),
        narinfo,
    )
    .unwrap();
    info.store_path
}

#[test]
fn nix_believes_our_signature_and_nobody_elses() {
    if !nix_is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let ours = SecretKey::generate("ours-1", [9; 32]).unwrap();
    let other = SecretKey::generate("ours-1", [10; 32]).unwrap();
    let path = cache_with_one_path(&cache, &ours).absolute();
    let store = format!("file://{}", cache.display());

    let verify = |key: &SecretKey| {
        let (home, key) = (tempfile::tempdir().unwrap(), key.public().to_string());
        let arguments = [
            "nix",
            "store",
            "verify",
            "--store",
            &store,
            "--option",
            "trusted-public-keys",
            &key,
            &path,
        ];
        nix(home.path(), &arguments, b"")
    };
    let good = verify(&ours);
    assert!(
        good.status.success(),
        "{}",
        String::from_utf8_lossy(&good.stderr)
    );
    let bad = verify(&other);
    assert!(!bad.status.success());
    assert!(
        String::from_utf8_lossy(&bad.stderr).contains("untrusted"),
        "{bad:?}"
    );

    let references = nix_says(
        folder.path(),
        &["nix-store", "--store", &store, "-q", "--references", &path],
    );
    assert_eq!(references.lines().count(), 3, "{references}");
    let hello = [
        "nix",
        "store",
        "cat",
        "--store",
        &store,
        &format!("{path}/hello"),
    ];
    assert_eq!(nix_says(folder.path(), &hello), "world");
}
