//! Content addresses: store paths whose hash part comes from what they hold.
//!
//! ```text
//!   text:sha256:<hash of the file>            builtins.toFile, .drv files; may have references
//!   fixed:<algorithm>:<hash of the file>      a plain file, no references
//!   fixed:r:<algorithm>:<hash of the NAR>     anything; with sha256 also references, even its own
//!   fixed:git:<algorithm>:<object id of git>  experimental in Nix; not checked here
//! ```
//!
//! A path that refers to itself cannot hash its own name. There the hash is taken *modulo* the
//! path's hash part: its 32 characters count as zeros, and the offsets at which they stood are
//! hashed at the end.
//!
//! Guarantees: [`Verifier`] accepts a path only if its name follows from its content address *and*
//! its bytes have that address, so no signature is needed. Never needs the NAR in memory. Source:
//! Nix, `src/libstore/store-dir-config.cc`, `content-address.cc`, `references.cc`.

mod digest;
mod modulo;
mod verifier;

pub use modulo::{HashModulo, MAX_SELF_REFERENCES};
pub use verifier::Verifier;

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::hash::{Hash, HashAlgorithm, HashError};
use crate::nar::NarError;
use crate::quote::quote;
use crate::store_path::{STORE_DIR, StoreHash, StorePath, StorePathError};

/// What the hash of a content address is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// The bytes of one plain file, references allowed.
    Text,
    /// The bytes of one plain file, no references.
    Flat,
    /// The NAR.
    Nar,
    /// Git's object.
    Git,
}

impl Method {
    /// What Nix's JSON calls it: `text`, `flat`, `nar`, `git`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Flat => "flat",
            Self::Nar => "nar",
            Self::Git => "git",
        }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Text => "text:",
            Self::Flat => "fixed:",
            Self::Nar => "fixed:r:",
            Self::Git => "fixed:git:",
        }
    }
}

/// Why a content address is refused, or a path does not have the one that it claims.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CaError {
    /// Neither `text:` nor `fixed:`, or no hash behind it.
    #[error(
        "{text} is no content address: expected 'text:<hash>', 'fixed:<hash>', 'fixed:r:<hash>' \
        or 'fixed:git:<hash>'"
    )]
    Shape {
        /// What was found.
        text: String,
    },
    /// The hash in it is none.
    #[error("bad hash in a content address: {0}")]
    Hash(#[from] HashError),
    /// An algorithm that the method does not take.
    #[error("a content address '{method}' takes {takes}, found {found}")]
    Algorithm {
        /// `text:` or `fixed:git:`.
        method: &'static str,
        /// What it takes.
        takes: &'static str,
        /// What was found.
        found: HashAlgorithm,
    },
    /// The name cannot stand in a store path.
    #[error(transparent)]
    Name(#[from] StorePathError),
    /// Only `fixed:r:sha256:` and `text:` paths may refer to others.
    #[error("a path addressed by '{address}' cannot have references")]
    References {
        /// Method and algorithm.
        address: String,
    },
    /// Only `fixed:r:sha256:` paths may refer to themselves.
    #[error("a path addressed by 'text:' cannot refer to itself")]
    SelfReference,
    /// Nothing here can compute that hash.
    #[error("content addresses of the kind '{address}' cannot be checked by this version")]
    Unsupported {
        /// Method and algorithm.
        address: String,
    },
    /// The name does not follow from the content address.
    #[error("the store path is {claimed}, but its content address makes it {computed}")]
    WrongPath {
        /// As claimed.
        claimed: StorePath,
        /// As it follows from content address and references.
        computed: StorePath,
    },
    /// The bytes have another hash.
    #[error("the content address says {claimed}, but the content has {computed}")]
    WrongHash {
        /// As claimed.
        claimed: Box<Hash>,
        /// Of the bytes.
        computed: Box<Hash>,
    },
    /// A `text:` or flat address on something else than one plain file.
    #[error(
        "a path addressed by its file's bytes must be one file that is not executable, found \
        {found}"
    )]
    NotAFile {
        /// What it is.
        found: &'static str,
    },
    /// The bytes are no NAR.
    #[error(transparent)]
    Nar(#[from] NarError),
    /// More than [`MAX_SELF_REFERENCES`].
    #[error("the path names itself more than {MAX_SELF_REFERENCES} times")]
    ManySelfReferences,
}

/// What must be hashed to check a content address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// All bytes of the NAR.
    Nar(HashAlgorithm),
    /// SHA-256 of all bytes of the NAR, modulo the path's own hash part.
    NarModuloSelf,
    /// The bytes of the one file in the NAR.
    Flat(HashAlgorithm),
}

