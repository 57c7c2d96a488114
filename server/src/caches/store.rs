//! Caches on the disk: each a folder that appears and disappears as a whole.
//!
//! Guarantees: see [`super`]. Whatever is renamed was synced before; what is refused is undone.

use super::name::{Name, NameError};
use super::{MAX_CACHES, Named, Settings};
use crate::files::{SECRET, sync_parent, write_durably};
use crate::first_start::{FirstStartError, hostname, signing_keys};
use crate::observe::with_causes;
use serde::{Deserialize, Serialize};
use snowcache_depot::CacheName;
use snowcache_nix::SecretKey;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where deleted caches are.
const DELETED: &str = ".deleted";
/// What is decided about a cache.
const ABOUT: &str = "cache.json";
/// A cache that is being made.
const UNFINISHED: &str = "new";

/// Why a cache could not be made, changed, deleted or read.
#[derive(Debug, Error)]
pub enum CachesError {
    /// A file.
    #[error("{}: cannot be read or written", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its keys.
    #[error(transparent)]
    Keys(FirstStartError),
    /// A name that no key can have.
    #[error("{0:?} cannot be a key's name (no colons, spaces, slashes); take another key_name")]
    KeyName(String),
    /// A name that another key has.
    #[error(
        "a cache of this server has a key that is called {0:?}, and Nix believes one key of a \
         name: take another key_name"
    )]
    KeyTaken(String),
    /// A folder that no cache can have.
    #[error("{}: {source}; move the folder out of caches/", path.display())]
    Folder {
        /// Which one.
        path: PathBuf,
        /// What is wrong with its name.
        source: NameError,
    },
    /// There is none.
    #[error("there is no cache {0:?} on this server: `snowcache cache list` shows them")]
    Unknown(String),
    /// There is one.
    #[error("there is a cache {0} already: change it with `snowcache cache set`")]
    Exists(Name),
    /// It is not new.
    #[error(
        "key_name is for a new cache: this one has its keys, docs/caches.md says how to rotate"
    )]
    HasKeys,
    /// There are too many.
    #[error("there are {MAX_CACHES} named caches, the most of a server: delete one first")]
    TooMany,
}

/// As its file has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    /// In the depot.
    pub cache: CacheName,
    pub created: u64,
    pub by: String,
    #[serde(flatten)]
    pub settings: Settings,
}

/// A cache as its folder has it.
pub(super) struct Stored {
    pub name: Name,
    pub kept: Kept,
    pub keys: Vec<SecretKey>,
}

/// All caches of `folder`, which is made where it is not there.
pub(super) fn read_all(folder: &Path) -> Result<Vec<Stored>, CachesError> {
    let deleted = folder.join(DELETED);
    fs::create_dir_all(&deleted).map_err(failed(&deleted))?;
    sync_parent(&deleted).map_err(failed(&deleted))?;
    sync_parent(folder).map_err(failed(folder))?;
    let mut stored = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        if path.ends_with(DELETED) {
            continue;
        }
        if path
            .extension()
            .is_some_and(|extension| extension == UNFINISHED)
        {
            fs::remove_dir_all(&path).map_err(failed(&path))?;
            continue;
        }
        let cache = read(&path)?;
        // A backup into a folder with an older one has both.
        if deleted.join(cache.kept.cache.as_str()).exists() {
            fs::remove_dir_all(&path).map_err(failed(&path))?;
            continue;
        }
        stored.push(cache);
    }
    for entry in fs::read_dir(&deleted).map_err(failed(&deleted))? {
        let keys = entry.map_err(failed(&deleted))?.path().join("keys");
        remove_if_there(&keys)?;
    }
    Ok(stored)
}

fn read(path: &Path) -> Result<Stored, CachesError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let name = name.parse().map_err(|source| CachesError::Folder {
        path: path.to_owned(),
        source,
    })?;
    let about = path.join(ABOUT);
    let kept = || -> io::Result<Kept> { Ok(serde_json::from_slice(&fs::read(&about)?)?) };
    let kept = kept().map_err(failed(&about))?;
    let keys = signing_keys(&path.join("keys"), &key_name(&kept.cache)).map_err(of_keys)?;
    Ok(Stored { name, kept, keys })
}

