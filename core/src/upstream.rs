//! References that a cache does not have itself, because an upstream does: how that is proven, and
//! how it is noted.
//!
//! ```text
//!   commit of P:   P's record, and of each reference left out its record with the upstream's Sig
//!   Vouched:       reference -> key, where the signature is right; nobody is asked
//!   narinfo of P:  References: x y z
//!                  Upstream: y@cache.nixos.org-1 z@cache.nixos.org-1
//! ```
//! A line that no Nix knows, and that each passes over; it stays with the path's record, so that
//! the path and the proof that it may refer to what is not here live and go together.
//!
//! Guarantees: a [`Vouched`] names paths only of which a key that was passed in signed all facts.
//! Never: a line believed that came from outside; see [`note`].

use snowcache_nix::narinfo::MAX_UNKNOWN_FIELDS;
use snowcache_nix::{PathInfo, PublicKey, StorePath, fingerprint};
use std::collections::BTreeMap;
use thiserror::Error;

/// The name of the line.
pub const FIELD: &str = "Upstream";

/// The key of cache.nixos.org, which most closures end at.
pub const NIXOS_KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Keys as nix.conf's `trusted-public-keys` has them: separated by spaces.
///
/// # Errors
/// The first that is none.
pub fn keys(text: &str) -> Result<Vec<PublicKey>, snowcache_nix::KeyError> {
    text.split_whitespace().map(str::parse).collect()
}

/// The first of `keys` that signed what is said of a path.
pub fn signed_by<'a>(info: &PathInfo, keys: &'a [PublicKey]) -> Option<&'a PublicKey> {
    let signatures = &info.signatures;
    let is_named = |key: &&PublicKey| signatures.iter().any(|it| it.key_name() == key.name());
    let mut named = keys.iter().filter(is_named).peekable();
    named.peek()?; // most paths have none: no need for the message
    let message = fingerprint(info);
    named.find(|key| signatures.iter().any(|it| key.verify(&message, it)))
}

/// Paths that upstreams vouch for, each with the name of the key.
#[derive(Clone, Debug, Default)]
pub struct Vouched(BTreeMap<StorePath, String>);

/// Nobody vouches for it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{path} is not signed by an upstream of this cache ({upstreams}): push it with its NAR, or \
     with the signature that it has there"
)]
pub struct NotVouched {
    /// The path.
    pub path: StorePath,
    /// The names of the keys.
    pub upstreams: String,
}

impl Vouched {
    /// Adds a path, if one of `keys` signed what is said of it.
    ///
    /// # Errors
    /// [`NotVouched`] where none did.
    pub fn add(&mut self, info: &PathInfo, keys: &[PublicKey]) -> Result<(), NotVouched> {
        let path = info.store_path.clone();
        match signed_by(info, keys) {
            Some(key) => {
                self.0.insert(path, key.name().to_owned());
                Ok(())
            }
            None => {
                let names: Vec<&str> = keys.iter().map(PublicKey::name).collect();
                let upstreams = match names.is_empty() {
                    true => "it has none".to_owned(),
                    false => names.join(", "),
                };
                Err(NotVouched { path, upstreams })
            }
        }
    }

    /// The name of the key by which this very path, name and all, is vouched for.
    pub fn by(&self, path: &StorePath) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }
}

/// The line of a path, without its name.
pub fn line(info: &PathInfo) -> Option<&str> {
    let line = info.unknown.iter().find(|(name, _)| name == FIELD)?;
    Some(&line.1)
}

/// What stands in the line of a path that was read from a cache: each reference that is elsewhere,
/// with the name of the key that vouches for it.
pub fn noted(info: &PathInfo) -> BTreeMap<&str, &str> {
    let words = line(info).unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.split_once('@')).collect()
}

/// Writes the line: these references, each with its key, and whatever the line said before is
/// forgotten. False: there is no room for one more line that Nix does not know.
#[must_use]
pub fn note(info: &mut PathInfo, elsewhere: &[(StorePath, String)]) -> bool {
    info.unknown.retain(|(name, _)| name != FIELD);
    if elsewhere.is_empty() {
        return true;
    }
    if info.unknown.len() >= MAX_UNKNOWN_FIELDS {
        return false;
    }
    let words = elsewhere.iter().map(|(path, key)| format!("{path}@{key}"));
    let words = words.collect::<Vec<_>>().join(" ");
    info.unknown.push((FIELD.to_owned(), words));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use snowcache_nix::SecretKey;

    fn info(name: &str) -> PathInfo {
        let record = format!(
            "StorePath: /nix/store/{}-{name}\nNarHash: sha256:{}\nNarSize: 120\nReferences: \n",
            "0".repeat(32),
            "0".repeat(52)
        );
        PathInfo::from_record(&record).expect("a record")
    }

    fn signed(name: &str, by: &SecretKey) -> PathInfo {
        let mut info = info(name);
        info.add_signature(by.sign(&fingerprint(&info)));
        info
    }

    #[test]
    fn only_what_an_upstream_signed_is_vouched_for() {
        let key = |name: &str, seed| SecretKey::generate(name, [seed; 32]).expect("a name");
        let (upstream, stranger) = (key("upstream-1", 1), key("stranger-1", 2));
        let (pretender, keys) = (key("upstream-1", 3), [upstream.public()]);
        let mut vouched = Vouched::default();
        let good = signed("good", &upstream);
        assert_eq!(vouched.add(&good, &keys), Ok(()));
        assert_eq!(vouched.by(&good.store_path), Some("upstream-1"));
        let mut changed = good.clone();
        changed.nar_size += 1;
        let mut renamed = good.clone();
        renamed.store_path = info("other").store_path;
        let bad = [
            info("unsigned"),
            signed("a", &stranger),
            signed("b", &pretender),
            changed,
            renamed,
        ];
        let mut none = Vouched::default();
        for bad in bad {
            assert!(none.add(&bad, &keys).is_err(), "{}", bad.store_path);
            assert_eq!(none.by(&bad.store_path), None);
        }
        assert!(none.add(&good, &[]).is_err(), "without upstreams");
    }

    #[test]
    fn a_line_is_written_read_and_never_taken_over() {
        let mut path = info("path");
        let forged = "x@somebody".to_owned();
        path.unknown.push((FIELD.to_owned(), forged));
        path.unknown.push(("System".to_owned(), "x".to_owned()));
        let other = info("other").store_path;
        assert!(note(&mut path, &[(other.clone(), "key-1".to_owned())]));
        let again = PathInfo::from_record(&path.to_record()).expect("still a record");
        let name = other.to_string();
        assert_eq!(noted(&again), BTreeMap::from([(name.as_str(), "key-1")]));
        assert!(note(&mut path, &[]));
        assert!(noted(&path).is_empty() && path.unknown.len() == 1);
    }
}
