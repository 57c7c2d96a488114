//! What a patch makes: pieces that are unpacked with ranges of the old NAR as prefix.
//!
//! Guarantees: memory is one piece, packed and unpacked, and its prefix: 48 MiB at most, whatever
//! the patch says. What comes out is not known to be right. A patch that is none is an error.

use super::delta::Why;
use super::old_nar::OldNar;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use snowcache_core::delta::patch::{Head, MAX_HEAD_BYTES};
use snowcache_core::error::Error;
use std::io;
use std::ops::Range;
use tokio::runtime::Handle;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// A patch under way.
pub(super) struct Patched {
    packed: BoxStream<'static, Result<Bytes, Error>>,
    /// What came of it and is not unpacked.
    came: BytesMut,
    /// The piece that was unpacked last, and how much of it is used.
    piece: Vec<u8>,
    used: usize,
    /// The range of the old NAR that was read last.
    prefix: (Range<u64>, Vec<u8>),
}

impl Patched {
    /// The patch whose pieces come here.
    pub(super) fn new(packed: BoxStream<'static, Result<Bytes, Error>>) -> Patched {
        Patched {
            packed,
            came: BytesMut::new(),
            piece: Vec::new(),
            used: 0,
            prefix: (0..0, Vec::new()),
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
            self.unpack(old, handle)?;
        }
        let left = self.piece.len() - self.used;
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(left);
        self.used += len;
        Ok(&self.piece[self.used - len..self.used])
    }

    fn unpack(&mut self, old: &mut OldNar, handle: &Handle) -> Result<(), Why> {
        self.wait_for(MAX_HEAD_BYTES, handle)?;
        let head = &self.came[..self.came.len().min(MAX_HEAD_BYTES)];
        let (head, head_len) = Head::decode(head)?;
        let stored_len = head.stored_len as usize;
        self.wait_for(head_len + stored_len, handle)?;
        if self.came.len() < head_len + stored_len {
            return Err(Why::Patch("it ends within a piece"));
        }
        if self.prefix.0 != head.prefix {
            let bytes = &mut self.prefix.1;
            bytes.clear();
            old.read(head.prefix.clone(), &mut |some| {
                bytes.extend_from_slice(some);
                Ok(())
            })?;
            self.prefix.0 = head.prefix;
        }
        let stored = &self.came[head_len..head_len + stored_len];
        self.piece = unpacked(stored, &self.prefix.1, head.raw_len as usize)?;
        self.used = 0;
        self.came.advance(head_len + stored_len);
        Ok(())
    }

    /// Waits until so many bytes are there, or no more come.
    fn wait_for(&mut self, bytes: usize, handle: &Handle) -> Result<(), Why> {
        while self.came.len() < bytes
            && let Some(more) = handle.block_on(self.packed.next())
        {
            self.came.extend_from_slice(&more?);
        }
        Ok(())
    }
}

fn unpacked(stored: &[u8], prefix: &[u8], raw_len: usize) -> Result<Vec<u8>, Why> {
    let mut piece = Vec::with_capacity(raw_len);
    let mut from = InBuffer::around(stored);
    let mut to = OutBuffer::around(&mut piece);
    let mut decoder = Decoder::with_ref_prefix(prefix)?;
    let hint = decoder.run(&mut from, &mut to)?;
    let whole = hint == 0 && from.pos() == stored.len() && piece.len() == raw_len;
    whole
        .then_some(piece)
        .ok_or(Why::Patch("a piece is not as long as it says"))
}

impl From<io::Error> for Why {
    fn from(error: io::Error) -> Why {
        Why::Old(error)
    }
}
