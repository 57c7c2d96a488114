//! The named caches: which there are, what each is called in the depot, and its keys.
//!
//! ```text
//!   DATA/caches/<name>/cache.json      what it is                    0600
//!   DATA/caches/<name>/keys/*.sec      its signing keys              0600   every one signs
//!   DATA/caches/<name>/keys/*.pub      their public halves           0644
//!   DATA/caches/.deleted/<in the depot>/    what was deleted; its paths go
//!
//!   made      <name>.new/ --all of it written and synced--> renamed to <name>/
//!   deleted   <name>/ --renamed--> .deleted/<in the depot>/ --> its keys are removed
//! ```
//! The files are the truth, as they are of tokens: a lost index loses no cache. In the depot a
//! cache has the time of its making behind its name, so that one made anew under a name that
//! was deleted shows nothing of the old one.
//!
//! Guarantees: a cache that was answered is durable, and whole or absent after a crash; so is a
//! deletion. Never: a secret key in an error; a cache that is neither here nor deleted by command
//! taken for one whose paths may go.

mod name;
mod store;

pub use name::{MAX_NAME_BYTES, Name, NameError, title};
pub use store::CachesError;

use crate::clock::now_unix_s;
use serde::{Deserialize, Deserializer, Serialize};
use snowcache_depot::{CacheName, Policy, Stay};
use snowcache_nix::SecretKey;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// Named caches of one server: each that is asked for holds its routes (66 KB), and four series of
/// Prometheus': 17 MB and 1,024 series.
pub const MAX_CACHES: usize = 256;

/// What the cache at `/` is called here; named ones count from 1.
pub const DEFAULT_NUMBER: u32 = 0;

/// What an operator decides about a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Whether reading takes no token.
    pub public: bool,
    /// As nix-cache-info says it; the lower one is asked first.
    pub priority: u32,
    /// How long a path stays in any case after it was last put or asked for; None: as
    /// `retention.grace_s` says.
    #[serde(default)]
    pub grace_s: Option<u64>,
    /// After which a path goes that was neither put nor asked for and that no pin keeps; 0: never
    /// by age; None: as `retention.max_age_s` says.
    #[serde(default)]
    pub max_age_s: Option<u64>,
    /// Bytes of NARs, unpacked, of its visible paths; None: as many as there is room for.
    #[serde(default)]
    pub quota_bytes: Option<u64>,
}

impl Settings {
    /// What stays of the cache, where `policy` says it of all others.
    fn stay(&self, policy: &Policy) -> Stay {
        let max_age_s = match self.max_age_s {
            None => policy.max_age_s,
            Some(seconds) => (seconds > 0).then_some(seconds),
        };
        Stay::For {
            grace_s: self.grace_s.unwrap_or(policy.grace_s),
            max_age_s,
        }
    }
}

/// What of it is to change; the rest stays, or is the default where the cache is new.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// See [`Settings`]; a new cache is private.
    pub public: Option<bool>,
    /// See [`Settings`]; a new cache has that of the cache at `/`.
    pub priority: Option<u32>,
    /// See [`Settings`]; `null`: none of its own.
    #[serde(default, deserialize_with = "said")]
    pub grace_s: Option<Option<u64>>,
    /// The same.
    #[serde(default, deserialize_with = "said")]
    pub max_age_s: Option<Option<u64>>,
    /// The same.
    #[serde(default, deserialize_with = "said")]
    pub quota_bytes: Option<Option<u64>>,
    /// The name of a new cache's key; empty: `<host>-<name>-<time>-1`.
    pub key_name: Option<String>,
}

/// `null` is said, too.
fn said<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(from).map(Some)
}

impl Change {
    /// What is decided then.
    fn made(&self, have: Option<&Settings>, default_priority: u32) -> Settings {
        let new = Settings {
            public: false,
            priority: default_priority,
            grace_s: None,
            max_age_s: None,
            quota_bytes: None,
        };
        let have = have.unwrap_or(&new);
        Settings {
            public: self.public.unwrap_or(have.public),
            priority: self.priority.unwrap_or(have.priority),
            grace_s: self.grace_s.unwrap_or(have.grace_s),
            max_age_s: self.max_age_s.unwrap_or(have.max_age_s),
            quota_bytes: self.quota_bytes.unwrap_or(have.quota_bytes),
        }
    }
}

