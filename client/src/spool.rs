//! The spool: store paths that wait to be pushed, in a folder that outlives every process.
//!
//! ```text
//!   FOLDER/queued/<store path>  -> /nix/store/...   it waits, and Nix does not collect it
//!   FOLDER/failed/<store path>                      why it is not tried any more, as JSON
//!   FOLDER/lock                                     held for moments by whoever changes these
//!   FOLDER/queue.lock                               held by the queue for as long as it lives
//!   FOLDER/poke                                     its time: when somebody wanted a try at once
//!   FOLDER/state.json                               what the queue does, for `queue status`
//! ```
//! The link is the entry, and an indirect root of Nix's as well: making it queues the path, and
//! removing it lets go of it. So there is no log that could be torn, or could disagree with what
//! Nix keeps, and a path that is queued twice is queued once.
//!
//! Guarantees: [`Spool::add`] returns when the entries are on the disk. Whoever dies anywhere
//! leaves a path queued or not; one that was pushed and is queued still is found to be there.
//! Never: an entry taken out that was queued again since it was looked at.

mod lock;
pub mod roots;

use lock::exclusively;
pub use lock::{Reign, is_reigned};
use serde::{Deserialize, Serialize};
use snowcache_nix::StorePath;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The folder could not be worked with.
#[derive(Debug, Error)]
#[error("{}: {source}; --spool names another folder for what is queued", .path.display())]
pub struct SpoolError {
    path: PathBuf,
    source: io::Error,
}

/// A path that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The path.
    pub path: StorePath,
    /// Which link it was, so that a newer one is told from it: when it was made, in seconds and
    /// nanoseconds since 1970, and its inode.
    stamp: (i64, i64, u64),
}

impl Entry {
    /// When it was queued, in seconds since 1970.
    pub fn since_s(&self) -> u64 {
        u64::try_from(self.stamp.0).unwrap_or_default()
    }

    /// What sorts entries by when they were queued.
    pub fn age(&self) -> impl Ord + use<> {
        self.stamp
    }
}

/// A path that is not tried any more.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Failed {
    /// Its base name.
    pub path: String,
    /// Why not.
    pub why: String,
    /// When that was said, in seconds since 1970.
    pub since_s: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// Whether Nix still keeps it, for `queue retry`; false of one that is gone.
    pub held: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Spool {
    folder: PathBuf,
}

impl Spool {
    /// In this folder, which need not exist.
    ///
    /// # Errors
    /// When the folder that we are in is gone.
    pub fn at(folder: &Path) -> Result<Spool, SpoolError> {
        let folder = std::path::absolute(folder).map_err(at(folder))?;
        Ok(Spool { folder })
    }

    /// Where it is when nobody says otherwise: /var/lib/snowcache-queue for root, as whom the hook
    /// is run by a daemon.
    pub fn default_folder() -> PathBuf {
        crate::node::state_folder("snowcache-queue")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn queued(&self) -> PathBuf {
        self.folder.join("queued")
    }

    fn reasons(&self) -> PathBuf {
        self.folder.join("failed")
    }

    /// The link that keeps a path.
    pub fn link_of(&self, path: &StorePath) -> PathBuf {
        self.queued().join(path.to_string())
    }

    /// Queues paths, also such as are queued or have failed before: these are new again. On the
    /// disk when it returns, and roots of Nix's as far as that can be done without its daemon.
    ///
    /// # Errors
    /// When the folder cannot be written. That a path could not be made a root is no error: it is
    /// told which links these are.
    pub fn add(&self, paths: &[StorePath]) -> Result<Vec<PathBuf>, SpoolError> {
        let (queued, reasons) = (self.queued(), self.reasons());
        for folder in [&queued, &reasons] {
            create_durably(folder)?;
        }
        let mut had_failed = false;
        let links = exclusively(&self.folder, || {
            let links = paths.iter().map(|path| {
                let link = self.link_of(path);
                let fresh = queued.join(format!(".{}", std::process::id()));
                remove(&fresh)?;
                symlink(path.absolute(), &fresh).map_err(at(&fresh))?;
                fs::rename(&fresh, &link).map_err(at(&link))?;
                had_failed |= remove(&reasons.join(path.to_string()))?;
                Ok(link)
            });
            links.collect::<Result<Vec<PathBuf>, SpoolError>>()
        })?;
        let unrooted = roots::hold_directly(&links);
        if had_failed {
            sync(&reasons)?; // or the power brings back that it has failed
        }
        sync(&queued)?;
        Ok(unrooted)
    }

    /// What waits and has not failed, the oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn waiting(&self) -> Result<Vec<Entry>, SpoolError> {
        let mut entries = Vec::new();
        for path in paths_in(&self.queued())? {
            let failed = self.reasons().join(path.to_string());
            if let Some(stamp) = self.stamp(&path)?
                && !failed.exists()
            {
                entries.push(Entry { path, stamp });
            }
        }
        entries.sort_unstable_by(|one, other| {
            let order = one.stamp.cmp(&other.stamp);
            order.then_with(|| one.path.cmp(&other.path))
        });
        Ok(entries)
    }

