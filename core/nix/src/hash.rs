//! Hashes as Nix writes them: `sha256:<base32>`, `sha256:<hex>`, `sha256-<base64>`.
//!
//! [`NarHash`] is the one that matters: SHA-256 over the bytes of a NAR. [`struct@Hash`] is any
//! algorithm that a content address or a `FileHash` may name.
//!
//! Guarantees: reading takes every spelling that Nix takes, writing gives base32 and nothing else.
//! Never computes a hash: that is the caller's business, where the bytes are.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use thiserror::Error;

use crate::base32::{self, Base32Error};
use crate::quote::quote;

/// Size of the longest hash here, SHA-512's.
const MAX_HASH_BYTES: usize = 64;

/// The hash functions that Nix names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgorithm {
    /// 16 bytes; only in old content addresses.
    Md5,
    /// 20 bytes; only in old content addresses, and git's.
    Sha1,
    /// 32 bytes; everything else.
    Sha256,
    /// 64 bytes.
    Sha512,
    /// 32 bytes; behind an experimental feature of Nix.
    Blake3,
}

impl HashAlgorithm {
    /// Every algorithm, for tables and tests.
    pub const ALL: [Self; 5] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Blake3,
    ];

    /// Size of its hashes.
    pub const fn size_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Its name in Nix's texts.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for HashAlgorithm {
    type Err = HashError;

    fn from_str(name: &str) -> Result<Self, HashError> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or_else(|| HashError::UnknownAlgorithm { found: quote(name) })
    }
}

/// Why a text is no hash.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HashError {
    /// Neither `<algorithm>:` nor `<algorithm>-` in front.
    #[error("{text} is no hash: expected '<algorithm>:<base32 or hex>' or '<algorithm>-<base64>'")]
    NoAlgorithm {
        /// What was found.
        text: String,
    },
    /// An algorithm that Nix does not have.
    #[error("{found} is no hash algorithm: expected md5, sha1, sha256, sha512 or blake3")]
    UnknownAlgorithm {
        /// What was found.
        found: String,
    },
    /// A known algorithm where another one must stand.
    #[error("a {expected} hash expected, found {found}")]
    WrongAlgorithm {
        /// The one that must stand here.
        expected: HashAlgorithm,
        /// The one that was found.
        found: HashAlgorithm,
    },
    /// A length that is none of the algorithm's spellings.
    #[error(
        "{found} characters are no {algorithm} hash: {hex} in hex, {base32} in base32, {base64} \
        in base64"
    )]
    Length {
        /// The algorithm that was named.
        algorithm: HashAlgorithm,
        /// Characters found.
        found: usize,
        /// Characters in hex.
        hex: usize,
        /// Characters in base32.
        base32: usize,
        /// Characters in base64.
        base64: usize,
    },
    /// As long as base32, but is not.
    #[error(transparent)]
    Base32(#[from] Base32Error),
    /// As long as hex, but is not.
    #[error("'{}' at character {at} is no lower-case hex digit", .found.escape_ascii())]
    Hex {
        /// The byte.
        found: u8,
        /// Its place after the prefix, counted from 0.
        at: usize,
    },
    /// As long as base64, but is not (or not the one canonical spelling).
    #[error("{text} is no base64 of a {algorithm} hash")]
    Base64 {
        /// The algorithm that was named.
        algorithm: HashAlgorithm,
        /// What was found.
        text: String,
    },
}

/// A hash together with the function that made it. Written as `<algorithm>:<base32>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algorithm: HashAlgorithm,
    /// Zero behind the algorithm's size.
    bytes: [u8; MAX_HASH_BYTES],
}

impl Hash {
    /// Takes the output of `algorithm`; nothing when its size is another one.
    pub fn new(algorithm: HashAlgorithm, hash: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_HASH_BYTES];
        (hash.len() == algorithm.size_bytes()).then(|| {
            bytes[..hash.len()].copy_from_slice(hash);
            Self { algorithm, bytes }
        })
    }

    /// The function that made it.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The hash itself, as long as the algorithm says.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size_bytes()]
    }

    /// `<algorithm>:<lower-case hex>`, the spelling inside store path computations.
    pub fn to_hex(&self) -> String {
        let mut text = format!("{}:", self.algorithm);
        for byte in self.as_bytes() {
            text.push(char::from(HEX[usize::from(byte >> 4)]));
            text.push(char::from(HEX[usize::from(byte & 15)]));
        }
        text
    }

    /// `<algorithm>-<base64>`, the spelling of the web and of Nix's JSON.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algorithm, BASE64.encode(self.as_bytes()))
    }

    /// Reads what follows `<algorithm>:`; its length says whether it is hex, base32 or base64.
    pub fn parse_body(algorithm: HashAlgorithm, body: &str) -> Result<Self, HashError> {
        let size = algorithm.size_bytes();
        let (hex, base32, base64) = (size * 2, base32::encoded_len(size), size.div_ceil(3) * 4);
        let mut bytes = [0; MAX_HASH_BYTES];
        let found = body.len();
        if found == hex {
            decode_hex(body.as_bytes(), &mut bytes[..size])?;
        } else if found == base32 {
            base32::decode_into(body.as_bytes(), &mut bytes[..size])?;
        } else if found == base64 {
            decode_base64(algorithm, body, &mut bytes[..size])?;
        } else {
            return Err(HashError::Length {
                algorithm,
                found,
                hex,
                base32,
                base64,
            });
        }
        Ok(Self { algorithm, bytes })
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn decode_hex(text: &[u8], bytes: &mut [u8]) -> Result<(), HashError> {
    let digit = |at: usize| match text[at] {
        found @ b'0'..=b'9' => Ok(found - b'0'),
        found @ b'a'..=b'f' => Ok(found - b'a' + 10),
        found => Err(HashError::Hex { found, at }),
    };
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = digit(2 * n)? << 4 | digit(2 * n + 1)?;
    }
    Ok(())
}

