//! One server a data folder: a lock that dies with its holder.

use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why the folder is not ours.
#[derive(Debug, Error)]
pub enum LockError {
    /// Somebody else holds it.
    #[error(
        "{} is in use by another snowcached (process {holder}); stop that one, or give this one \
         another --data folder",
        dir.display()
    )]
    Held {
        /// The folder.
        dir: PathBuf,
        /// What the holder wrote of itself.
        holder: String,
    },
    /// It cannot be created or written.
    #[error(
        "{}: the data folder cannot be used; give --data a folder that this user may write",
        dir.display()
    )]
    Unusable {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Holds the data folder until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct DataLock {
    /// Never read: the open file is the lock.
    _file: File,
}

impl DataLock {
    /// Makes the folder if it is not there, and takes it.
    ///
    /// # Errors
    /// [`LockError`], without waiting.
    pub fn take(dir: &Path) -> Result<DataLock, LockError> {
        let unusable = |source| LockError::Unusable {
            dir: dir.to_owned(),
            source,
        };
        fs::create_dir_all(dir).map_err(unusable)?;
        let path = dir.join("lock");
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        let mut file = options.map_err(unusable)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let holder = io::read_to_string(&mut file)
                    .unwrap_or_default()
                    .trim()
                    .to_owned();
                return Err(LockError::Held {
                    dir: dir.to_owned(),
                    holder,
                });
            }
            Err(error) => return Err(unusable(error.into())),
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(unusable)?;
        Ok(DataLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_server_is_told_who_has_the_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("new/var");
        let first = DataLock::take(&data).expect("free");
        let refused = DataLock::take(&data).expect_err("held").to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        DataLock::take(&data).expect("free again");
    }
}
