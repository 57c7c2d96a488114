//! Whether a path is what its content address says: name first, bytes as they stream by.

use super::digest::Digest;
use super::{CaError, Check, ContentAddress, HashModulo};
use crate::hash::Hash;
use crate::nar::{Event, Parser};
use crate::store_path::StorePath;

/// Checks one path. Fed with the whole NAR, it says yes or why not.
#[derive(Debug)]
pub struct Verifier {
    claimed: Hash,
    running: Running,
}

#[derive(Debug)]
enum Running {
    Nar(Digest),
    Modulo(HashModulo),
    Flat(Flat),
}

/// The bytes of the one plain file that the NAR must be.
#[derive(Debug)]
struct Flat {
    parser: Parser,
    digest: Digest,
    other: Option<&'static str>,
}

impl Verifier {
    /// Checks that `path` follows from `address` and `references` (among which it may be itself),
    /// and makes ready for its bytes.
    pub fn new(
        address: &ContentAddress,
        path: &StorePath,
        references: &[StorePath],
    ) -> Result<Self, CaError> {
        let others: Vec<StorePath> = references.iter().filter(|&r| r != path).cloned().collect();
        let self_reference = references.contains(path);
        let computed = address.store_path_for(path.name(), &others, self_reference)?;
        if computed != *path {
            return Err(CaError::WrongPath {
                claimed: path.clone(),
                computed,
            });
        }
        let digest = |algorithm| Digest::new(algorithm).ok_or_else(|| address.unsupported());
        let running = match address.check(self_reference)? {
            Check::Nar(algorithm) => Running::Nar(digest(algorithm)?),
            Check::NarModuloSelf => Running::Modulo(HashModulo::new(path.hash())),
            Check::Flat(algorithm) => Running::Flat(Flat {
                parser: Parser::new(),
                digest: digest(algorithm)?,
                other: None,
            }),
        };
        Ok(Self {
            claimed: address.hash(),
            running,
        })
    }

    /// Takes the next bytes of the NAR.
    pub fn feed(&mut self, nar_bytes: &[u8]) -> Result<(), CaError> {
        match &mut self.running {
            Running::Nar(digest) => digest.update(nar_bytes),
            Running::Modulo(hash) => hash.feed(nar_bytes)?,
            Running::Flat(flat) => flat.feed(nar_bytes)?,
        }
        Ok(())
    }

    /// Says yes, or why the bytes are not what the content address says.
    pub fn finish(self) -> Result<(), CaError> {
        let computed = match self.running {
            Running::Nar(digest) => digest.finish(),
            Running::Modulo(hash) => {
                let either = hash.finish_both().map(Hash::from);
                let claimed = either.iter().find(|&&hash| hash == self.claimed);
                *claimed.unwrap_or(&either[0])
            }
            Running::Flat(flat) => {
                flat.parser.finish()?;
                flat.digest.finish()
            }
        };
        if computed == self.claimed {
            return Ok(());
        }
        Err(CaError::WrongHash {
            claimed: Box::new(self.claimed),
            computed: Box::new(computed),
        })
    }
}

impl Flat {
    fn feed(&mut self, nar_bytes: &[u8]) -> Result<(), CaError> {
        let (digest, other) = (&mut self.digest, &mut self.other);
        let fed = self.parser.feed(nar_bytes, &mut |event| {
            let found = match event {
                Event::Data(bytes) => return digest.update(bytes),
                Event::File {
                    executable: true, ..
                } => "an executable file",
                Event::Directory => "a directory",
                Event::Symlink { .. } => "a symlink",
                _ => return,
            };
            other.get_or_insert(found);
        });
        // The root comes first, so its refusal does, too: whatever else these bytes hold.
        match *other {
            Some(found) => Err(CaError::NotAFile { found }),
            None => Ok(fed?),
        }
    }
}
