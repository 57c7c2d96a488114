//! Segments as files of one folder: `segments/0000000001.seg`.
//!
//! Guarantees: a name is durable (its folder synced) before anything in it is promised. Reads go by
//! `pread` on descriptors that are kept open, at most [`MAX_OPEN`] of them. Never maps a file that
//! may still change.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;

use super::file::SegmentFile;
use super::{SegmentId, SegmentWriter, Segments, Space};

/// Descriptors kept for reading: 4,096 segments of 256 MiB are 1 TiB, and a quarter of the usual
/// limit of 20,000.
pub const MAX_OPEN: usize = 4096;

/// Bytes gathered before they go to the kernel: a dozen frames of usual size a call.
const BUFFER_BYTES: usize = 256 << 10;

/// A folder of segment files.
#[derive(Debug)]
pub struct LocalSegments {
    folder: PathBuf,
    open: Mutex<HashMap<SegmentId, Arc<SegmentFile>>>,
}

impl LocalSegments {
    /// Opens the folder, creating it when it is not there.
    pub fn open(folder: &Path) -> io::Result<LocalSegments> {
        std::fs::create_dir_all(folder)?;
        // Any of these may be new, and in the first a segment whose writer died before it synced
        // the name: segments in depot in DATA in the folder above it.
        for parent in folder.ancestors().take(4) {
            let parent = if parent.as_os_str().is_empty() {
                Path::new(".")
            } else {
                parent
            };
            match sync_folder(parent) {
                // A folder that we may not even open was not made by us.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                synced => synced?,
            }
        }
        Ok(LocalSegments {
            folder: folder.to_owned(),
            open: Mutex::new(HashMap::new()),
        })
    }

    fn path(&self, id: SegmentId) -> PathBuf {
        self.folder.join(format!("{id}.seg"))
    }

    fn kept_open(&self) -> MutexGuard<'_, HashMap<SegmentId, Arc<SegmentFile>>> {
        self.open
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    fn reader(&self, id: SegmentId) -> io::Result<Arc<SegmentFile>> {
        let mut open = self.kept_open();
        if let Some(file) = open.get(&id) {
            return Ok(file.clone());
        }
        let file = match File::open(self.path(id)) {
            // No descriptor is left: those that are kept for later are the first to go.
            Err(error) if error.raw_os_error() == Some(Errno::MFILE.raw_os_error()) => {
                open.clear();
                File::open(self.path(id))?
            }
            opened => opened?,
        };
        let file = Arc::new(SegmentFile::new(file));
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(id, file.clone());
        Ok(file)
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Segments for LocalSegments {
    fn list(&self) -> io::Result<Vec<(SegmentId, u64)>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
            if let Some(number) = number.and_then(|digits| digits.parse().ok()) {
                found.push((SegmentId(number), entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn append(&self, id: SegmentId, len: u64) -> io::Result<Box<dyn SegmentWriter>> {
        let path = self.path(id);
        let fresh = len == 0;
        let file = OpenOptions::new()
            .write(true)
            .create_new(fresh)
            .open(path)?;
        if file.metadata()?.len() < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        file.set_len(len)?;
        let folder = fresh.then(|| self.folder.clone());
        Ok(Box::new(LocalWriter {
            file,
            len,
            buffer: Vec::new(),
            unsynced_folder: folder,
        }))
    }

    fn read(&self, id: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.reader(id)?.read(offset, buf)
    }

    fn file(&self, id: SegmentId) -> io::Result<Option<Arc<SegmentFile>>> {
        self.reader(id).map(Some)
    }

    fn opened(&self, id: SegmentId) -> Option<Arc<SegmentFile>> {
        self.kept_open().get(&id).cloned()
    }

    fn remove(&self, id: SegmentId) -> io::Result<()> {
        self.kept_open().remove(&id);
        std::fs::remove_file(self.path(id))?;
        sync_folder(&self.folder)
    }

    fn space(&self) -> io::Result<Space> {
        let disk = rustix::fs::statvfs(&self.folder)?;
        Ok(Space {
            free_bytes: disk.f_bavail * disk.f_frsize,
            total_bytes: disk.f_blocks * disk.f_frsize,
        })
    }
}

struct LocalWriter {
    file: File,
    /// What the kernel has; the buffer comes behind it.
    len: u64,
    buffer: Vec<u8>,
    unsynced_folder: Option<PathBuf>,
}

impl SegmentWriter for LocalWriter {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.write_all(bytes)?;
        if self.buffer.len() >= BUFFER_BYTES {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.len)?;
        self.len += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file.sync_data()?;
        if let Some(folder) = &self.unsynced_folder {
            sync_folder(folder)?;
            self.unsynced_folder = None;
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if len >= self.len {
            self.buffer.truncate((len - self.len) as usize);
            return Ok(());
        }
        self.buffer.clear();
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_files_keeps_the_contract() {
        super::super::contract::suite(|| {
            let folder = tempfile::tempdir().expect("temporary folder").keep();
            Box::new(LocalSegments::open(&folder).expect("open"))
        });
    }

    #[test]
    fn strangers_in_the_folder_are_left_alone() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let segments = LocalSegments::open(folder.path()).expect("open");
        std::fs::write(folder.path().join("notes.txt"), "mine").expect("write");
        assert!(segments.list().expect("list").is_empty());
    }
}