    /// What has failed, in the order of its names.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn failed(&self) -> Result<Vec<Failed>, SpoolError> {
        let mut all = Vec::new();
        for path in paths_in(&self.reasons())? {
            let file = self.reasons().join(path.to_string());
            let text = match fs::read(&file) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                text => text.map_err(at(&file))?,
            };
            let unread = |_| Failed {
                path: path.to_string(),
                why: "the reason was lost with the power".to_owned(),
                since_s: 0,
                attempts: 0,
                held: false,
            };
            let mut failed: Failed = serde_json::from_slice(&text).unwrap_or_else(unread);
            failed.held = self.stamp(&path)?.is_some();
            all.push(failed);
        }
        all.sort_unstable_by(|one, other| one.path.cmp(&other.path));
        Ok(all)
    }

    /// These need not wait any more: they were pushed, and may be collected.
    ///
    /// # Errors
    /// When the folder cannot be written; some of them may wait still.
    pub fn done(&self, entries: &[Entry]) -> Result<(), SpoolError> {
        exclusively(&self.folder, || {
            for entry in self.unchanged(entries) {
                remove(&self.link_of(&entry.path))?;
            }
            Ok(())
        })
    }

    /// This one is not tried any more; it is kept from being collected if it is to be `held`.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn give_up(&self, entry: &Entry, failed: &Failed) -> Result<(), SpoolError> {
        exclusively(&self.folder, || {
            if self.unchanged(std::slice::from_ref(entry)).is_empty() {
                return Ok(()); // queued anew: it may be there again
            }
            let file = self.reasons().join(&failed.path);
            replace(&file, &serde_json::to_vec(failed).unwrap_or_default())?;
            match failed.held {
                true => Ok(()),
                false => remove(&self.link_of(&entry.path)).map(drop),
            }
        })
    }

    /// Takes the reason away that lies behind these paths, and the link, too, if they are not to be
    /// held any more.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn forget(&self, paths: &[StorePath]) -> Result<(), SpoolError> {
        exclusively(&self.folder, || {
            for path in paths {
                remove(&self.link_of(path))?;
                remove(&self.reasons().join(path.to_string()))?;
            }
            Ok(())
        })
    }

    /// Asks the queue to try at once what it would try later.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn poke(&self) -> Result<(), SpoolError> {
        exclusively(&self.folder, || replace(&self.folder.join("poke"), b""))
    }

    /// Something that another poke changes.
    pub fn poked(&self) -> Option<(i64, i64, u64)> {
        stamp(&self.folder.join("poke")).ok().flatten()
    }

    /// Those that are still what was looked at.
    fn unchanged<'a>(&self, entries: &'a [Entry]) -> Vec<&'a Entry> {
        let same =
            |entry: &&Entry| matches!(self.stamp(&entry.path), Ok(Some(it)) if it == entry.stamp);
        entries.iter().filter(same).collect()
    }

    fn stamp(&self, path: &StorePath) -> Result<Option<(i64, i64, u64)>, SpoolError> {
        let link = self.link_of(path);
        stamp(&link).map_err(at(&link))
    }
}

fn stamp(file: &Path) -> io::Result<Option<(i64, i64, u64)>> {
    match fs::symlink_metadata(file) {
        Ok(about) => Ok(Some((about.mtime(), about.mtime_nsec(), about.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The store paths that files of a folder are named after. There is no folder before the first.
fn paths_in(folder: &Path) -> Result<Vec<StorePath>, SpoolError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let name = entry.map_err(at(folder))?.file_name();
        paths.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(paths)
}

/// Writes a file so that there is always the old one or the new one.
///
/// # Errors
/// When it cannot be written.
pub fn replace(file: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
    let mut name = std::ffi::OsString::from(".");
    name.push(file.file_name().unwrap_or_default());
    let fresh = file.with_file_name(name);
    let written = fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, file));
    written.map_err(at(file))
}

/// Whether it was there.
fn remove(file: &Path) -> Result<bool, SpoolError> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(file)(error)),
    }
}

/// Makes a folder, and those above it, so that the power does not take what will be in it.
fn create_durably(folder: &Path) -> Result<(), SpoolError> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new("/"));
    create_durably(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(folder)(error)),
        _ => sync(above),
    }
}

fn sync(folder: &Path) -> Result<(), SpoolError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(at(folder))
}

fn at(path: &Path) -> impl Fn(io::Error) -> SpoolError {
    move |source| SpoolError {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
