//! Small files that must be whole or absent: written aside, synced, renamed, and the folder synced.

use rustix::fs::{Mode, OFlags};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// For the owner's eyes only.
pub const SECRET: u32 = 0o600;
/// For everybody.
pub const PUBLIC: u32 = 0o644;

/// Writes `content` to `path` with permission bits `mode`; when it returns, a power cut can no
/// longer undo it.
///
/// # Errors
/// Whatever the filesystem says; `path` is then as it was before, unless it was its folder that
/// could not be synced: then it may be new.
pub fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    let flags =
        OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(&aside, flags, Mode::from_raw_mode(mode))?);
    // An older attempt's leftover keeps its own bits otherwise.
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    sync_parent(path)
}

/// Makes the name `path` itself durable.
///
/// # Errors
/// Whatever the filesystem says.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    match path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        Some(parent) => File::open(parent)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// The trimmed content of a small text file, or nothing where there is none.
///
/// # Errors
/// Whatever the filesystem says, but for "not found".
pub fn read_if_there(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_leftover_of_a_crash_neither_stays_nor_lends_its_permissions() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("push.token");
        fs::write(dir.path().join("push.token.new"), "half").expect("a leftover");
        write_durably(&path, b"whole\n", SECRET).expect("written");
        assert_eq!(
            read_if_there(&path).expect("readable").as_deref(),
            Some("whole")
        );
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, SECRET);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
