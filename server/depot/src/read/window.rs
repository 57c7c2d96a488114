//! What is sent next of a NAR: runs of frames where they lie, and bytes in memory between them.
//!
//! Guarantees: what a run names was checked; neighbouring bytes are one piece. Never: more memory
//! than [`UNPACKED_BYTES`] and one frame; for what is sent as stored [`COPIED_BYTES`] and one short
//! extent, or where it is to take little [`LEAN_BYTES`] and one literal.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::segments::file::SegmentFile;

/// Shorter runs are copied: a call for each costs more than moving its bytes (measured: runs of
/// 26 KiB cost 0.07 to 0.12 CPU seconds a GB by sendfile, of 12 KiB 0.14 to 0.22).
pub const SHORT_BYTES: usize = 32 << 10;

/// Bytes of literals and short extents that are made ready at once.
pub const COPIED_BYTES: usize = 64 << 10;

/// Bytes of literals in a window that is to take little: with its pieces 6 KB.
pub const LEAN_BYTES: usize = 2 << 10;

/// NAR bytes that are unpacked at once: two frames of usual size (256 KiB).
pub const UNPACKED_BYTES: usize = 512 << 10;

/// Bytes that a window names in all: some milliseconds of a fast network.
const NAMED_BYTES: u64 = 8 << 20;

/// Pieces of a window: 64 runs and what lies between them.
pub const PIECES: usize = 128;

/// Pieces of one that is to take little.
pub const LEAN_PIECES: usize = 32;

/// Buffers kept for the next window: 8 MiB, as many as are filled at once.
const KEPT_BUFFERS: usize = 16;

/// Records of a segment that lie together, sent as they lie.
#[derive(Clone)]
pub struct Run {
    file: Arc<SegmentFile>,
    offset: u64,
    len: u64,
}

impl Run {
    /// Where they begin in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Their length.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first `len` bytes of them.
    pub fn first(self, len: u64) -> Run {
        let len = len.min(self.len);
        Run { len, ..self }
    }

    /// How many of the first `len` bytes the kernel seems to hold, so that sending them waits for
    /// no disk.
    pub fn cached_len(&self, len: u64) -> u64 {
        self.file.cached_len(self.offset, len.min(self.len))
    }

    /// Fills `buf` with the first bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn read(&self, buf: &mut [u8]) -> std::io::Result<()> {
        self.file.read(self.offset, buf)
    }
}

impl AsFd for Run {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Consecutive bytes of what is sent.
#[derive(Clone)]
pub enum Piece {
    /// In memory.
    Bytes(Bytes),
    /// In a segment.
    Run(Run),
}

impl Piece {
    /// How many bytes.
    pub fn len(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Run(run) => run.len,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first `count` bytes off.
    pub fn advance(&mut self, count: u64) {
        match self {
            Piece::Bytes(bytes) => drop(bytes.split_to(count as usize)),
            Piece::Run(run) => {
                run.offset += count;
                run.len -= count;
            }
        }
    }
}

/// Pieces that are being made ready.
#[derive(Default)]
pub struct Window {
    pieces: VecDeque<Piece>,
    buffer: Vec<u8>,
    copied: usize,
    named: u64,
}

impl Window {
    /// Bytes in memory, to be appended to.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Whether what is ready is enough: so many bytes in memory, or so many pieces.
    pub fn is_full(&self, copied: usize, pieces: usize) -> bool {
        self.copied + self.buffer.len() >= copied
            || self.named >= NAMED_BYTES
            || self.pieces.len() >= pieces
    }

    /// Adds `len` bytes at `offset` of `file`.
    pub fn run(&mut self, file: &Arc<SegmentFile>, offset: u64, len: u64) {
        self.named += len;
        self.close();
        if let Some(Piece::Run(last)) = self.pieces.back_mut()
            && Arc::ptr_eq(&last.file, file)
            && last.offset + last.len == offset
        {
            last.len += len;
            return;
        }
        let file = file.clone();
        self.pieces.push_back(Piece::Run(Run { file, offset, len }));
    }

    fn close(&mut self) {
        if !self.buffer.is_empty() {
            self.copied += self.buffer.len();
            let buffer = std::mem::take(&mut self.buffer);
            self.pieces.push_back(Piece::Bytes(Bytes::from(buffer)));
        }
    }

    /// What was made ready.
    pub fn finish(mut self) -> VecDeque<Piece> {
        self.close();
        self.pieces
    }
}

/// A buffer of [`UNPACKED_BYTES`] for NAR bytes, which serves again when the last of them was sent.
pub struct Unpacked(Vec<u8>);

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

impl Unpacked {
    /// An empty one.
    pub fn buffer() -> Vec<u8> {
        let kept = KEPT.lock().ok().and_then(|mut kept| kept.pop());
        kept.unwrap_or_else(|| Vec::with_capacity(UNPACKED_BYTES))
    }

    /// The bytes of a filled one.
    pub fn bytes(buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Unpacked(buffer))
    }
}

impl AsRef<[u8]> for Unpacked {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        // One that a large frame has made larger goes.
        if buffer.capacity() == UNPACKED_BYTES
            && let Ok(mut kept) = KEPT.lock()
            && kept.len() < KEPT_BUFFERS
        {
            kept.push(buffer);
        }
    }
}