/// A named cache, as it is.
pub struct Named {
    /// In URLs.
    pub name: Name,
    /// In the depot.
    pub cache: CacheName,
    /// In memory: no two caches have the same since the start.
    pub number: u32,
    /// What was decided about it.
    pub settings: Settings,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Who made it.
    pub by: String,
    /// All of these sign.
    pub keys: Vec<SecretKey>,
    /// Asked of it since the start.
    pub requests: Arc<AtomicU64>,
}

/// What whoever changes a cache takes to be there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// None of this name.
    Nothing,
    /// One of this name.
    Something,
    /// Either.
    Anything,
}

/// All of them.
pub struct Caches {
    folder: PathBuf,
    named: RwLock<HashMap<Name, Arc<Named>>>,
    /// Whether there is any: most servers have none, and ask no further.
    any: AtomicBool,
    next_number: AtomicU32,
    /// What the keys of the cache at `/` are called.
    root_keys: Vec<String>,
    /// Whose paths are to go.
    deleted: Mutex<Vec<CacheName>>,
    /// Held by whoever changes files.
    writing: Mutex<()>,
}

impl Caches {
    /// Those of a data folder; what a crash left half made or half deleted is tidied up.
    ///
    /// # Errors
    /// What cannot be read: a cache is served whole, or the server does not start.
    pub fn open(data: &Path) -> Result<Caches, CachesError> {
        let caches = Caches {
            folder: data.join("caches"),
            named: RwLock::default(),
            any: AtomicBool::new(false),
            next_number: AtomicU32::new(DEFAULT_NUMBER + 1),
            root_keys: Vec::new(),
            deleted: Mutex::default(),
            writing: Mutex::new(()),
        };
        for stored in store::read_all(&caches.folder)? {
            caches.insert(stored, None);
        }
        *caches.deleted() = store::deleted(&caches.folder)?;
        Ok(caches)
    }

    /// These, beside a cache at `/` with these keys.
    pub fn beside(mut self, root_keys: &[SecretKey]) -> Caches {
        self.root_keys = names(root_keys).map(str::to_owned).collect();
        self
    }

    /// Whether a key of any cache of this server is called so: Nix believes one key of a name.
    fn has_key(&self, key_name: &str) -> bool {
        let is_named = |cache: &Arc<Named>| names(&cache.keys).any(|name| name == key_name);
        self.root_keys.iter().any(|name| name == key_name) || self.list().iter().any(is_named)
    }

    /// What collections go by, where `policy` is that of the cache at `/`.
    pub fn policy(&self, policy: &Policy) -> Policy {
        let named = self.list();
        let named = named
            .iter()
            .map(|it| (it.cache.clone(), it.settings.stay(policy)));
        let deleted = self.deleted().clone();
        let deleted = deleted.into_iter().map(|cache| (cache, Stay::Nothing));
        Policy {
            caches: named.chain(deleted).collect(),
            ..policy.clone()
        }
    }

    /// Forgets those of the deleted caches of which nothing is left.
    ///
    /// # Errors
    /// What `is_gone` says; a folder that cannot be removed.
    pub fn forget_gone<E: From<CachesError>>(
        &self,
        is_gone: impl Fn(&CacheName) -> Result<bool, E>,
    ) -> Result<(), E> {
        // Not in the loop's head, where the lock would be held throughout.
        let deleted = self.deleted().clone();
        for cache in deleted {
            if is_gone(&cache)? {
                store::forget(&self.folder, &cache)?;
                self.deleted().retain(|it| *it != cache);
                tracing::info!(%cache, "nothing is left of a deleted cache");
            }
        }
        Ok(())
    }

