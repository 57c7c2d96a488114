//! The spool as a hook and a queue use it, at once and one after the other.

use super::*;

fn path(digit: char) -> StorePath {
    let base = format!("{}-x", digit.to_string().repeat(32));
    base.parse().expect("a path")
}

fn spool() -> (tempfile::TempDir, Spool) {
    let folder = tempfile::tempdir().expect("a folder");
    let spool = Spool::at(&folder.path().join("spool")).expect("a spool");
    (folder, spool)
}

fn waiting(spool: &Spool) -> Vec<StorePath> {
    let waiting = spool.waiting().expect("read");
    waiting.into_iter().map(|entry| entry.path).collect()
}

fn failed(path: &StorePath, held: bool) -> Failed {
    Failed {
        path: path.to_string(),
        why: "no".to_owned(),
        since_s: 1,
        attempts: 2,
        held,
    }
}

/// Longer than a tick of the file system's clock.
fn tick() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

#[test]
fn what_is_queued_waits_once_the_oldest_first() {
    let (_folder, spool) = spool();
    assert!(waiting(&spool).is_empty(), "no folder is an empty spool");
    for digit in ['2', '1', '0', '1'] {
        spool.add(&[path(digit)]).expect("queued");
        tick();
    }
    assert_eq!(waiting(&spool), [path('2'), path('0'), path('1')]);
    let target = fs::read_link(spool.link_of(&path('0'))).expect("a link");
    assert_eq!(target, Path::new(&path('0').absolute()));
    let entries = spool.waiting().expect("read");
    spool.done(&entries[..2]).expect("done");
    assert_eq!(waiting(&spool), [path('1')]);
}

/// Queued anew while the queue was at it, an entry is another one.
#[test]
fn an_entry_that_was_queued_anew_stays() {
    let (_folder, spool) = spool();
    spool.add(&[path('0'), path('1')]).expect("queued");
    let seen = spool.waiting().expect("read");
    tick();
    spool.add(&[path('0')]).expect("queued again");
    spool.done(&seen).expect("done");
    assert_eq!(waiting(&spool), [path('0')]);
    let gone = failed(&path('0'), false);
    spool.give_up(&seen[0], &gone).expect("not given up");
    assert_eq!(waiting(&spool), [path('0')]);
    assert!(spool.failed().expect("read").is_empty());
}

#[test]
fn what_was_given_up_is_told_until_it_is_queued_again_or_forgotten() {
    let (_folder, spool) = spool();
    spool.add(&[path('0'), path('1')]).expect("queued");
    let seen = spool.waiting().expect("read");
    let (kept, gone) = (failed(&path('0'), true), failed(&path('1'), false));
    spool.give_up(&seen[0], &kept).expect("given up");
    spool.give_up(&seen[1], &gone).expect("given up");
    assert!(waiting(&spool).is_empty());
    assert!(spool.link_of(&path('0')).is_symlink(), "nix keeps it");
    assert!(!spool.link_of(&path('1')).is_symlink(), "it is gone");
    assert_eq!(spool.failed().expect("read"), [kept, gone]);

    spool.add(&[path('0')]).expect("queued again");
    assert_eq!(waiting(&spool), [path('0')]);
    spool.forget(&[path('0'), path('1')]).expect("forgotten");
    assert!(waiting(&spool).is_empty());
    assert!(spool.failed().expect("read").is_empty());
}

/// What a crash leaves behind of a file that was being written is a file all the same.
#[test]
fn what_is_torn_is_told_of_and_leftovers_are_none() {
    let (_folder, spool) = spool();
    spool.add(&[path('0')]).expect("queued");
    fs::write(spool.reasons().join(path('0').to_string()), b"{\"pa").expect("torn");
    fs::write(spool.queued().join(".123"), b"").expect("a leftover");
    let failed = spool.failed().expect("read");
    assert_eq!(failed.len(), 1);
    assert!(failed[0].held && failed[0].path == path('0').to_string());
    spool.add(&[path('0')]).expect("queued again");
    assert_eq!(waiting(&spool), [path('0')]);
}

#[test]
fn one_queue_at_a_time() {
    let (_folder, spool) = spool();
    assert!(!is_reigned(&spool), "nobody was ever here");
    let first = Reign::take(&spool).expect("asked");
    assert!(first.is_some() && is_reigned(&spool));
    assert!(Reign::take(&spool).expect("asked").is_none());
    drop(first);
    assert!(!is_reigned(&spool));
    assert!(Reign::take(&spool).expect("asked").is_some());
}
