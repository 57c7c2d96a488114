//! Names of caches, and the index's keys.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snowcache_nix::{NarHash, StoreHash};

use crate::{Error, Result};

/// The longest name of a cache, in bytes: it is a path segment of every URL.
pub const MAX_CACHE_NAME_BYTES: usize = 64;

/// The name of one cache of the depot: lower-case letters, digits and dashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheName(Box<str>);

impl CacheName {
    /// The cache that is served at `/`.
    pub fn default_cache() -> CacheName {
        CacheName("default".into())
    }

    /// Whether it is the one at `/`.
    pub fn is_default(&self) -> bool {
        *self.0 == *"default"
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The index key of `rest` within this cache.
    pub(crate) fn key(&self, rest: &[u8]) -> Vec<u8> {
        [self.0.as_bytes(), &[0], rest].concat()
    }

    /// What `action` makes of the key of a path, which takes no memory of its own.
    pub(crate) fn with_path_key<T>(&self, hash: &StoreHash, action: impl FnOnce(&[u8]) -> T) -> T {
        let mut key = [0; MAX_CACHE_NAME_BYTES + 1 + 20];
        let (name, hash) = (self.0.as_bytes(), hash.as_bytes());
        let len = name.len() + 1 + hash.len();
        key[..name.len()].copy_from_slice(name);
        key[name.len() + 1..len].copy_from_slice(hash);
        action(&key[..len])
    }

    pub(crate) fn path_key(&self, hash: &StoreHash) -> Vec<u8> {
        self.key(hash.as_bytes())
    }

    pub(crate) fn nar_key(&self, hash: &NarHash) -> Vec<u8> {
        self.key(hash.as_bytes())
    }
}

impl FromStr for CacheName {
    type Err = Error;

    fn from_str(name: &str) -> Result<CacheName> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > MAX_CACHE_NAME_BYTES || !name.bytes().all(good) {
            return Err(Error::refused(format!(
                "{name:?} is no name of a cache: use 1 to {MAX_CACHE_NAME_BYTES} of a-z, 0-9 and -"
            )));
        }
        Ok(CacheName(name.into()))
    }
}

impl TryFrom<String> for CacheName {
    type Error = Error;

    fn try_from(name: String) -> Result<CacheName> {
        name.parse()
    }
}

impl From<CacheName> for String {
    fn from(name: CacheName) -> String {
        name.0.into()
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        assert_eq!(
            "team-a1".parse::<CacheName>().expect("good").as_str(),
            "team-a1"
        );
        for bad in ["", "Team", "a/b", "a\0b", "ü", &"x".repeat(65)] {
            let error = bad.parse::<CacheName>().expect_err(bad).to_string();
            assert!(error.contains("use 1 to 64"), "{error}");
        }
    }

    #[test]
    fn a_path_s_key_is_the_same_in_memory_of_its_own_or_not() {
        let hash = StoreHash::from_bytes([7; 20]);
        for name in ["a", "default", &"x".repeat(MAX_CACHE_NAME_BYTES)] {
            let cache: CacheName = name.parse().expect("good");
            let key = cache.path_key(&hash);
            assert!(cache.with_path_key(&hash, |same| same == key));
        }
    }

    #[test]
    fn one_cache_s_keys_never_start_like_another_s() {
        let (a, ab): (CacheName, CacheName) =
            ("a".parse().expect("good"), "ab".parse().expect("good"));
        assert!(!ab.key(b"").starts_with(&a.key(b"")));
    }
}
