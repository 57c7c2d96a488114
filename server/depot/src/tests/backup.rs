//! A backup is a data folder: complete, of one moment, and proven by reading it.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::*;
use crate::backup::{BackedUp, backup, verify};

/// A data folder with a depot in it.
struct Data {
    folder: tempfile::TempDir,
    depot: Depot,
}

impl Data {
    fn new() -> Data {
        let folder = tempfile::tempdir().expect("a folder");
        let depot = open(folder.path());
        fs::create_dir(folder.path().join("keys")).expect("create");
        fs::write(folder.path().join("keys/a-1.sec"), "a-1:secret").expect("write");
        Data { folder, depot }
    }

    fn push(&self, number: u8, content: &[u8]) -> Nar {
        let mut ingest = self.depot.ingest().expect("ingest");
        ingest.write(&nar_of(content)).expect("write");
        let nar = ingest
            .finish(upload(&format!("{number}.nar")))
            .expect("finish");
        let info = path(number, nar, &[]);
        self.depot
            .publish(&cache(), signed(info, nar), "tester")
            .expect("publish");
        nar
    }

    fn back_up(&self, target: &Path) -> BackedUp {
        backup(self.folder.path(), target, &mut |_, _| {}).expect("backup")
    }
}

fn open(data: &Path) -> Depot {
    Depot::open(Options::new(data.join("depot"))).expect("open")
}

/// Every path of a backup and its NAR, read from a copy of it so that it stays one.
fn restored(target: &Path) -> Vec<(String, Vec<u8>)> {
    let copy = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(copy.path().join("depot/segments")).expect("create");
    for entry in fs::read_dir(target.join("depot/segments")).expect("list") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("a name");
        fs::copy(&path, copy.path().join("depot/segments").join(name)).expect("copy");
    }
    let depot = open(copy.path());
    let paths = depot.paths(&cache(), None, MAX_PAGE).expect("list");
    let read = paths.iter().map(|path| {
        let entry = depot
            .path(&cache(), &path.hash())
            .expect("look up")
            .expect("there");
        let nar = depot.nar(&cache(), &entry.info.nar_hash).expect("look up");
        let bytes = collect(nar.expect("its NAR").raw(0..u64::MAX));
        (path.to_string(), bytes)
    });
    read.collect()
}

#[test]
fn the_second_backup_copies_what_was_added() {
    let data = Data::new();
    let target = tempfile::tempdir().expect("a folder");
    let target = target.path().join("new/backup");
    data.push(1, &noise(1, 300_000));
    let first = data.back_up(&target);
    assert_eq!(first.copied_bytes, first.bytes);
    assert_eq!((first.files, first.damaged), (1, 0));
    assert_eq!(data.back_up(&target).copied_bytes, 0, "nothing was added");
    data.push(2, &noise(2, 100_000));
    let third = data.back_up(&target);
    assert_eq!(third.copied_bytes, third.bytes - first.bytes);
    let verified = verify(&target, &mut |_, _| {}).expect("a backup");
    assert_eq!(verified.problems, [""; 0]);
    assert_eq!((verified.bytes, verified.files), (third.bytes, 1));
    let names: Vec<_> = restored(&target).into_iter().collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[1].1, nar_of(&noise(2, 100_000)));
}

#[test]
fn what_is_not_as_it_was_copied_is_named() {
    let data = Data::new();
    let target = tempfile::tempdir().expect("a folder");
    data.push(1, &noise(1, 300_000));
    data.back_up(target.path());
    let segment = target.path().join("depot/segments/0000000001.seg");
    let good = fs::read(&segment).expect("read");
    let problems = || {
        let verified = verify(target.path(), &mut |_, _| {}).expect("a backup");
        verified.problems.join("; ")
    };
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&segment, bad).expect("write");
        assert!(
            problems().contains("0000000001.seg"),
            "byte {at}: {}",
            problems()
        );
    }
    fs::write(&segment, &good[1..]).expect("write");
    assert!(problems().contains("should have"), "{}", problems());
    fs::write(&segment, &good).expect("write");
    fs::write(target.path().join("keys/a-1.sec"), "other").expect("write");
    assert!(problems().contains("keys/a-1.sec"), "{}", problems());
    // The next run mends all of that, also a segment that was swapped.
    fs::write(&segment, noise(3, good.len())).expect("write");
    data.back_up(target.path());
    assert_eq!(problems(), "");
    assert_eq!(fs::read(&segment).expect("read"), good);
}

#[test]
fn only_an_empty_folder_or_a_backup_is_written_to() {
    let data = Data::new();
    let refused = |target: &Path| {
        let error = backup(data.folder.path(), target, &mut |_, _| {}).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    };
    refused(&data.folder.path().join("inside"));
    refused(data.folder.path().parent().expect("a parent"));
    let other = tempfile::tempdir().expect("a folder");
    fs::write(other.path().join("letter.txt"), "mine").expect("write");
    refused(other.path());
    let served = tempfile::tempdir().expect("a folder");
    data.back_up(served.path());
    drop(open(served.path()));
    refused(served.path());
    let error = verify(other.path(), &mut |_, _| {}).expect_err("no backup");
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn while_pushes_go_on_everything_acknowledged_before_is_in_it_and_closures_are_whole() {
    let data = Data::new();
    let target = tempfile::tempdir().expect("a folder");
    let (over, pushed) = (AtomicBool::new(false), AtomicU8::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Each path refers to the one before it, whose NAR lies in whatever segment was free.
            for number in 0..31u8 {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let beside = data.depot.ingest().expect("ingest");
                let content = noise(number.into(), 400_000);
                let mut ingest = data.depot.ingest().expect("ingest");
                ingest.write(&nar_of(&content)).expect("write");
                drop(beside);
                let nar = ingest
                    .finish(upload(&format!("{number}.nar")))
                    .expect("finish");
                let before: Vec<u8> = number.checked_sub(1).into_iter().collect();
                let info = path(number, nar, &before);
                let published = data.depot.publish(&cache(), signed(info, nar), "tester");
                published.expect("publish");
                pushed.store(number + 1, Ordering::SeqCst);
            }
        });
        for _ in 0..8 {
            let before = pushed.load(Ordering::SeqCst);
            data.back_up(target.path());
            let verified = verify(target.path(), &mut |_, _| {}).expect("a backup");
            assert_eq!(verified.problems, [""; 0]);
            let paths = restored(target.path());
            assert!(paths.len() >= before.into(), "{} of {before}", paths.len());
            for number in 0..paths.len() {
                let bytes = nar_of(&noise(number as u64, 400_000));
                let name = format!("-path{number}");
                let path = paths.iter().find(|(path, _)| path.ends_with(&name));
                assert!(path.expect("no gap: closures are whole").1 == bytes);
            }
        }
        over.store(true, Ordering::Relaxed);
    });
}
