//! Copying segments: appended to what the backup has, hashed on the way, synced at the end.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::manifest::SegmentEntry;
use super::{file_name, sync_folder};
use crate::scan::{WINDOW_BYTES, read_what_reads};
use crate::segments::{SegmentId, Segments};
use crate::{Error, Result};

/// Compared at both ends of what a backup has of a segment: the first record's sequence number
/// tells segments of one number apart.
const COMPARED_BYTES: u64 = 4096;

/// The segments' folder in a backup.
pub struct Target {
    folder: PathBuf,
    /// Files that were written and not synced yet.
    unsynced: Vec<File>,
}

/// Files written before they are synced: bounds the open descriptors.
const UNSYNCED_FILES: usize = 64;

impl Target {
    /// Opens the folder, creating it when it is not there.
    pub fn open(folder: &Path) -> Result<Target> {
        fs::create_dir_all(folder)
            .map_err(|e| Error::io(format!("creating {}", folder.display()), e))?;
        Ok(Target {
            folder: folder.to_owned(),
            unsynced: Vec::new(),
        })
    }

    /// Whether the backup has the first `len` bytes of this very segment.
    pub fn has(&self, source: &dyn Segments, id: SegmentId, len: u64) -> Result<bool> {
        let Ok(file) = File::open(self.folder.join(file_name(id.0))) else {
            return Ok(false);
        };
        let count = COMPARED_BYTES.min(len) as usize;
        let (mut here, mut there) = (vec![0; count], vec![0; count]);
        for at in [0, len - count as u64] {
            if file.read_exact_at(&mut here, at).is_err() {
                return Ok(false);
            }
            read_what_reads(source, id, at, &mut there)?;
            if here != there {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies the bytes from `from` to `end` of a segment behind the first `from` bytes of the
    /// backup's; returns their BLAKE3.
    pub fn append(
        &mut self,
        source: &dyn Segments,
        id: SegmentId,
        from: u64,
        end: u64,
    ) -> Result<String> {
        let path = self.folder.join(file_name(id.0));
        let failed = |e| Error::io(format!("writing {}", path.display()), e);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed)?;
        file.set_len(from).map_err(failed)?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; WINDOW_BYTES.min(end - from) as usize];
        let mut at = from;
        while at < end {
            let count = WINDOW_BYTES.min(end - at) as usize;
            let bytes = &mut buffer[..count];
            read_what_reads(source, id, at, bytes)?;
            hasher.update(bytes);
            file.write_all_at(bytes, at).map_err(failed)?;
            at += count as u64;
        }
        self.unsynced.push(file);
        if self.unsynced.len() >= UNSYNCED_FILES {
            self.sync()?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Makes all that was copied durable.
    pub fn sync(&mut self) -> Result<()> {
        for file in self.unsynced.drain(..) {
            file.sync_all()
                .map_err(|e| Error::io(format!("syncing {}", self.folder.display()), e))?;
        }
        for folder in self.folder.ancestors().take(3) {
            sync_folder(folder)?;
        }
        Ok(())
    }

    /// Removes segments that are not among these; how many.
    pub fn keep_only(&self, segments: &BTreeMap<u32, SegmentEntry>) -> Result<u64> {
        let mut removed = 0;
        for number in numbers(&self.folder)? {
            if !segments.contains_key(&number) {
                let path = self.folder.join(file_name(number));
                fs::remove_file(&path)
                    .map_err(|e| Error::io(format!("removing {}", path.display()), e))?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

/// The numbers of the segments in a folder.
pub fn numbers(folder: &Path) -> Result<Vec<u32>> {
    let failed = |e| Error::io(format!("reading {}", folder.display()), e);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        found.extend(number.and_then(|digits| digits.parse::<u32>().ok()));
    }
    Ok(found)
}
