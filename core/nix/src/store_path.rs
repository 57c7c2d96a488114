//! Store paths: `/nix/store/<hash>-<name>`.
//!
//! Guarantees: a [`StorePath`] always has a name that Nix itself would take, so it is safe as a
//! file name and inside a narinfo, a fingerprint or a URL. Never touches the file system: a path
//! here need not exist. Source of the rules: Nix, `src/libstore/path.cc`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::base32::{self, Base32Error};
use crate::quote::quote;

/// The one store directory that Snowcache serves.
pub const STORE_DIR: &str = "/nix/store";

/// Longest name behind the dash: a file name may have 255 bytes, 32 are the hash, 1 the dash, and
/// Nix keeps 11 for the suffixes (`.lock`, `.drv`, `.check` ...) that it appends.
pub const MAX_NAME_BYTES: usize = 211;

/// Length of the hash part in characters: 160 bits at 5 a digit.
const HASH_CHARS: usize = 32;

/// Why a text is no store path.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StorePathError {
    /// An absolute path that is not directly in the store.
    #[error("{path} is not a path directly in {STORE_DIR}")]
    NotInStore {
        /// What was found.
        path: String,
    },
    /// Not even room for `<hash>-`, or no dash where it must be.
    #[error("{text} is no store path: expected 32 base32 digits, a dash and a name")]
    Shape {
        /// What was found.
        text: String,
    },
    /// The hash part is no base32.
    #[error("bad hash in a store path: {0}")]
    Hash(#[from] Base32Error),
    /// Nothing behind the dash.
    #[error("a store path's name is empty")]
    EmptyName,
    /// More than [`MAX_NAME_BYTES`].
    #[error("a store path's name has {found} bytes, the limit is {MAX_NAME_BYTES}")]
    LongName {
        /// Its length in bytes.
        found: usize,
    },
    /// `.` or `..`, alone or in front of the first dash.
    #[error("the store path name {name} begins with a dot component, which Nix refuses")]
    DotName {
        /// The name.
        name: String,
    },
    /// A character that Nix refuses.
    #[error(
        "{found:?} at byte {at} of a store path's name: only 0-9 a-z A-Z + - . _ ? = may stand \
        there"
    )]
    NameCharacter {
        /// The character.
        found: char,
        /// Its byte offset in the name.
        at: usize,
    },
}

/// The hash part of a store path: 160 bits. Written as 32 characters of base32; ordered as these
/// are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StoreHash([u8; 20]);

impl StoreHash {
    /// Takes the 20 bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl FromStr for StoreHash {
    type Err = Base32Error;

    fn from_str(text: &str) -> Result<Self, Base32Error> {
        base32::decode(text.as_bytes()).map(Self)
    }
}

impl fmt::Display for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32::encode(&self.0))
    }
}

impl fmt::Debug for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Ord for StoreHash {
    /// The order of the texts: base32's first character comes from the last byte.
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }
}

impl PartialOrd for StoreHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A store path, read and written as its base name `<hash>-<name>`; ordered as these are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    hash: StoreHash,
    name: Box<str>,
}

impl StorePath {
    /// Puts a path together from its parts.
    pub fn new(hash: StoreHash, name: &str) -> Result<Self, StorePathError> {
        check_name(name)?;
        Ok(Self {
            hash,
            name: name.into(),
        })
    }

    /// Reads `/nix/store/<hash>-<name>`, and nothing below or beside it.
    pub fn from_absolute(path: &str) -> Result<Self, StorePathError> {
        match path
            .strip_prefix(STORE_DIR)
            .and_then(|rest| rest.strip_prefix('/'))
        {
            Some(base) if !base.contains('/') => base.parse(),
            _ => Err(StorePathError::NotInStore { path: quote(path) }),
        }
    }

    /// The hash part.
    pub fn hash(&self) -> StoreHash {
        self.hash
    }

    /// What follows the dash.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/nix/store/<hash>-<name>`.
    pub fn absolute(&self) -> String {
        format!("{STORE_DIR}/{self}")
    }

