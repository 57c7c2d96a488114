//! What a command is about: `/nix/store/HASH-NAME/sub/path`, `HASH-NAME/sub/path`, `HASH/sub/path`.

use crate::failure::Failure;
use crate::remote::Remote;
use snowcache_core::cache::{Cache, Narinfo};
use snowcache_nix::{STORE_DIR, StoreHash, StorePath};

/// A store path, and perhaps something in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The hash part.
    pub hash: StoreHash,
    /// The whole path, when it was given.
    pub path: Option<StorePath>,
    /// What follows it, without slashes around it; perhaps empty.
    pub below: String,
}

/// Reads an argument.
///
/// # Errors
/// When it is none of the three.
pub fn parse(text: &str) -> Result<Subject, Failure> {
    let in_store = text
        .strip_prefix(STORE_DIR)
        .and_then(|rest| rest.strip_prefix('/'));
    let (base, below) = match in_store.unwrap_or(text).split_once('/') {
        Some((base, below)) => (base, below.trim_matches('/')),
        None => (in_store.unwrap_or(text), ""),
    };
    let below = below.to_owned();
    if let Ok(hash) = base.parse() {
        return Ok(Subject {
            hash,
            path: None,
            below,
        });
    }
    match base.parse::<StorePath>() {
        Ok(path) => Ok(Subject {
            hash: path.hash(),
            path: Some(path),
            below,
        }),
        Err(error) => Err(Failure::usage(format!(
            "{text} is neither a store path nor the hash part of one: {error}"
        ))),
    }
}

/// The same, where only a whole store path makes sense.
///
/// # Errors
/// When something follows the path.
pub fn parse_whole(text: &str) -> Result<Subject, Failure> {
    let subject = parse(text)?;
    match subject.below.is_empty() {
        true => Ok(subject),
        false => Err(Failure::usage(format!(
            "{text} is in a store path; give the path itself"
        ))),
    }
}

impl Subject {
    /// Its narinfo.
    ///
    /// # Errors
    /// When the cache cannot be asked, does not have it, or has another path under the hash.
    pub async fn narinfo(&self, remote: &Remote) -> Result<Narinfo, Failure> {
        let narinfo = remote
            .narinfo(self.hash)
            .await?
            .ok_or_else(|| self.absent(remote))?;
        self.check_name(&narinfo.info.store_path)?;
        Ok(narinfo)
    }

    /// The sentence for a path that is not there.
    pub fn absent(&self, remote: &Remote) -> Failure {
        Failure::failed(format!("{self} is not in {}", remote.endpoint()))
    }

    /// The path that the cache has must be the one that was asked for.
    ///
    /// # Errors
    /// When it is not.
    pub fn check_name(&self, found: &StorePath) -> Result<(), Failure> {
        match &self.path {
            Some(path) if path != found => Err(Failure::failed(format!(
                "the cache has {found}, but not {path}"
            ))),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.path {
            Some(path) => path.absolute().fmt(f),
            None => self.hash.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_can_be_said_in_three_ways() {
        let hash = "0c7c96gikmzv87i7lv3vq5s1cmfjd6zf";
        for (text, named, below) in [
            (
                format!("/nix/store/{hash}-hello-2.12/bin/hello"),
                true,
                "bin/hello",
            ),
            (format!("/nix/store/{hash}-hello-2.12/"), true, ""),
            (format!("{hash}-hello-2.12"), true, ""),
            (format!("{hash}/share/"), false, "share"),
            (hash.to_owned(), false, ""),
        ] {
            let subject = parse(&text).expect("a subject");
            assert_eq!(subject.hash.to_string(), hash);
            assert_eq!(
                (subject.path.is_some(), subject.below.as_str()),
                (named, below),
                "{text}"
            );
        }
    }

    #[test]
    fn anything_else_is_wrong_usage() {
        let failure = parse("/usr/bin/env").expect_err("not in the store");
        assert_eq!(failure.exit(), crate::Exit::Usage);
        assert!(parse_whole("0c7c96gikmzv87i7lv3vq5s1cmfjd6zf/bin").is_err());
    }
}
