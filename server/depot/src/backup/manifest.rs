//! `backup.json`: what a backup holds, with lengths and hashes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{MANIFEST, sync_folder};
use crate::{Error, Result};

/// The version of the manifest's format.
const FORMAT: u32 = 1;

/// What a backup holds.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// When it was finished, in seconds since 1970; 0: not yet.
    pub unix_s: u64,
    /// The highest sequence number of a commit in it.
    pub last_seq: u64,
    /// Segments by number.
    pub segments: BTreeMap<u32, SegmentEntry>,
    /// All other files, by their path in the data folder.
    pub files: BTreeMap<String, FileEntry>,
}

/// A segment, as far as it was committed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// What each run added: where it ends, and BLAKE3 of its bytes.
    pub parts: Vec<(u64, String)>,
    /// Places that were damaged when they were copied.
    #[serde(default)]
    pub damaged: u64,
}

/// A small file.
#[derive(Debug, Serialize, Deserialize)]
pub struct FileEntry {
    pub bytes: u64,
    pub blake3: String,
    /// Permission bits.
    pub mode: u32,
}

impl SegmentEntry {
    pub fn len(&self) -> u64 {
        self.parts.last().map_or(0, |(end, _)| *end)
    }

    pub fn grow(&mut self, end: u64, blake3: String, damaged: u64) {
        self.parts.push((end, blake3));
        self.damaged += damaged;
    }
}

impl Manifest {
    /// The manifest in a backup.
    pub fn read(target: &Path) -> Result<Option<Manifest>> {
        let path = target.join(MANIFEST);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|e| Error::io(format!("reading {}", path.display()), e))?,
        };
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| {
            Error::refused(format!(
                "{} is no backup's manifest: {error}",
                path.display()
            ))
        })?;
        if manifest.format > FORMAT {
            let (path, format) = (path.display(), manifest.format);
            return Err(Error::refused(format!(
                "{path} has format {format}, written by a newer snowcached: use that one"
            )));
        }
        Ok(Some(manifest))
    }

    /// The manifest of the backup that is in `target`, or a new one when it is a new or an empty
    /// folder.
    pub fn of_target(data: &Path, target: &Path) -> Result<Manifest> {
        let shown = target.display();
        make_private(target)?;
        let inside = |inner: &Path, outer: &Path| {
            let resolved = |path: &Path| fs::canonicalize(path).ok();
            matches!((resolved(inner), resolved(outer)),
                (Some(inner), Some(outer)) if inner.starts_with(&outer))
        };
        if inside(target, data) || inside(data, target) {
            return Err(Error::refused(format!(
                "{shown} and the data folder are one in the other: a backup needs a folder of \
                 its own, on another disk if it can be"
            )));
        }
        if target.join("depot/index").exists() {
            return Err(Error::refused(format!(
                "{shown} has been served from and is a data folder now: back up into another one"
            )));
        }
        if let Some(manifest) = Manifest::read(target)? {
            return Ok(manifest);
        }
        let mut found = fs::read_dir(target)
            .map_err(|e| Error::io(format!("reading {shown}"), e))?
            .flatten();
        if found.any(|entry| entry.file_name() != "lock") {
            return Err(Error::refused(format!(
                "{shown} is neither empty nor a backup: name an empty or a new folder"
            )));
        }
        let manifest = Manifest {
            format: FORMAT,
            ..Manifest::default()
        };
        manifest.write(target)?;
        Ok(manifest)
    }

    /// Puts the manifest into a backup; it is durable when this returns.
    pub fn write(&self, target: &Path) -> Result<()> {
        let (path, aside) = (target.join(MANIFEST), target.join("backup.json.new"));
        let text = serde_json::to_vec_pretty(self)
            .expect("invariant: plain structures always become JSON");
        let write = || {
            let mut file = fs::File::create(&aside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&aside, &path)
        };
        write().map_err(|e| Error::io(format!("writing {}", path.display()), e))?;
        sync_folder(target)
    }
}

/// Makes the folder, which will hold keys and tokens, for its owner only.
fn make_private(target: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if target.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(target)
        .map_err(|e| Error::io(format!("creating {}", target.display()), e))
}
