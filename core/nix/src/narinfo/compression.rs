//! The codecs that a narinfo may name.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A name that is no codec of [`Compression::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a known compression: use none, xz, bzip2, gzip, zstd, br, lzip or lz4")]
pub struct UnknownCompression;

/// How the file behind a narinfo's URL is compressed. The spelling is Nix's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// xz, Nix's default when it writes.
    Xz,
    /// bzip2, what a missing field means.
    Bzip2,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// lzip.
    Lzip,
    /// LZ4 frames.
    Lz4,
}

impl Compression {
    /// Every codec.
    pub const ALL: [Self; 8] = [
        Self::None,
        Self::Xz,
        Self::Bzip2,
        Self::Gzip,
        Self::Zstd,
        Self::Br,
        Self::Lzip,
        Self::Lz4,
    ];

    /// As it stands in a narinfo.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Lzip => "lzip",
            Self::Lz4 => "lz4",
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Compression {
    type Err = UnknownCompression;

    fn from_str(name: &str) -> Result<Self, UnknownCompression> {
        Self::ALL
            .into_iter()
            .find(|codec| codec.as_str() == name)
            .ok_or(UnknownCompression)
    }
}
