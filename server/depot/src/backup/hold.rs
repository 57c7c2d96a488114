//! The hold: while somebody copies segments, nobody removes one.
//!
//! It is a lock on the file `hold` beside the segments, shared among those who copy and exclusive
//! for those who remove, so it reaches over processes and dies with its holder.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::{Error, Result};

/// The file's name in the depot's folder.
pub const HOLD: &str = "hold";

/// Keeps segments where they are, or the right to remove some; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    /// Never read: the open file is the lock. None where there is no folder to share.
    _file: Option<File>,
}

impl Hold {
    /// Keeps all segments of the depot in `depot` where they are. Waits for a removal under way to
    /// end, which takes milliseconds.
    pub fn take(depot: &Path) -> Result<Hold> {
        Ok(Hold::lock(depot, FlockOperation::LockShared)?.expect("invariant: it waits"))
    }

    /// The right to remove segments; None while somebody copies them. Keep it only for as long as
    /// removing takes.
    pub fn to_remove(depot: &Path) -> Result<Option<Hold>> {
        if !depot.is_dir() {
            return Ok(Some(Hold { _file: None })); // a depot in memory
        }
        Hold::lock(depot, FlockOperation::NonBlockingLockExclusive)
    }

    fn lock(depot: &Path, operation: FlockOperation) -> Result<Option<Hold>> {
        let path = depot.join(HOLD);
        let failed = |e| Error::io(format!("locking {}", path.display()), e);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed)?;
        loop {
            return match flock(&file, operation) {
                Ok(()) => Ok(Some(Hold { _file: Some(file) })),
                Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => Err(failed(error.into())),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copying_and_removing_exclude_each_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (Hold::take(folder.path()), Hold::take(folder.path()));
        let (one, two) = (one.expect("free"), two.expect("shared"));
        let remove = || Hold::to_remove(folder.path()).expect("asked");
        assert!(remove().is_none());
        drop(one);
        assert!(remove().is_none());
        drop(two);
        assert!(remove().is_some());
        assert!(
            Hold::to_remove(Path::new("/nonexistent"))
                .expect("asked")
                .is_some()
        );
    }
}