/// A content address as it stands in a narinfo's `CA` field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentAddress {
    method: Method,
    hash: Hash,
}

impl ContentAddress {
    /// Puts one together; some methods take some algorithms only.
    pub fn new(method: Method, hash: Hash) -> Result<Self, CaError> {
        let found = hash.algorithm();
        let takes = match (method, found) {
            (Method::Text, HashAlgorithm::Sha256) => None,
            (Method::Text, _) => Some("sha256"),
            (Method::Git, HashAlgorithm::Sha1 | HashAlgorithm::Sha256) => None,
            (Method::Git, _) => Some("sha1 or sha256"),
            (Method::Flat | Method::Nar, _) => None,
        };
        match takes {
            Some(takes) => Err(CaError::Algorithm {
                method: method.prefix(),
                takes,
                found,
            }),
            None => Ok(Self { method, hash }),
        }
    }

    /// What the hash is over.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The hash.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// What must be hashed; `self_reference` is whether the path refers to itself.
    pub fn check(&self, self_reference: bool) -> Result<Check, CaError> {
        let algorithm = self.hash.algorithm();
        match self.method {
            Method::Git => Err(self.unsupported()),
            _ if algorithm == HashAlgorithm::Blake3 => Err(self.unsupported()),
            Method::Text | Method::Flat => Ok(Check::Flat(algorithm)),
            Method::Nar if self_reference => Ok(Check::NarModuloSelf),
            Method::Nar => Ok(Check::Nar(algorithm)),
        }
    }

    /// The store path that something of this address, name and references has. `references` are the
    /// other paths in any order; `self_reference` is whether it refers to itself too.
    pub fn store_path_for(
        &self,
        name: &str,
        references: &[StorePath],
        self_reference: bool,
    ) -> Result<StorePath, CaError> {
        let none = references.is_empty() && !self_reference;
        match (self.method, self.hash.algorithm()) {
            (Method::Text, _) if self_reference => Err(CaError::SelfReference),
            (Method::Text, _) => make_path(&typed("text", references, false), &self.hash, name),
            (Method::Nar, HashAlgorithm::Sha256) => make_path(
                &typed("source", references, self_reference),
                &self.hash,
                name,
            ),
            _ if !none => Err(CaError::References {
                address: self.kind(),
            }),
            (method, _) => {
                let prefix = method.prefix().replacen("fixed:", "fixed:out:", 1);
                let inner = Sha256::digest(format!("{prefix}{}:", self.hash.to_hex()));
                make_path("output:out", &sha256(&inner.into()), name)
            }
        }
    }

    /// Method and algorithm, without the hash.
    fn kind(&self) -> String {
        format!("{}{}", self.method.prefix(), self.hash.algorithm())
    }

    fn unsupported(&self) -> CaError {
        CaError::Unsupported {
            address: self.kind(),
        }
    }
}

impl FromStr for ContentAddress {
    type Err = CaError;

    fn from_str(text: &str) -> Result<Self, CaError> {
        let shape = || CaError::Shape { text: quote(text) };
        // The longer prefixes first: all but one begin with `fixed:`.
        let (method, rest) = [Method::Text, Method::Nar, Method::Git, Method::Flat]
            .into_iter()
            .find_map(|method| Some((method, text.strip_prefix(method.prefix())?)))
            .ok_or_else(shape)?;
        let (algorithm, body) = rest.split_once(':').ok_or_else(shape)?;
        Self::new(method, Hash::parse_body(algorithm.parse()?, body)?)
    }
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.method.prefix(), self.hash)
    }
}

fn sha256(bytes: &[u8; 32]) -> Hash {
    crate::hash::NarHash::from_bytes(*bytes).into()
}

/// `<kind>[:<reference>…][:self]`, the references sorted.
fn typed(kind: &str, references: &[StorePath], self_reference: bool) -> String {
    let mut sorted: Vec<_> = references.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let mut text = kind.to_owned();
    for reference in sorted {
        text.push(':');
        text.push_str(&reference.absolute());
    }
    if self_reference {
        text.push_str(":self");
    }
    text
}

/// The 160 bits are SHA-256 of the parts, folded onto 20 bytes by exclusive or.
fn make_path(kind: &str, hash: &Hash, name: &str) -> Result<StorePath, CaError> {
    let full = Sha256::digest(format!("{kind}:{}:{STORE_DIR}:{name}", hash.to_hex()));
    let mut folded = [0; 20];
    for (at, byte) in full.iter().enumerate() {
        folded[at % 20] ^= byte;
    }
    Ok(StorePath::new(StoreHash::from_bytes(folded), name)?)
}