fn decode_base64(algorithm: HashAlgorithm, text: &str, into: &mut [u8]) -> Result<(), HashError> {
    match BASE64.decode(text) {
        Ok(bytes) if bytes.len() == into.len() => {
            into.copy_from_slice(&bytes);
            Ok(())
        }
        _ => Err(HashError::Base64 {
            algorithm,
            text: quote(text),
        }),
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        if let Some((algorithm, body)) = text.split_once(':') {
            return Self::parse_body(algorithm.parse()?, body);
        }
        let Some((algorithm, body)) = text.split_once('-') else {
            return Err(HashError::NoAlgorithm { text: quote(text) });
        };
        let algorithm: HashAlgorithm = algorithm.parse()?;
        let mut bytes = [0; MAX_HASH_BYTES];
        decode_base64(algorithm, body, &mut bytes[..algorithm.size_bytes()])?;
        Ok(Self { algorithm, bytes })
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, base32::encode(self.as_bytes()))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of a NAR's bytes: what a signature vouches for. Written as `sha256:<base32>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NarHash([u8; 32]);

impl NarHash {
    /// Takes the 32 bytes of a SHA-256.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 52 characters of base32 without `sha256:`, as in the names of NARs.
    pub fn base32(&self) -> String {
        base32::encode(&self.0)
    }

    /// Reads the 52 characters that [`Self::base32`] writes.
    pub fn from_base32(text: &str) -> Result<Self, Base32Error> {
        base32::decode(text.as_bytes()).map(Self)
    }
}

impl FromStr for NarHash {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, HashError> {
        text.parse::<Hash>()?.try_into()
    }
}

impl TryFrom<Hash> for NarHash {
    type Error = HashError;

    fn try_from(hash: Hash) -> Result<Self, HashError> {
        let wrong = HashError::WrongAlgorithm {
            expected: HashAlgorithm::Sha256,
            found: hash.algorithm,
        };
        match hash.algorithm {
            HashAlgorithm::Sha256 => hash.as_bytes().try_into().map(Self).map_err(|_| wrong),
            _ => Err(wrong),
        }
    }
}

impl From<NarHash> for Hash {
    fn from(hash: NarHash) -> Self {
        let mut bytes = [0; MAX_HASH_BYTES];
        bytes[..hash.0.len()].copy_from_slice(&hash.0);
        Self {
            algorithm: HashAlgorithm::Sha256,
            bytes,
        }
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.base32())
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE32: &str = "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73";
    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const SRI: &str = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn the_three_spellings_of_nothing_are_one_hash_and_go_out_in_base32() {
        let hash: NarHash = BASE32.parse().expect("base32");
        assert_eq!(HEX.parse(), Ok(hash));
        assert_eq!(SRI.parse(), Ok(hash));
        assert_eq!(
            SRI.replace('-', ":").parse(),
            Ok(hash),
            "nix takes base64 behind ':' too"
        );
        assert_eq!(hash.to_string(), BASE32);
        assert_eq!(Hash::from(hash).to_hex(), HEX);
        assert_eq!(NarHash::from_base32(&hash.base32()), Ok(hash));
    }

    #[test]
    fn each_refusal_says_what_is_wrong() {
        let cases = [
            (
                "",
                "'' is no hash: expected '<algorithm>:<base32 or hex>' or '<algorithm>-<base64>'",
            ),
            (
                "sha3:00",
                "'sha3' is no hash algorithm: expected md5, sha1, sha256, sha512 or blake3",
            ),
            (
                "sha256:00",
                "2 characters are no sha256 hash: 64 in hex, 52 in base32, 44 in base64",
            ),
            (
                "md5:d41d8cd98f00b204e9800998ecf8427e",
                "a sha256 hash expected, found md5",
            ),
            (
                "sha256:E3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "'E' at character 0 is no lower-case hex digit",
            ),
            (
                "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=",
                "'47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFV=' is no base64 of a sha256 hash",
            ),
            (
                "sha256:zmdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
                "the first base32 digit is too large for 32 bytes",
            ),
        ];
        for (text, says) in cases {
            let refusal = text.parse::<NarHash>().expect_err(text);
            assert_eq!(refusal.to_string(), says, "{text}");
        }
    }
}
