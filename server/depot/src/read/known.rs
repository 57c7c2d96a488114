//! A layout that is kept in memory with its reader, so that what is sent next needs no look-up.
//!
//! Guarantees: its parts are used only while they are what the index would say now. Never: the
//! layout of a long NAR, whose look-ups are few for its bytes.

use std::sync::Arc;

use super::NarReader;
use crate::layout::Part;
use crate::versions::Version;
use crate::{KeptNar, Result};

/// Blocks of the longest layout that is kept: some 100 MB of a NAR, in half a megabyte.
const MAX_BLOCKS: usize = 16;

/// All parts of a layout, block by block.
pub struct Known {
    version: Version,
    blocks: Vec<Arc<[Part]>>,
}

impl KeptNar<NarReader> {
    /// The same NAR, with its layout in memory where it is not long.
    ///
    /// # Errors
    /// What cannot be read of the index.
    pub fn with_layout(self) -> Result<KeptNar<NarReader>> {
        let version = self.version();
        let known = Known::read(self.made(), version)?;
        let known = known.map(Arc::new);
        Ok(self.map(|reader| NarReader { known, ..reader }))
    }
}

impl Known {
    /// None where it is long, or was made anew since the version.
    fn read(reader: &NarReader, version: Version) -> Result<Option<Known>> {
        let NarReader {
            shared,
            nar,
            layout,
            ..
        } = reader;
        let count = layout.blocks.len();
        if count > MAX_BLOCKS {
            return Ok(None);
        }
        let mut blocks = Vec::with_capacity(count);
        for number in 0..count {
            match layout.block(&*shared.index, &nar.nar_hash, number)? {
                Some(parts) => blocks.push(parts.into()),
                None => return Ok(None),
            }
        }
        let is_still = shared.watchers.versions.holds(version);
        Ok(is_still.then_some(Known { version, blocks }))
    }
}

impl NarReader {
    /// The parts of block `number`, where they are in memory and as the index has them.
    pub(super) fn known(&self, number: usize) -> Option<Arc<[Part]>> {
        let known = self.known.as_ref()?;
        let is_still = self.shared.watchers.versions.holds(known.version);
        known.blocks.get(number).filter(|_| is_still).cloned()
    }

    /// Whether the layout is in memory.
    pub fn is_known(&self) -> bool {
        self.known.is_some()
    }

    /// Bytes that the layout takes in memory.
    pub fn known_bytes(&self) -> usize {
        let blocks = self.known.iter().flat_map(|known| &known.blocks);
        let parts = blocks.flat_map(|parts| parts.iter());
        let taken = parts.map(|part| match part {
            Part::Literal(bytes) => size_of::<Part>() + bytes.len(),
            Part::Extent(_) => size_of::<Part>() + EXTENT_ROW_BYTES,
        });
        taken.sum()
    }
}

/// An extent in the row that literals beside it are slices of: five numbers of 1 to 5 bytes.
const EXTENT_ROW_BYTES: usize = 16;
