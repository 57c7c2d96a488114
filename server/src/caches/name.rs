//! Names of caches in URLs, and what they are called in the depot.
//!
//! Guarantees: a name is no other part of a URL of the cache at `/`, now or as far as is planned;
//! no two caches that were ever made have one name in the depot, unless they were made under one
//! name within a second.

use serde::Serialize;
use snowcache_depot::CacheName;
use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The longest name, in bytes: the depot's 64, less two dashes and the 8 hex digits of a time, and
/// some to spare.
pub const MAX_NAME_BYTES: usize = 48;

/// Behind a name in the depot; no name has it within.
const MADE: &str = "--";

/// First parts of URLs that mean something else, or shall.
const RESERVED: [&str; 20] = [
    "admin",
    "api",
    "build-trace-v2",
    "caches",
    "debuginfo",
    "default",
    "events",
    "get-narinfos-v1",
    "healthz",
    "log",
    "metrics",
    "nar",
    "nix-cache-info",
    "nodes",
    "public",
    "push",
    "readyz",
    "realisations",
    "rollouts",
    "static",
];

/// The name of a cache: 1 to 48 of a-z, 0-9 and single dashes, beginning with a letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(Box<str>);

/// What is no name.
#[derive(Debug, Error)]
pub enum NameError {
    /// Of the wrong form.
    #[error(
        "{0:?} cannot be the name of a cache: use 1 to {MAX_NAME_BYTES} of a-z, 0-9 and single \
         dashes, begin with a letter, end with a letter or a digit"
    )]
    Form(String),
    /// It means something else.
    #[error("{0:?} is reserved: a URL that begins with it means something else; take another name")]
    Reserved(String),
}

impl Name {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a cache of this name that is made now is called in the depot.
    pub fn in_depot(&self, now_unix_s: u64) -> CacheName {
        let name = format!("{self}{MADE}{now_unix_s:08x}");
        name.parse()
            .expect("invariant: a name and a time are a name of the depot's")
    }
}

/// What a cache is called by people.
pub fn title(cache: &CacheName) -> &str {
    let name = cache.as_str();
    name.split_once(MADE).map_or(name, |(name, _)| name)
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let begins = text.starts_with(|first: char| first.is_ascii_lowercase());
        let fits = (1..=MAX_NAME_BYTES).contains(&text.len());
        let shown = || text.chars().take(MAX_NAME_BYTES).collect();
        if !begins || !fits || !text.bytes().all(good) || text.ends_with('-') || text.contains(MADE)
        {
            return Err(NameError::Form(shown()));
        }
        match RESERVED.contains(&text) {
            true => Err(NameError::Reserved(shown())),
            false => Ok(Name(text.into())),
        }
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::batch;

    #[test]
    fn a_name_is_part_of_a_url_and_of_the_depot_s_names() {
        let longest = "x".repeat(MAX_NAME_BYTES);
        for good in ["a", "team-a", "x1", "a-b-c", &longest] {
            let name: Name = good.parse().expect(good);
            let in_depot = name.in_depot(1_900_000_000);
            assert_eq!(title(&in_depot), good, "{in_depot}");
            assert_ne!(in_depot, name.in_depot(1_900_000_001));
        }
        assert_eq!(title(&CacheName::default_cache()), "default");
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for bad in ["", "-a", "a-", "a--b", "1a", "A", "a.b", "a/b", "ü", &long] {
            let error = bad.parse::<Name>().expect_err(bad);
            assert!(matches!(error, NameError::Form(_)), "{error}");
        }
    }

    #[test]
    fn what_means_something_else_is_reserved() {
        for taken in ["push", "nar", "api", "metrics", "default", batch::NAME] {
            let error = taken.parse::<Name>().expect_err(taken).to_string();
            assert!(error.contains("reserved"), "{error}");
        }
    }
}
