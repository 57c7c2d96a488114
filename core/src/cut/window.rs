//! The last bytes of a stream, addressed by their offset in it.

/// A buffer over the end of a stream. Its capacity is fixed: what is kept and what is added must
/// fit.
#[derive(Debug)]
pub(super) struct Window {
    bytes: Vec<u8>,
    base: u64,
}

impl Window {
    pub(super) fn with_capacity(capacity: usize) -> Window {
        Window {
            bytes: Vec::with_capacity(capacity),
            base: 0,
        }
    }

    /// Offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Adds bytes; where that needs room, those before `keep` go.
    pub(super) fn append(&mut self, bytes: &[u8], keep: u64) {
        if self.bytes.len() + bytes.len() > self.bytes.capacity() {
            let gone = self.index(keep);
            self.bytes.drain(..gone);
            self.base = keep;
            debug_assert!(self.bytes.len() + bytes.len() <= self.bytes.capacity());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// All bytes there are.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn slice(&self, from: u64, to: u64) -> &[u8] {
        &self.bytes[self.index(from)..self.index(to)]
    }

    /// Where in [`Window::bytes`] the byte at `offset` is.
    pub(super) fn index(&self, offset: u64) -> usize {
        usize::try_from(offset - self.base).expect("invariant: offsets in use lie in the window")
    }

    /// The offset of the byte at `index`.
    pub(super) fn offset(&self, index: usize) -> u64 {
        self.base + index as u64
    }
}
