//! Files that are replaced as a whole: written aside, synced, renamed, and the folder synced.
//!
//! Guarantees: after a crash a file is as it was or as it is to be; its permissions stay, and where
//! it is a link, so does the link. Never: a file of the Nix store written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Longer than any nix.conf or netrc that was written by hand.
const MAX_BYTES: u64 = 1 << 20;

/// What cannot be done to a file.
#[derive(Debug, Error)]
pub enum FileError {
    /// The filesystem's word.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is made by somebody else.
    #[error(
        "{} is made by NixOS: put the lines into nix.settings of its configuration instead",
        path.display()
    )]
    Generated {
        /// Which file.
        path: PathBuf,
    },
    /// It holds secrets, and others may read it.
    #[error("{} may be read by others, but is to hold a token: chmod 600 it first", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
    },
}

/// The file's text; None where it is not there.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at(path)(error)),
        Ok(about) if about.len() > MAX_BYTES => {
            return Err(at(path)(io::Error::other("it is too long")));
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(at(path))
}

/// Whether a file that is there may take a secret.
///
/// # Errors
/// Others may read it.
pub fn check_secret(path: &Path) -> Result<(), FileError> {
    match fs::metadata(path) {
        Ok(about) if about.permissions().mode() & 0o077 != 0 => Err(FileError::Open {
            path: path.to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Puts `text` in the place of the file; a new one has the permissions `mode`.
///
/// # Errors
/// It is as it was then.
pub fn replace(path: &Path, text: &str, mode: u32) -> Result<(), FileError> {
    let path = &real(path)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(at(folder))?;
    let mode = match fs::metadata(path) {
        Ok(about) => about.permissions().mode() & 0o777,
        Err(_) => mode,
    };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".snowcache-new");
    let aside = PathBuf::from(aside);
    // Left behind by one that was killed.
    remove(&aside)?;
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode & 0o600);
        let mut file = options.open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&aside, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(at(path))
}

/// Removes the file, if it is there.
///
/// # Errors
/// It cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// Where a link leads.
fn real(path: &Path) -> Result<PathBuf, FileError> {
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(path.to_owned()),
        real => real.map_err(at(path))?,
    };
    match real.starts_with(snowcache_nix::STORE_DIR) {
        true => Err(FileError::Generated {
            path: path.to_owned(),
        }),
        false => Ok(real),
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    |source| FileError::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn a_file_keeps_its_permissions_and_a_link_stays_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let (file, link) = (dir.path().join("a/nix.conf"), dir.path().join("link"));
        assert_eq!(read(&file).expect("read"), None);
        replace(&file, "one\n", 0o644).expect("made");
        assert_eq!(mode(&file), 0o644);
        fs::set_permissions(&file, Permissions::from_mode(0o640)).expect("changed");
        std::os::unix::fs::symlink(&file, &link).expect("a link");
        replace(&link, "two\n", 0o644).expect("replaced");
        assert_eq!(read(&file).expect("read").as_deref(), Some("two\n"));
        assert_eq!(mode(&file), 0o640);
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        assert!(check_secret(&file).is_err());
        fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("changed");
        check_secret(&file).expect("its owner's alone");
        remove(&file).expect("removed");
        remove(&file).expect("as good as once");
    }
}