    /// Whether it is a derivation (`*.drv`).
    pub fn is_derivation(&self) -> bool {
        self.name.ends_with(".drv")
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(base: &str) -> Result<Self, StorePathError> {
        let (hash, rest) = base
            .split_at_checked(HASH_CHARS)
            .ok_or_else(|| StorePathError::Shape { text: quote(base) })?;
        let name = rest
            .strip_prefix('-')
            .ok_or_else(|| StorePathError::Shape { text: quote(base) })?;
        Self::new(hash.parse()?, name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn check_name(name: &str) -> Result<(), StorePathError> {
    if name.is_empty() {
        return Err(StorePathError::EmptyName);
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(StorePathError::LongName { found: name.len() });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "+-._?=".contains(c);
    if let Some((at, found)) = name.char_indices().find(|&(_, c)| !allowed(c)) {
        return Err(StorePathError::NameCharacter { found, at });
    }
    match name.split('-').next() {
        Some("." | "..") => Err(StorePathError::DotName { name: quote(name) }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0c7c96gikmzv87i7lv3vq5s1cmfjd6zf";

    #[test]
    fn a_path_reads_back_as_it_was_written() {
        for name in [
            "hello-2.12",
            ".hidden",
            "...",
            "..a-b",
            "a",
            "+-._?=",
            "-",
            "X.drv",
        ] {
            let base = format!("{HASH}-{name}");
            let path: StorePath = base.parse().expect(name);
            assert_eq!((path.to_string(), path.name()), (base.clone(), name));
            assert_eq!(path.hash().to_string(), HASH);
            assert_eq!(StorePath::from_absolute(&path.absolute()), Ok(path));
        }
    }

    #[test]
    fn what_nix_refuses_is_refused_with_the_reason() {
        let long = "x".repeat(212);
        let cases = [
            ("", "a store path's name is empty"),
            (
                long.as_str(),
                "a store path's name has 212 bytes, the limit is 211",
            ),
            (
                ".",
                "the store path name '.' begins with a dot component, which Nix refuses",
            ),
            (
                "..",
                "the store path name '..' begins with a dot component, which Nix refuses",
            ),
            (
                ".-a",
                "the store path name '.-a' begins with a dot component, which Nix refuses",
            ),
            (
                "..-a",
                "the store path name '..-a' begins with a dot component, which Nix refuses",
            ),
            (
                "a/b",
                "'/' at byte 1 of a store path's name: only 0-9 a-z A-Z + - . _ ? = may stand \
                there",
            ),
            (
                "é",
                "'é' at byte 0 of a store path's name: only 0-9 a-z A-Z + - . _ ? = may stand \
                there",
            ),
            (
                "a\0",
                "'\\0' at byte 1 of a store path's name: only 0-9 a-z A-Z + - . _ ? = may stand \
                there",
            ),
        ];
        for (name, says) in cases {
            let refusal = format!("{HASH}-{name}")
                .parse::<StorePath>()
                .expect_err(name);
            assert_eq!(refusal.to_string(), says);
        }
        assert!(
            format!("{HASH}-{}", "x".repeat(211))
                .parse::<StorePath>()
                .is_ok()
        );
    }

    #[test]
    fn a_text_of_another_shape_is_refused() {
        let says = |text: &str| text.parse::<StorePath>().expect_err(text).to_string();
        let shape = "is no store path: expected 32 base32 digits, a dash and a name";
        assert_eq!(says("abc"), format!("'abc' {shape}"));
        assert_eq!(says(&format!("{HASH}_x")), format!("'{HASH}_x' {shape}"));
        // A split inside a character must not panic.
        assert_eq!(
            says(&format!("{}é-x", &HASH[..31])),
            format!("'{}é-x' {shape}", &HASH[..31])
        );
        assert_eq!(
            says("ec7c96gikmzv87i7lv3vq5s1cmfjd6zf-x"),
            "bad hash in a store path: 'e' at character 0 is no base32 digit (0-9, a-z without e, \
            o, t, u)"
        );
    }

    #[test]
    fn only_what_lies_directly_in_the_store_is_absolute() {
        let base = format!("{HASH}-x");
        for path in [
            base.clone(),
            format!("/nix/store{base}"),
            format!("/nix/store/{base}/bin"),
            format!("/nix/store//{base}"),
            format!("/gnu/store/{base}"),
            format!("/nix/store/{base}/"),
        ] {
            let refusal = StorePath::from_absolute(&path).expect_err(&path);
            assert!(
                matches!(refusal, StorePathError::NotInStore { .. }),
                "{path}: {refusal}"
            );
        }
    }

    #[test]
    fn the_order_of_hashes_is_the_order_of_their_texts() {
        let mut hashes: Vec<StoreHash> = (0..200u8)
            .map(|n| StoreHash::from_bytes(std::array::from_fn(|i| n.wrapping_mul(i as u8 ^ 0x9d))))
            .collect();
        hashes.sort();
        let texts: Vec<String> = hashes.iter().map(StoreHash::to_string).collect();
        assert!(texts.is_sorted(), "{texts:?}");
    }
}
