//! Who may change the spool, and who is its queue.
//!
//! Guarantees: the kernel lets go of both locks when their holder dies, however that happens.
//! Never: the first one held while something is waited for.

use super::{Spool, SpoolError, at};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Changes the spool while nobody else does.
pub(super) fn exclusively<T>(
    folder: &Path,
    change: impl FnOnce() -> Result<T, SpoolError>,
) -> Result<T, SpoolError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    let file = open(&folder.join("lock"))?;
    loop {
        match flock(&file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            taken => break taken.map_err(|errno| at(folder)(errno.into()))?,
        }
    }
    change()
}

/// The right to push what is queued here; whoever has it is the queue.
#[derive(Debug)]
pub struct Reign {
    _lock: File,
}

impl Reign {
    /// Nothing while somebody else has it.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn take(spool: &Spool) -> Result<Option<Reign>, SpoolError> {
        fs::create_dir_all(spool.folder()).map_err(at(spool.folder()))?;
        let lock = open(&spool.folder().join("queue.lock"))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Reign { _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(at(spool.folder())(errno.into())),
        }
    }
}

/// Whether there is a queue at work. Whoever may read the folder may ask.
pub fn is_reigned(spool: &Spool) -> bool {
    let lock = File::open(spool.folder().join("queue.lock"));
    let taken = |lock: File| flock(&lock, FlockOperation::NonBlockingLockShared);
    lock.is_ok_and(|lock| taken(lock) == Err(rustix::io::Errno::WOULDBLOCK))
}

fn open(file: &Path) -> Result<File, SpoolError> {
    let opened: io::Result<File> = OpenOptions::new().create(true).append(true).open(file);
    opened.map_err(at(file))
}
