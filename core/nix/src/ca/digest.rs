//! A running hash of whichever function a content address names.

use sha2::Digest as _;

use crate::hash::{Hash, HashAlgorithm};

/// One of the functions that this crate can compute.
#[derive(Debug, Clone)]
pub(super) enum Digest {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
}

impl Digest {
    /// Nothing for functions that this crate does not compute.
    pub(super) fn new(algorithm: HashAlgorithm) -> Option<Self> {
        match algorithm {
            HashAlgorithm::Md5 => Some(Self::Md5(md5::Md5::new())),
            HashAlgorithm::Sha1 => Some(Self::Sha1(sha1::Sha1::new())),
            HashAlgorithm::Sha256 => Some(Self::Sha256(sha2::Sha256::new())),
            HashAlgorithm::Sha512 => Some(Self::Sha512(Box::new(sha2::Sha512::new()))),
            HashAlgorithm::Blake3 => None,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(state) => state.update(bytes),
            Self::Sha1(state) => state.update(bytes),
            Self::Sha256(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
        }
    }

    pub(super) fn finish(self) -> Hash {
        let (algorithm, bytes) = match self {
            Self::Md5(state) => (HashAlgorithm::Md5, state.finalize().to_vec()),
            Self::Sha1(state) => (HashAlgorithm::Sha1, state.finalize().to_vec()),
            Self::Sha256(state) => (HashAlgorithm::Sha256, state.finalize().to_vec()),
            Self::Sha512(state) => (HashAlgorithm::Sha512, state.finalize().to_vec()),
        };
        Hash::new(algorithm, &bytes).expect("invariant: a function's output has its own size")
    }
}
