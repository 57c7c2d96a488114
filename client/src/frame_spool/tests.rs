//! The spool as those who fetch use it, and what becomes of what they leave.

use super::*;
use bytes::Bytes;
use snowcache_core::contract::sample;
use snowcache_nix::Compression;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

fn node() -> (TempDir, Node) {
    let folder = tempfile::tempdir().expect("a folder");
    let node = Node::at(folder.path().to_owned());
    (folder, node)
}

fn narinfo(letter: char) -> Narinfo {
    Narinfo {
        info: sample(&letter.to_string(), b"", &[]).info,
        url: String::new(),
        compression: Compression::Zstd,
        file_size_bytes: None,
    }
}

fn hash(letter: char) -> StoreHash {
    narinfo(letter).info.store_path.hash()
}

/// A plan under way that wants these.
fn spool(node: &Node, pin: &str, budget_bytes: u64, wanted: &[char]) -> FrameSpool {
    let spool = FrameSpool::of(node, pin, budget_bytes);
    let wanted: Vec<Narinfo> = wanted.iter().map(|letter| narinfo(*letter)).collect();
    spool.begin(&wanted, 0);
    spool
}

fn about(what: &str) -> About {
    About {
        cache: "http://cache".to_owned(),
        what: what.to_owned(),
        etag: None,
    }
}

/// Bytes of which no two pieces are the same.
fn content(len: usize) -> Bytes {
    let numbers = (0..len.div_ceil(8) as u64).flat_map(u64::to_le_bytes);
    numbers.take(len).collect::<Vec<u8>>().into()
}

/// Once nobody else has it: whoever was broken off may be writing still.
async fn open(spool: &FrameSpool, letter: char) -> Entry {
    loop {
        if let Some(entry) = spool.entry(hash(letter), Part::Nar, about("a NAR")).await {
            return entry;
        }
    }
}

/// Gives an entry bytes as a connection does.
async fn give(entry: &mut Entry, bytes: &Bytes) {
    for at in (0..bytes.len()).step_by(100_000) {
        let end = bytes.len().min(at + 100_000);
        entry.push(&bytes.slice(at..end)).await;
    }
}

async fn kept(entry: &mut Entry) -> Vec<u8> {
    let mut kept = Vec::new();
    while let Some(bytes) = entry.next().await {
        kept.extend_from_slice(&bytes);
    }
    kept
}

/// What all entries take.
fn size_bytes(node: &Node) -> u64 {
    let folder = node.spool_folder();
    let plans = names_in(&folder).expect("a folder").into_iter();
    let sizes = plans.flat_map(|plan| {
        let plan = folder.join(plan);
        let names = names_in(&plan).expect("a folder").into_iter();
        names.map(move |name| fs::metadata(plan.join(name)).expect("a file").len())
    });
    sizes.sum()
}

#[tokio::test]
async fn whoever_comes_back_has_all_but_a_frame_of_what_came() {
    let (_folder, node) = node();
    let spool = spool(&node, "system", 1 << 30, &['a']);
    let all = content(10 * MIB);
    let mut came = 0;
    // Broken off again and again, as by a kill: nothing is said to the entry.
    while came < all.len() {
        let mut entry = open(&spool, 'a').await;
        let before = entry.kept_bytes() as usize;
        assert!(
            before <= came && came - before < LEAST_BYTES as usize,
            "{before} of {came}"
        );
        assert!(kept(&mut entry).await == all[..before]);
        came = all.len().min(before + 2_345_678);
        give(&mut entry, &all.slice(before..came)).await;
        if came == all.len() {
            entry.end().await;
        }
    }
    let mut entry = open(&spool, 'a').await;
    assert!(kept(&mut entry).await == all, "with its end");
    drop(entry);
    spool.forget(hash('a'));
    assert_eq!(size_bytes(&node), 0);
}

#[tokio::test]
async fn what_is_damaged_ends_what_is_kept_and_is_written_over() {
    let all = content(3 * MIB);
    for damaged_at in [4, 300, 5_000, 700_000, 2 * MIB as u64] {
        let (_folder, node) = node();
        let spool = spool(&node, "system", 1 << 30, &['a']);
        let mut entry = open(&spool, 'a').await;
        give(&mut entry, &all).await;
        entry.end().await;
        drop(entry);
        let mut entry = open(&spool, 'a').await;
        let file = node
            .spool_folder()
            .join("system")
            .join(Part::Nar.file_name(hash('a')));
        let file = OpenOptions::new().read(true).write(true).open(file);
        let file = file.expect("the entry");
        let mut byte = [0];
        file.read_exact_at(&mut byte, damaged_at).expect("a byte");
        file.write_all_at(&[byte[0] ^ 4], damaged_at)
            .expect("a byte");
        // Opened before it was damaged, and after.
        assert!(all.starts_with(&kept(&mut entry).await));
        drop(entry);
        let mut entry = open(&spool, 'a').await;
        let right = kept(&mut entry).await;
        assert!(all.starts_with(&right), "damaged at {damaged_at}");
        let right = right.len();
        assert!(right < all.len(), "damaged at {damaged_at}");
        if right == 0 {
            entry.begin(None);
        }
        give(&mut entry, &all.slice(right..)).await;
        entry.end().await;
        drop(entry);
        let mut entry = open(&spool, 'a').await;
        assert!(kept(&mut entry).await == all, "damaged at {damaged_at}");
    }
}

