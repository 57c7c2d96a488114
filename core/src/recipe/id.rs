//! Names of pieces: BLAKE3-256 of what they hold.

use std::fmt;

use crate::token::Token;

/// The name of a piece's bytes, wherever and however they are stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrameId([u8; FrameId::LEN]);

impl FrameId {
    /// Bytes in an id.
    pub const LEN: usize = 32;

    /// The name of these bytes.
    pub fn of(raw: &[u8]) -> FrameId {
        FrameId(*blake3::hash(raw).as_bytes())
    }

    /// The name of a dense piece's skeleton: of its bytes with zeros for the tokens.
    pub fn of_skeleton(raw: &[u8], tokens: &[Token]) -> FrameId {
        const ZEROS: [u8; 64] = [0; 64];
        let mut hasher = blake3::Hasher::new();
        let mut at = 0;
        for token in tokens {
            hasher.update(&raw[at..token.start]);
            hasher.update(&ZEROS[..token.len]);
            at = token.end();
        }
        hasher.update(&raw[at..]);
        FrameId(*hasher.finalize().as_bytes())
    }

    /// An id read from where it was kept.
    pub fn from_bytes(bytes: [u8; FrameId::LEN]) -> FrameId {
        FrameId(bytes)
    }

    /// The id's bytes.
    pub fn as_bytes(&self) -> &[u8; FrameId::LEN] {
        &self.0
    }
}

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameId({self})")
    }
}
