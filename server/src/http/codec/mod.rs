//! Codecs: what a NAR or a document may be packed in on its way to us and, under `/push`, back
//! again.
//!
//! ```text
//!   body --> sniff (first bytes, name) --> decode --> NAR bytes     NAR bytes --> encode --> body
//! ```
//!
//! Guarantees: memory per stream is bounded whatever the stream says of itself; a stream that is
//! cut short, or followed by anything else, is an error; several members or frames in a row are one
//! stream, as their own tools read them. Never: what a client says a codec is, against what the
//! bytes are.

mod brotli_stream;
pub mod decode;
pub mod encode;
mod lzip;
pub mod sniff;

use std::fmt;

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Not at all.
    None,
    /// `.xz`
    Xz,
    /// `.bz2`
    Bzip2,
    /// gzip, for which Nix appends no suffix.
    Gzip,
    /// `.zst`
    Zstd,
    /// `.br`: the one codec without a magic number.
    Brotli,
    /// `.lzip`
    Lzip,
    /// `.lz4`, the frame format.
    Lz4,
    /// zlib's wrapping of deflate: only as a `Content-Encoding`.
    Deflate,
}

impl Codec {
    /// The name in a narinfo's `Compression`.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Xz => "xz",
            Codec::Bzip2 => "bzip2",
            Codec::Gzip => "gzip",
            Codec::Zstd => "zstd",
            Codec::Brotli => "br",
            Codec::Lzip => "lzip",
            Codec::Lz4 => "lz4",
            Codec::Deflate => "deflate",
        }
    }

    /// The codec of that name, as narinfos and `Content-Encoding` spell it.
    pub fn from_name(name: &str) -> Option<Codec> {
        Some(match name {
            "" | "none" | "identity" => Codec::None,
            "xz" => Codec::Xz,
            "bzip2" => Codec::Bzip2,
            "gzip" | "x-gzip" => Codec::Gzip,
            "zstd" => Codec::Zstd,
            "br" => Codec::Brotli,
            "lzip" => Codec::Lzip,
            "lz4" => Codec::Lz4,
            "deflate" => Codec::Deflate,
            _ => return None,
        })
    }

    /// The codec that a file name promises: `None` where it promises nothing (`….nar`).
    pub fn from_file_name(name: &str) -> Option<Codec> {
        Some(match name.rsplit_once('.')?.1 {
            "xz" => Codec::Xz,
            "bz2" => Codec::Bzip2,
            "gz" => Codec::Gzip,
            "zst" => Codec::Zstd,
            "br" => Codec::Brotli,
            "lzip" | "lz" => Codec::Lzip,
            "lz4" => Codec::Lz4,
            _ => return None,
        })
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