/// Makes a new one.
pub(super) fn make(
    folder: &Path,
    name: &Name,
    settings: Settings,
    key: &str,
    by: &str,
    now: u64,
) -> Result<Stored, CachesError> {
    let mut now = now;
    while folder
        .join(DELETED)
        .join(name.in_depot(now).as_str())
        .exists()
    {
        now += 1;
    }
    let kept = Kept {
        cache: name.in_depot(now),
        created: now,
        by: by.to_owned(),
        settings,
    };
    let unfinished = folder.join(format!("{name}.{UNFINISHED}"));
    remove_if_there(&unfinished)?;
    fs::create_dir(&unfinished).map_err(failed(&unfinished))?;
    let default = key_name(&kept.cache);
    let key = if key.is_empty() { &default } else { key };
    let keys = signing_keys(&unfinished.join("keys"), key).map_err(of_keys)?;
    write(&unfinished, &kept)?;
    sync(&unfinished)?;
    let path = folder.join(name.as_str());
    rename_durably(&unfinished, &path)?;
    let name = name.clone();
    Ok(Stored { name, kept, keys })
}

/// Writes down what is decided about a cache now.
pub(super) fn change(
    folder: &Path,
    have: &Named,
    settings: Settings,
) -> Result<Stored, CachesError> {
    let kept = Kept {
        cache: have.cache.clone(),
        created: have.created,
        by: have.by.clone(),
        settings,
    };
    let path = folder.join(have.name.as_str());
    write(&path, &kept).inspect_err(|_| {
        let settings = have.settings.clone();
        let before = write(
            &path,
            &Kept {
                settings,
                ..kept.clone()
            },
        );
        told(&path, before);
    })?;
    Ok(Stored {
        name: have.name.clone(),
        kept,
        keys: have.keys.clone(),
    })
}

/// Deletes a cache: what is left says whose paths may go.
pub(super) fn delete(folder: &Path, named: &Named) -> Result<(), CachesError> {
    let path = folder.join(named.name.as_str());
    let deleted = folder.join(DELETED).join(named.cache.as_str());
    rename_durably(&path, &deleted)?;
    // It is deleted; a start removes what could not be removed now.
    if let Err(error) = remove_if_there(&deleted.join("keys")) {
        tracing::warn!(%error, "the keys of a deleted cache are still there");
    }
    Ok(())
}

/// What deleted caches were called in the depot.
pub(super) fn deleted(folder: &Path) -> Result<Vec<CacheName>, CachesError> {
    let folder = folder.join(DELETED);
    let mut deleted = Vec::new();
    for entry in fs::read_dir(&folder).map_err(failed(&folder))? {
        let name = entry.map_err(failed(&folder))?.file_name();
        match name.to_string_lossy().parse() {
            Ok(cache) => deleted.push(cache),
            Err(_) => tracing::warn!(?name, "no deleted cache, but beside them"),
        }
    }
    Ok(deleted)
}

/// Nothing is left of a deleted cache.
pub(super) fn forget(folder: &Path, cache: &CacheName) -> Result<(), CachesError> {
    let path = folder.join(DELETED).join(cache.as_str());
    remove_if_there(&path)?;
    sync_parent(&path).map_err(failed(&path))
}

/// Renames a folder; where it cannot be made durable it is called as it was.
fn rename_durably(from: &Path, to: &Path) -> Result<(), CachesError> {
    fs::rename(from, to).map_err(failed(to))?;
    let synced = sync_parent(to).and_then(|()| sync_parent(from));
    synced.map_err(failed(to)).inspect_err(|_| {
        let back = fs::rename(to, from);
        told(from, back.map_err(failed(from)));
    })
}

/// Tells of what was refused and could not be undone: a start may find it done.
fn told(path: &Path, undone: Result<(), CachesError>) {
    if let Err(error) = undone {
        let (path, why) = (path.display(), with_causes(&error));
        tracing::error!(%path, why, "what was refused may be done at the next start");
    }
}

fn write(path: &Path, kept: &Kept) -> Result<(), CachesError> {
    let json = serde_json::to_vec(kept);
    let mut json = json.expect("invariant: plain structures always become JSON");
    json.push(b'\n');
    let about = path.join(ABOUT);
    write_durably(&about, &json, SECRET).map_err(failed(&about))
}

/// What a cache's key is called: caches, and those made anew under one name, have different ones.
fn key_name(cache: &CacheName) -> String {
    format!("{}-{cache}-1", hostname())
}

fn sync(path: &Path) -> Result<(), CachesError> {
    let sync = || File::open(path)?.sync_all();
    sync().map_err(failed(path))
}

fn remove_if_there(path: &Path) -> Result<(), CachesError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

fn of_keys(error: FirstStartError) -> CachesError {
    match error {
        FirstStartError::KeyName { name } => CachesError::KeyName(name),
        error => CachesError::Keys(error),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CachesError {
    let path = path.to_owned();
    |source| CachesError::File { path, source }
}
