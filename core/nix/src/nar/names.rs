//! What makes names and targets canonical; shared by parser and writer.

use super::{MAX_DEPTH, MAX_NAME_BYTES, MAX_TARGET_BYTES, NarError, Quoted};

/// The last name of each open directory, end to end in one buffer.
#[derive(Debug, Clone, Default)]
pub(super) struct OpenDirectories {
    last_names: Vec<u8>,
    starts: Vec<usize>,
}

impl OpenDirectories {
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Refuses a node at `offset` that would be too deep.
    pub(super) fn check_depth(&self, offset: u64) -> Result<(), NarError> {
        if self.starts.len() < MAX_DEPTH {
            Ok(())
        } else {
            Err(NarError::Depth { offset })
        }
    }

    pub(super) fn open(&mut self) {
        self.starts.push(self.last_names.len());
    }

    pub(super) fn close(&mut self) {
        let start = self
            .starts
            .pop()
            .expect("invariant: a directory closes only when one is open");
        self.last_names.truncate(start);
    }

    /// Takes the next name of the innermost directory: a good one, and behind the one before it.
    pub(super) fn next(&mut self, offset: u64, name: &[u8]) -> Result<(), NarError> {
        check_name(offset, name)?;
        let &start = self
            .starts
            .last()
            .expect("invariant: entries come inside a directory");
        let previous = &self.last_names[start..];
        if name <= previous {
            let quoted = Quoted::new(name);
            return Err(if name == previous {
                NarError::Duplicate {
                    offset,
                    name: quoted,
                }
            } else {
                NarError::Unsorted {
                    offset,
                    name: quoted,
                    previous: Quoted::new(previous),
                }
            });
        }
        self.last_names.truncate(start);
        self.last_names.extend_from_slice(name);
        Ok(())
    }
}

pub(super) fn check_name_len(offset: u64, len: u64) -> Result<(), NarError> {
    let good = (1..=MAX_NAME_BYTES as u64).contains(&len);
    if good {
        Ok(())
    } else {
        Err(NarError::NameLength { offset, len })
    }
}

fn check_name(offset: u64, name: &[u8]) -> Result<(), NarError> {
    check_name_len(offset, name.len() as u64)?;
    let problem = match name {
        b"." | b".." => "is a step, not a name",
        name if memchr::memchr(b'/', name).is_some() => "holds a '/'",
        name if memchr::memchr(0, name).is_some() => "holds a NUL",
        _ => return Ok(()),
    };
    Err(NarError::Name {
        offset,
        name: Quoted::new(name),
        problem,
    })
}

pub(super) fn check_target_len(offset: u64, len: u64) -> Result<(), NarError> {
    let good = (1..=MAX_TARGET_BYTES as u64).contains(&len);
    if good {
        Ok(())
    } else {
        Err(NarError::TargetLength { offset, len })
    }
}

pub(super) fn check_target(offset: u64, target: &[u8]) -> Result<(), NarError> {
    check_target_len(offset, target.len() as u64)?;
    match memchr::memchr(0, target) {
        Some(_) => Err(NarError::TargetNul {
            offset,
            target: Quoted::new(target),
        }),
        None => Ok(()),
    }
}
