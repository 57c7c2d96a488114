//! SHA-256 modulo a path's own hash part, streaming.
//!
//! ```text
//!   bytes    ....<own hash>......<own hash>...
//!   hashed   ....00000000000......00000000000...|<offset 1>|<offset 2>
//! ```
//!
//! Nix 2.17 to 2.34 left the offsets at the end out (nix 3ebe1341ab to 0c41ecb451), and their paths
//! live on: [`HashModulo::finish_both`] gives that hash as well.
//!
//! Guarantees: any split of the input gives the same hash. Holds back at most 31 bytes, and
//! remembers at most [`MAX_SELF_REFERENCES`] offsets.

use memchr::memmem::Finder;
use sha2::{Digest as _, Sha256};

use super::CaError;
use crate::hash::NarHash;
use crate::store_path::StoreHash;

/// Most occurrences of a path's own hash in its NAR. Their offsets have to be remembered until the
/// end, at 8 bytes each: 1,048,576 of them are 8 MiB, for 32 MiB of nothing but that hash.
pub const MAX_SELF_REFERENCES: usize = 1 << 20;

/// Characters of a hash part.
const OWN: usize = 32;

/// The running hash.
#[derive(Debug, Clone)]
pub struct HashModulo {
    own: Finder<'static>,
    hash: Sha256,
    /// Where the next byte to be hashed stands.
    offset: u64,
    found_at: Vec<u64>,
    /// The last bytes, while they may be the start of an occurrence.
    held: Vec<u8>,
}

impl HashModulo {
    /// Takes occurrences of `own` as zeros.
    pub fn new(own: StoreHash) -> Self {
        Self {
            own: Finder::new(&own.to_string()).into_owned(),
            hash: Sha256::new(),
            offset: 0,
            found_at: Vec::new(),
            held: Vec::with_capacity(2 * OWN),
        }
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), CaError> {
        if !self.held.is_empty() {
            // An occurrence that starts in what is held ends within the next 31 bytes.
            let before = self.held.len();
            let head = &bytes[..bytes.len().min(OWN - 1)];
            self.held.extend_from_slice(head);
            let mut held = std::mem::take(&mut self.held);
            if let Some(at) = self.own.find(&held) {
                self.pass(&held[..at]);
                self.pass_own()?;
                bytes = &bytes[at + OWN - before..];
            } else if head.len() == bytes.len() {
                let keep = held.len().min(OWN - 1);
                self.pass(&held[..held.len() - keep]);
                held.drain(..held.len() - keep);
                self.held = held;
                return Ok(());
            } else {
                self.pass(&held[..before]);
            }
            held.clear();
            self.held = held;
        }
        while let Some(at) = self.own.find(bytes) {
            self.pass(&bytes[..at]);
            self.pass_own()?;
            bytes = &bytes[at + OWN..];
        }
        let (pass, hold) = bytes.split_at(bytes.len().saturating_sub(OWN - 1));
        self.pass(pass);
        self.held.extend_from_slice(hold);
        Ok(())
    }

    /// The hash of everything that was fed, as Nix up to 2.16 and from 2.35 on takes it.
    pub fn finish(self) -> NarHash {
        self.finish_both()[0]
    }

    /// That hash, and the one that Nix 2.17 to 2.34 takes: without the offsets.
    pub fn finish_both(mut self) -> [NarHash; 2] {
        let held = std::mem::take(&mut self.held);
        self.pass(&held);
        let without_offsets = self.hash.clone();
        for offset in &self.found_at {
            self.hash.update(format!("|{offset}"));
        }
        [self.hash, without_offsets].map(|hash| NarHash::from_bytes(hash.finalize().into()))
    }

    fn pass(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
    }

    fn pass_own(&mut self) -> Result<(), CaError> {
        if self.found_at.len() == MAX_SELF_REFERENCES {
            return Err(CaError::ManySelfReferences);
        }
        self.found_at.push(self.offset);
        self.pass(&[0; OWN]);
        Ok(())
    }
}
