//! What becomes valid in this machine's store, seen from outside: for builds without a hook.
//!
//! ```text
//!   nix: lock /nix/store/<path>.lock -> build, add or fetch -> register -> remove the lock
//!                                                                          \--> inotify --> us
//! ```
//! Guarantees: a lock that goes is heard of, also when the kernel forgot to say it (its queue
//! overflowed) or nobody listened: then the store is searched for what has changed since. What is
//! named need not be valid. Never: nix's database opened; anything in the store touched.

use crate::queue::report::now_s;
use crate::spool::{Spool, SpoolError, replace};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use snowcache_nix::{STORE_DIR, StorePath};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::Duration;

/// How often the kernel is asked; what comes meanwhile is taken together.
const POLL: Duration = Duration::from_millis(200);

/// An event has 16 bytes and a name of at most 255: a hundred of them at a time.
const BUFFER_BYTES: usize = 32 << 10;

/// A path gets its times when it is built and is registered later, with all others of its
/// derivation: how much later at most.
const MARGIN_S: u64 = 600;

/// See the module.
pub struct Watch {
    inotify: OwnedFd,
    /// Until when all was seen, in a file that outlives us.
    mark: PathBuf,
    seen_s: u64,
    /// Since when the store is to be searched.
    search_s: Option<u64>,
}

impl Watch {
    /// Begins to listen, and goes on where the last one ended that had this spool.
    ///
    /// # Errors
    /// When the store cannot be watched.
    pub fn start(spool: &Spool) -> io::Result<Watch> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &inotify,
            STORE_DIR,
            WatchFlags::DELETE | WatchFlags::ONLYDIR,
        )?;
        let mark = spool.folder().join("watched");
        let before = fs::read_to_string(&mark).ok();
        let before_s = before.and_then(|text| text.trim().parse().ok());
        Ok(Watch {
            inotify,
            mark,
            seen_s: before_s.unwrap_or_else(now_s),
            search_s: before_s,
        })
    }

    /// Until when all was seen.
    pub fn seen_s(&self) -> u64 {
        self.seen_s
    }

    /// Waits for what may have become valid, and says until when that is all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn wait(&mut self) -> io::Result<(Vec<StorePath>, u64)> {
        loop {
            let now_s = now_s();
            let mut paths = self.unlocked()?;
            if let Some(since_s) = self.search_s.take() {
                paths.extend(changed_since(since_s.saturating_sub(MARGIN_S))?);
            }
            if !paths.is_empty() {
                return Ok((paths.into_iter().collect(), now_s));
            }
            sleep(POLL);
        }
    }

    /// All that was named until then is seen to.
    ///
    /// # Errors
    /// When the mark cannot be written.
    pub fn seen(&mut self, until_s: u64) -> Result<(), SpoolError> {
        self.seen_s = until_s;
        replace(&self.mark, format!("{until_s}\n").as_bytes())
    }

    /// The paths whose locks have gone.
    fn unlocked(&mut self) -> io::Result<BTreeSet<StorePath>> {
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut paths = BTreeSet::new();
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(paths),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                self.search_s = Some(self.seen_s);
            }
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let path = name.and_then(|name| name.strip_suffix(".lock"));
            paths.extend(path.and_then(worth_pushing));
        }
    }
}

/// The paths of the store that have changed since then, in seconds since 1970.
fn changed_since(since_s: u64) -> io::Result<Vec<StorePath>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(STORE_DIR)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(path) = name.to_str().and_then(worth_pushing) else {
            continue;
        };
        // One that has gone meanwhile is none.
        let changed = entry.metadata().map(|about| about.ctime());
        if changed.is_ok_and(|at_s| u64::try_from(at_s).is_ok_and(|at_s| at_s >= since_s)) {
            paths.push(path);
        }
    }
    Ok(paths)
}

/// A store path of this name, but for derivations, which caches are not asked for.
fn worth_pushing(name: &str) -> Option<StorePath> {
    let path: StorePath = name.parse().ok()?;
    let working = name.ends_with(".lock") || name.ends_with(".check") || name.ends_with(".chroot");
    (!path.is_derivation() && !working).then_some(path)
}
