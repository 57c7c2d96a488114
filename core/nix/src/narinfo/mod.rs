//! `.narinfo`: what a cache says about one store path.
//!
//! ```text
//!   StorePath: /nix/store/<hash>-<name>
//!   URL: nar/<file>                        where the NAR is, relative to the cache
//!   Compression: xz                        missing or empty means bzip2
//!   FileHash: sha256:<base32>              of the file at URL; may be left out
//!   FileSize: <bytes>                      of the file at URL; may be left out
//!   NarHash: sha256:<base32>   --.
//!   NarSize: <bytes>             |         signed, together with StorePath
//!   References: <base names>   --'
//!   Deriver: <base name>.drv               may be left out
//!   Sig: <key name>:<base64>               any number of them
//!   CA: <content address>                  may be left out
//!   <Unknown>: <kept as it is>
//! ```
//!
//! Guarantees: what parses writes itself again byte for byte when it was canonical, and in
//! canonical form (hashes in base32, references and signatures sorted, unknown fields last) when it
//! was not. Fields that an attacker could use against old clients are refused here: absolute URLs,
//! duplicate fields, control characters, unknown codecs, a NarSize of zero. Never believes: nothing
//! here is verified yet. Source of order and spelling: Nix, `src/libstore/nar-info.cc`.

mod compression;
mod error;
mod fields;
mod path_info;
mod url;

pub use compression::{Compression, UnknownCompression};
pub use error::{NarInfoError, UrlProblem};
pub use path_info::PathInfo;

use std::fmt;

use crate::hash::{Hash, NarHash};
use crate::key::Signature;
use crate::store_path::StorePath;
use fields::{Fields, required};

/// Most unknown fields that one narinfo may carry. Nix itself writes one (`System`); looking for a
/// duplicate is a walk over all of them, so 64 keeps that walk at 64 x 64 comparisons.
pub const MAX_UNKNOWN_FIELDS: usize = 64;

/// Most signatures on one path: one per party that vouches for it. 1,024 of them are about 120 kB.
pub const MAX_SIGNATURES: usize = 1024;

/// A narinfo, borrowing its texts from the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo<'a> {
    /// The path that this is about.
    pub store_path: StorePath,
    /// Where the NAR is: relative to the cache, without `..`, scheme, or leading slash.
    pub url: &'a str,
    /// How the file at `url` is compressed.
    pub compression: Compression,
    /// SHA-256 of the file at `url`.
    pub file_hash: Option<Hash>,
    /// Size of the file at `url` in bytes; nothing where it is left out or zero.
    pub file_size: Option<u64>,
    /// SHA-256 of the NAR.
    pub nar_hash: NarHash,
    /// Size of the NAR in bytes, never zero.
    pub nar_size: u64,
    /// The paths that this one refers to (perhaps itself), sorted, each once.
    pub references: Vec<StorePath>,
    /// The derivation that built it.
    pub deriver: Option<StorePath>,
    /// Sorted, each once.
    pub signatures: Vec<Signature>,
    /// The content address as it was written; [`crate::ContentAddress`] reads it.
    pub ca: Option<&'a str>,
    /// Fields that this version does not know, in their order.
    pub unknown: Vec<(&'a str, &'a str)>,
}

impl<'a> NarInfo<'a> {
    /// Reads a whole narinfo.
    pub fn parse(text: &'a str) -> Result<Self, NarInfoError> {
        let fields = Fields::parse(text)?;
        Ok(Self {
            store_path: required(fields.store_path, "StorePath")?,
            url: required(fields.url, "URL")?,
            compression: fields.compression.unwrap_or(Compression::Bzip2),
            file_hash: fields.file_hash,
            file_size: fields.file_size.filter(|&size| size != 0),
            nar_hash: required(fields.nar_hash, "NarHash")?,
            nar_size: required(fields.nar_size, "NarSize")?,
            references: fields.references.unwrap_or_default(),
            deriver: fields.deriver.flatten(),
            signatures: fields.signatures,
            ca: fields.ca.filter(|ca| !ca.is_empty()),
            unknown: fields.unknown,
        })
    }
}

impl fmt::Display for NarInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = Location {
            url: self.url,
            compression: self.compression.as_str(),
            file_hash: self.file_hash,
            file_size: self.file_size,
        };
        write_text(f, &Subject::from(self), Some(&location))
    }
}

/// The half of a narinfo that belongs to a cache's file, not to the path.
struct Location<'a> {
    url: &'a str,
    compression: &'a str,
    file_hash: Option<Hash>,
    file_size: Option<u64>,
}

/// The half of a narinfo that belongs to the path.
struct Subject<'a> {
    store_path: &'a StorePath,
    nar_hash: NarHash,
    nar_size: u64,
    references: &'a [StorePath],
    deriver: Option<&'a StorePath>,
    signatures: &'a [Signature],
    ca: Option<&'a str>,
    unknown: Vec<(&'a str, &'a str)>,
}

impl<'a> From<&'a NarInfo<'a>> for Subject<'a> {
    fn from(info: &'a NarInfo<'a>) -> Self {
        Self {
            store_path: &info.store_path,
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: &info.references,
            deriver: info.deriver.as_ref(),
            signatures: &info.signatures,
            ca: info.ca,
            unknown: info.unknown.clone(),
        }
    }
}

impl<'a> From<&'a PathInfo> for Subject<'a> {
    fn from(info: &'a PathInfo) -> Self {
        Self {
            store_path: &info.store_path,
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: &info.references,
            deriver: info.deriver.as_ref(),
            signatures: &info.signatures,
            ca: info.ca.as_deref(),
            unknown: info
                .unknown
                .iter()
                .map(|(key, value)| (&**key, &**value))
                .collect(),
        }
    }
}

/// The one writer: the order of Nix's `NarInfo::to_string`.
fn write_text(
    f: &mut impl fmt::Write,
    subject: &Subject<'_>,
    location: Option<&Location<'_>>,
) -> fmt::Result {
    writeln!(f, "StorePath: {}", subject.store_path.absolute())?;
    if let Some(location) = location {
        writeln!(f, "URL: {}", location.url)?;
        writeln!(f, "Compression: {}", location.compression)?;
        if let Some(hash) = location.file_hash {
            writeln!(f, "FileHash: {hash}")?;
        }
        if let Some(size) = location.file_size {
            writeln!(f, "FileSize: {size}")?;
        }
    }
    writeln!(f, "NarHash: {}", subject.nar_hash)?;
    writeln!(f, "NarSize: {}", subject.nar_size)?;
    f.write_str("References:")?;
    if subject.references.is_empty() {
        f.write_char(' ')?;
    }
    for reference in subject.references {
        write!(f, " {reference}")?;
    }
    f.write_char('\n')?;
    if let Some(deriver) = subject.deriver {
        writeln!(f, "Deriver: {deriver}")?;
    }
    for signature in subject.signatures {
        writeln!(f, "Sig: {signature}")?;
    }
    if let Some(ca) = subject.ca {
        writeln!(f, "CA: {ca}")?;
    }
    for (key, value) in &subject.unknown {
        writeln!(f, "{key}: {value}")?;
    }
    Ok(())
}