    fn deleted(&self) -> MutexGuard<'_, Vec<CacheName>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is any.
    pub fn are_there(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The cache of this name.
    pub fn find(&self, name: &str) -> Option<Arc<Named>> {
        if !self.are_there() {
            return None;
        }
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        named.get(name).cloned()
    }

    /// The cache that a URL's path is of, and where in the path that is said to the end.
    pub fn of_path(&self, path: &str) -> Option<(Arc<Named>, usize)> {
        if !self.are_there() {
            return None;
        }
        let rest = path.strip_prefix('/')?;
        let name = rest.split_once('/').map_or(rest, |(name, _)| name);
        Some((self.find(name)?, 1 + name.len()))
    }

    /// What a cache is called in the depot; `default` is the one at `/`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn in_depot(&self, name: &str) -> Result<CacheName, CachesError> {
        let default = CacheName::default_cache();
        match (name == default.as_str(), self.find(name)) {
            (true, _) => Ok(default),
            (_, Some(named)) => Ok(named.cache.clone()),
            (_, None) => Err(CachesError::Unknown(name.chars().take(64).collect())),
        }
    }

    /// All, by name.
    pub fn list(&self) -> Vec<Arc<Named>> {
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<Arc<Named>> = named.values().cloned().collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }

    /// Makes a cache, or changes what is decided about it; it is durable when this returns. Of a
    /// new one `default_priority` is taken where none is said.
    ///
    /// # Errors
    /// It is not as `before` takes it to be, there are too many, its key's name is taken, or it
    /// cannot be written.
    pub fn put(
        &self,
        name: &Name,
        change: &Change,
        before: Before,
        default_priority: u32,
        by: &str,
    ) -> Result<Arc<Named>, CachesError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let have = self.find(name.as_str());
        match (&have, before) {
            (Some(_), Before::Nothing) => return Err(CachesError::Exists(name.clone())),
            (None, Before::Something) => return Err(CachesError::Unknown(name.to_string())),
            (Some(_), _) if change.key_name.is_some() => return Err(CachesError::HasKeys),
            (None, _) if self.list().len() >= MAX_CACHES => return Err(CachesError::TooMany),
            _ => {}
        }
        let settings = change.made(have.as_deref().map(|it| &it.settings), default_priority);
        let stored = match &have {
            Some(have) => store::change(&self.folder, have, settings)?,
            None => {
                let key_name = change.key_name.as_deref().unwrap_or_default();
                if self.has_key(key_name) {
                    return Err(CachesError::KeyTaken(key_name.to_owned()));
                }
                store::make(&self.folder, name, settings, key_name, by, now_unix_s())?
            }
        };
        Ok(self.insert(stored, have.as_deref()))
    }

    /// Deletes a cache: nobody is answered from it any more, and its paths go. None where there is
    /// none of this name.
    ///
    /// # Errors
    /// The disk's: then it is still there.
    pub fn delete(&self, name: &Name) -> Result<Option<Arc<Named>>, CachesError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(named) = self.find(name.as_str()) else {
            return Ok(None);
        };
        store::delete(&self.folder, &named)?;
        self.deleted().push(named.cache.clone());
        let mut all = self.named.write().unwrap_or_else(PoisonError::into_inner);
        all.remove(name);
        self.any.store(!all.is_empty(), Ordering::Release);
        Ok(Some(named))
    }

    fn insert(&self, stored: store::Stored, before: Option<&Named>) -> Arc<Named> {
        let next = || self.next_number.fetch_add(1, Ordering::Relaxed);
        let named = Arc::new(Named {
            name: stored.name,
            cache: stored.kept.cache,
            number: before.map_or_else(next, |it| it.number),
            requests: before.map(|it| it.requests.clone()).unwrap_or_default(),
            settings: stored.kept.settings,
            created: stored.kept.created,
            by: stored.kept.by,
            keys: stored.keys,
        });
        let mut all = self.named.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(named.name.clone(), named.clone());
        self.any.store(true, Ordering::Release);
        named
    }
}

fn names(keys: &[SecretKey]) -> impl Iterator<Item = &str> {
    keys.iter().map(SecretKey::name)
}

#[cfg(test)]
#[path = "caches/tests.rs"]
mod tests;