#[tokio::test]
async fn what_is_of_something_else_is_not_used() {
    let (_folder, node) = node();
    let spool = spool(&node, "system", 1 << 30, &['a']);
    let mut entry = open(&spool, 'a').await;
    entry.begin(Some("\"one\""));
    give(&mut entry, &content(2 * MIB)).await;
    entry.end().await;
    drop(entry);
    let entry = open(&spool, 'a').await;
    assert_eq!(
        (entry.kept_bytes(), entry.etag()),
        (2 * MIB as u64, Some("\"one\""))
    );
    let locked = spool.entry(hash('a'), Part::Nar, about("a NAR")).await;
    assert!(locked.is_none(), "somebody has it");
    drop(entry);
    let other = About {
        cache: "http://other".to_owned(),
        ..about("a NAR")
    };
    for other in [other, about("another NAR")] {
        let entry = spool.entry(hash('a'), Part::Nar, other).await;
        assert_eq!(entry.expect("free").kept_bytes(), 0);
    }
    assert_eq!(open(&spool, 'a').await.kept_bytes(), 2 * MIB as u64);
}

#[tokio::test]
async fn all_plans_together_stay_below_the_budget() {
    let (_folder, node) = node();
    let budget_bytes = 5 * MIB as u64;
    for (pin, letter) in [("first", 'a'), ("second", 'b')] {
        let spool = spool(&node, pin, budget_bytes, &[letter]);
        let mut entry = open(&spool, letter).await;
        give(&mut entry, &content(2 * MIB)).await;
        entry.end().await;
        drop(entry);
        drop(open(&spool, letter).await);
    }
    let file = |pin: &str, letter| {
        let folder = node.spool_folder().join(pin);
        folder.join(Part::Nar.file_name(hash(letter)))
    };
    let long_ago = SystemTime::UNIX_EPOCH;
    let first = File::options().write(true).open(file("first", 'a'));
    first.expect("kept").set_modified(long_ago).expect("a time");
    // The second one is in use.
    let second = spool(&node, "second", budget_bytes, &['b']);
    let in_use = open(&second, 'b').await;
    let third = spool(&node, "third", budget_bytes, &['c']);
    let all = content(8 * MIB);
    let mut entry = open(&third, 'c').await;
    give(&mut entry, &all).await;
    entry.end().await;
    drop(entry);
    assert!(!file("first", 'a').exists(), "the oldest made room");
    assert_eq!(in_use.kept_bytes(), 2 * MIB as u64);
    assert!(file("second", 'b').exists());
    let mut entry = open(&third, 'c').await;
    let right = kept(&mut entry).await;
    assert!(
        right.len() > 2 * MIB && all.starts_with(&right),
        "{}",
        right.len()
    );
    assert!(size_bytes(&node) <= budget_bytes, "{}", size_bytes(&node));
    assert_eq!(third.complaint(), None);
}

#[tokio::test]
async fn what_nobody_comes_back_for_goes_when_a_plan_begins() {
    let (_folder, node) = node();
    for (pin, letters) in [("gone", "a"), ("there", "b"), ("system", "cd")] {
        let letters: Vec<char> = letters.chars().collect();
        let spool = spool(&node, pin, 1 << 30, &letters);
        for letter in letters {
            let mut entry = open(&spool, letter).await;
            give(&mut entry, &content(MIB)).await;
            entry.end().await;
            drop(entry);
            drop(open(&spool, letter).await);
        }
    }
    fs::remove_dir_all(node.plan_folder("gone")).expect("a plan");
    let again = spool(&node, "system", 1 << 30, &['d']);
    let left = |pin: &str| {
        names_in(&node.spool_folder().join(pin))
            .expect("a folder")
            .len()
    };
    assert_eq!((left("gone"), left("there"), left("system")), (0, 1, 1));
    assert!(open(&again, 'd').await.kept_bytes() > 0);
    give_up(&node, "there");
    again.clear();
    assert_eq!(size_bytes(&node), 0);
}

#[tokio::test]
async fn what_cannot_be_written_is_told_once_and_costs_nothing_else() {
    let (_folder, node) = node();
    let spool = spool(&node, "system", 1 << 30, &['a', 'b']);
    fs::write(node.spool_folder(), "no folder").expect("a file");
    for letter in ['a', 'b'] {
        let entry = spool.entry(hash(letter), Part::Nar, about("a NAR")).await;
        if let Some(mut entry) = entry {
            give(&mut entry, &content(2 * MIB)).await;
            entry.end().await;
        }
    }
    let why = spool.complaint().expect("told");
    assert!(
        why.contains("is not kept") && why.contains("fetched anew"),
        "{why}"
    );
    assert_eq!(spool.complaint(), None);
    let none = FrameSpool::of(&node, "system", 0);
    assert!(
        none.entry(hash('a'), Part::Nar, about("a NAR"))
            .await
            .is_none()
    );
}
