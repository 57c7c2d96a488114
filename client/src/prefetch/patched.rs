//! What a patch makes: pieces, each by a script of a range of the old NAR.
//!
//! Guarantees: memory is one piece, its script, what it is made of and zstd's window: 56 MiB at
//! most, whatever the patch says. What comes out is not known to be right. A patch that is none is
//! an error.

use super::delta::Why;
use super::old_nar::OldNar;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use snowcache_core::delta::patch::{Head, MAX_HEAD_BYTES};
use snowcache_core::delta::script;
use snowcache_core::error::Error;
use std::io;
use std::ops::Range;
use tokio::runtime::Handle;

/// A patch under way.
pub(super) struct Patched {
    scripts: BoxStream<'static, Result<Bytes, Error>>,
    /// What came of them and is not used.
    came: BytesMut,
    /// The piece that was made last, and how much of it is used.
    piece: Vec<u8>,
    used: usize,
    /// The range of the old NAR that was read last.
    old: (Range<u64>, Vec<u8>),
}

impl Patched {
    /// The patch whose unpacked pieces come here.
    pub(super) fn new(scripts: BoxStream<'static, Result<Bytes, Error>>) -> Patched {
        Patched {
            scripts,
            came: BytesMut::new(),
            piece: Vec::new(),
            used: 0,
            old: (0..0, Vec::new()),
        }
    }

    /// The next bytes that it makes, at most `most` and at least one.
    pub(super) fn next(
        &mut self,
        most: u64,
        old: &mut OldNar,
        handle: &Handle,
    ) -> Result<&[u8], Why> {
        if self.used == self.piece.len() {
            self.make(old, handle)?;
        }
        let left = self.piece.len() - self.used;
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(left);
        self.used += len;
        Ok(&self.piece[self.used - len..self.used])
    }

    fn make(&mut self, old: &mut OldNar, handle: &Handle) -> Result<(), Why> {
        self.wait_for(MAX_HEAD_BYTES, handle)?;
        let head = &self.came[..self.came.len().min(MAX_HEAD_BYTES)];
        let (head, head_len) = Head::decode(head)?;
        let end = head_len + head.script_len as usize;
        self.wait_for(end, handle)?;
        if self.came.len() < end {
            return Err(Why::Patch("it ends within a piece"));
        }
        if self.old.0 != head.old {
            let bytes = &mut self.old.1;
            bytes.clear();
            old.read(head.old.clone(), &mut |some| {
                bytes.extend_from_slice(some);
                Ok(())
            })?;
            self.old.0 = head.old;
        }
        let script = &self.came[head_len..end];
        self.piece = script::apply(script, &self.old.1, head.raw_len as usize)?;
        self.used = 0;
        self.came.advance(end);
        Ok(())
    }

    /// Waits until so many bytes are there, or no more come.
    fn wait_for(&mut self, bytes: usize, handle: &Handle) -> Result<(), Why> {
        while self.came.len() < bytes
            && let Some(more) = handle.block_on(self.scripts.next())
        {
            self.came.extend_from_slice(&more?);
        }
        Ok(())
    }
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Why {
        Why::Old(error)
    }
}
