//! Numbers and strings on a stream, in both directions.
//!
//! Guarantees: a reader takes memory for a string only when its length is within the limit that
//! the caller names, and holds at most [`BUFFER_BYTES`] beside it; padding must be zero, as Nix has
//! it. A writer gathers what is small, so that a request is one call to the system.

use std::io::{self, IoSlice};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::DaemonError;

/// What is read at a time, and gathered before it is written: four times Nix's own buffer of 32
/// KiB would be no faster here, since answers are short.
const BUFFER_BYTES: usize = 32 << 10;

/// The longest piece of a NAR in one frame: the daemon takes memory for a whole frame.
const MAX_FRAME_BYTES: usize = 256 << 10;

/// Shorter pieces are copied to stand beside others; longer ones are written where they lie.
const COPIED_BYTES: usize = 8 << 10;

/// The half of a connection that sends.
pub(super) struct Writer<W> {
    stream: W,
    pending: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) fn new(stream: W) -> Self {
        Self {
            stream,
            pending: Vec::new(),
        }
    }

    pub(super) fn number(&mut self, number: u64) {
        self.pending.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.pending.extend_from_slice(text.as_bytes());
        let padded = self.pending.len() + padding(text.len());
        self.pending.resize(padded, 0);
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, texts: impl ExactSizeIterator<Item = String>) {
        self.number(texts.len() as u64);
        for text in texts {
            self.text(&text);
        }
    }

    /// A piece of a NAR. An empty one would mean the end, so it is none.
    pub(super) async fn frames(&mut self, bytes: &[u8]) -> Result<(), DaemonError> {
        for frame in bytes.chunks(MAX_FRAME_BYTES) {
            self.number(frame.len() as u64);
            if frame.len() <= COPIED_BYTES {
                self.pending.extend_from_slice(frame);
            } else {
                self.write_with(frame).await?;
            }
            if self.pending.len() >= BUFFER_BYTES {
                self.write_pending().await?;
            }
        }
        Ok(())
    }

    /// Sends what was gathered.
    pub(super) async fn flush(&mut self) -> Result<(), DaemonError> {
        self.write_pending().await?;
        self.stream.flush().await.map_err(writing)
    }

    /// What was gathered and these bytes, in one call to the system: a daemon that is woken for the
    /// eight bytes of a length alone waits again for the rest.
    async fn write_with(&mut self, bytes: &[u8]) -> Result<(), DaemonError> {
        let mut slices = [IoSlice::new(&self.pending), IoSlice::new(bytes)];
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            let written = self.stream.write_vectored(slices).await;
            match written.map_err(writing)? {
                0 => return Err(writing(io::ErrorKind::WriteZero.into())),
                written => IoSlice::advance_slices(&mut slices, written),
            }
        }
        self.pending.clear();
        Ok(())
    }

    async fn write_pending(&mut self) -> Result<(), DaemonError> {
        let written = self.stream.write_all(&self.pending).await;
        self.pending.clear();
        written.map_err(writing)
    }
}

/// The half of a connection that receives.
pub(super) struct Reader<R> {
    stream: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    pub(super) async fn number(&mut self) -> Result<u64, DaemonError> {
        let mut number = [0; 8];
        self.exactly(&mut number).await?;
        Ok(u64::from_le_bytes(number))
    }

    pub(super) async fn yes_or_no(&mut self) -> Result<bool, DaemonError> {
        Ok(self.number().await? != 0)
    }

    /// A number of things that follow.
    pub(super) async fn count(
        &mut self,
        what: &'static str,
        limit: u64,
    ) -> Result<u64, DaemonError> {
        let found = self.number().await?;
        match found <= limit {
            true => Ok(found),
            false => Err(DaemonError::TooLong { what, found, limit }),
        }
    }

    /// A string that must be text.
    pub(super) async fn text(
        &mut self,
        what: &'static str,
        limit_bytes: u64,
    ) -> Result<String, DaemonError> {
        let text = self.string(what, limit_bytes).await?;
        String::from_utf8(text).map_err(|_| DaemonError::Text { expected: what })
    }

    /// A string as Nix has them: any bytes.
    pub(super) async fn string(
        &mut self,
        what: &'static str,
        limit_bytes: u64,
    ) -> Result<Vec<u8>, DaemonError> {
        let length = self.count(what, limit_bytes).await? as usize;
        let mut string = vec![0; length];
        self.exactly(&mut string).await?;
        let mut zeros = [0; 7];
        let zeros = &mut zeros[..padding(length)];
        self.exactly(zeros).await?;
        if let Some(&found) = zeros.iter().find(|&&byte| byte != 0) {
            let expected = "the padding of a string";
            let found = u64::from(found);
            return Err(DaemonError::Unexpected { expected, found });
        }
        Ok(string)
    }

    /// What there is, at least a byte.
    pub(super) async fn some(&mut self) -> Result<Vec<u8>, DaemonError> {
        if self.start == self.end {
            self.fill().await?;
        }
        let bytes = self.buffer[self.start..self.end].to_vec();
        self.start = self.end;
        Ok(bytes)
    }

    async fn fill(&mut self) -> Result<(), DaemonError> {
        let read = self.stream.read(&mut self.buffer).await;
        (self.start, self.end) = (0, read.map_err(reading)?);
        match self.end {
            0 => Err(DaemonError::Closed),
            _ => Ok(()),
        }
    }

    async fn exactly(&mut self, mut into: &mut [u8]) -> Result<(), DaemonError> {
        while !into.is_empty() {
            if self.start == self.end {
                self.fill().await?;
            }
            let here = into.len().min(self.end - self.start);
            let (now, later) = into.split_at_mut(here);
            now.copy_from_slice(&self.buffer[self.start..self.start + here]);
            self.start += here;
            into = later;
        }
        Ok(())
    }
}

/// How many zeros follow a string of so many bytes.
fn padding(length: usize) -> usize {
    length.wrapping_neg() % 8
}

fn reading(source: io::Error) -> DaemonError {
    let doing = "reading";
    DaemonError::Io { doing, source }
}

fn writing(source: io::Error) -> DaemonError {
    let doing = "writing";
    DaemonError::Io { doing, source }
}
