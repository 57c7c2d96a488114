//! One file of the spool: spans, each with its checksum.
//!
//! ```text
//!   span, span, ...      the first says what the others are of, as JSON
//!   a span: length of the bytes, their CRC-32C (4 bytes each, little-endian), the bytes
//! ```
//! Guarantees: a span that was not written whole, or is not as it was written, ends the file for
//! whoever reads it. One process at a time has it.

use bytes::Bytes;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, IoSlice, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Length and checksum.
const HEAD_BYTES: u64 = 8;

/// A span has what was gathered and a chunk more, 384 KiB; a longer one is none of ours.
const MAX_SPAN_BYTES: u32 = 1 << 20;

/// What an entry is of: whoever comes back must want the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct About {
    /// The cache that sends it: what two caches send is never put together.
    pub cache: String,
    /// What it is asked for.
    pub what: String,
    /// What the cache said of the version that came.
    pub etag: Option<String>,
}

/// See the module.
pub(super) struct SpanFile {
    path: PathBuf,
    /// None before there is something to write.
    file: Option<File>,
    /// Where the next span is written.
    end: u64,
    /// Where the next one is read.
    next: u64,
}

/// What a file had when it was opened.
#[derive(Default)]
pub(super) struct Found {
    pub etag: Option<String>,
    /// In all spans but the first.
    pub bytes: u64,
}

impl SpanFile {
    /// The one at this path, which need not exist; nothing where somebody else has it.
    pub fn open(path: PathBuf, about: &About) -> io::Result<Option<(SpanFile, Found)>> {
        let mut opened = SpanFile {
            path,
            file: None,
            end: 0,
            next: 0,
        };
        let file = match OpenOptions::new().read(true).write(true).open(&opened.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Some((opened, Found::default())));
            }
            file => file?,
        };
        if !lock(&file)? {
            return Ok(None);
        }
        let found = opened.look(&file, about)?;
        opened.file = Some(file);
        Ok(Some((opened, found)))
    }

    /// Whether nobody has it.
    pub fn is_free(path: &Path) -> bool {
        File::open(path).is_ok_and(|file| lock(&file).unwrap_or(false))
    }

    /// What is there, if it is of the same; the spans themselves are not read yet.
    fn look(&mut self, file: &File, about: &About) -> io::Result<Found> {
        let len = file.metadata()?.len();
        let Some(first) = read(file, 0)? else {
            return Ok(Found::default());
        };
        let Ok(written) = serde_json::from_slice::<About>(&first) else {
            return Ok(Found::default());
        };
        if (&written.cache, &written.what) != (&about.cache, &about.what) {
            return Ok(Found::default());
        }
        self.next = HEAD_BYTES + first.len() as u64;
        self.end = self.next;
        let mut bytes = 0;
        while let Some((span, _)) = head(file, self.end)?
            && self.end + HEAD_BYTES + u64::from(span) <= len
        {
            self.end += HEAD_BYTES + u64::from(span);
            bytes += u64::from(span);
        }
        let etag = written.etag;
        Ok(Found { etag, bytes })
    }

    /// The next span; nothing at the end of those that are right. What is behind it is cut off.
    pub fn next(&mut self) -> io::Result<Option<Bytes>> {
        let Some(file) = self.file.as_ref().filter(|_| self.next < self.end) else {
            return Ok(None);
        };
        let span = read(file, self.next)?;
        match &span {
            Some(bytes) => self.next += HEAD_BYTES + bytes.len() as u64,
            None => self.end = self.next,
        }
        Ok(span.map(Bytes::from))
    }

    /// What is there is of no use.
    pub fn clear(&mut self) {
        (self.end, self.next) = (0, 0);
    }

    /// What one span more takes on the disk.
    pub fn cost_bytes(&self, about: &About, bytes: u64) -> u64 {
        let first = match self.end {
            0 => HEAD_BYTES + about.to_json().len() as u64,
            _ => 0,
        };
        first + HEAD_BYTES + bytes
    }

    /// One span more; before the first one `about`. Gives how much of what was there went for it.
    pub fn append(&mut self, about: &About, chunks: &[Bytes]) -> io::Result<u64> {
        let file = match self.file.take() {
            Some(file) => file,
            None => create(&self.path)?,
        };
        let mut file = &*self.file.insert(file);
        let cut_off_bytes = file.metadata()?.len().saturating_sub(self.end);
        if cut_off_bytes > 0 {
            file.set_len(self.end)?;
        }
        file.seek(SeekFrom::Start(self.end))?;
        if self.end == 0 {
            self.end += write(&mut file, &[about.to_json().into()])?;
        }
        self.end += write(&mut file, chunks)?;
        self.next = self.end;
        Ok(cut_off_bytes)
    }
}

impl About {
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("invariant: texts can be written as JSON")
    }
}

/// Whether nobody else had it.
fn lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn create(path: &Path) -> io::Result<File> {
    let folder = path.parent().unwrap_or(Path::new("."));
    if !folder.exists() {
        // What is fetched with a token is nobody else's business.
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700).create(folder)?;
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = options.mode(0o600).open(path)?;
    match lock(&file)? {
        true => Ok(file),
        false => Err(io::ErrorKind::WouldBlock.into()),
    }
}

/// A span's length and checksum; nothing where there is none.
fn head(file: &File, at: u64) -> io::Result<Option<(u32, u32)>> {
    let mut head = [0; HEAD_BYTES as usize];
    match file.read_exact_at(&mut head, at) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let number =
        |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let len = number(0);
    Ok((1..=MAX_SPAN_BYTES)
        .contains(&len)
        .then(|| (len, number(4))))
}

fn read(file: &File, at: u64) -> io::Result<Option<Vec<u8>>> {
    let Some((len, checksum)) = head(file, at)? else {
        return Ok(None);
    };
    let mut bytes = vec![0; len as usize];
    match file.read_exact_at(&mut bytes, at + HEAD_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    Ok((crc32c::crc32c(&bytes) == checksum).then_some(bytes))
}

/// A span, in one call to the system where that takes it whole.
fn write(file: &mut &File, chunks: &[Bytes]) -> io::Result<u64> {
    let len: usize = chunks.iter().map(Bytes::len).sum();
    let checksum = chunks
        .iter()
        .fold(0, |sum, chunk| crc32c::crc32c_append(sum, chunk));
    let mut head = Vec::with_capacity(HEAD_BYTES as usize);
    head.extend_from_slice(&(len as u32).to_le_bytes());
    head.extend_from_slice(&checksum.to_le_bytes());
    let slices = std::iter::once(IoSlice::new(&head));
    let mut slices: Vec<_> = slices
        .chain(chunks.iter().map(|it| IoSlice::new(it)))
        .collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match file.write_vectored(slices)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => IoSlice::advance_slices(&mut slices, written),
        }
    }
    Ok(HEAD_BYTES + len as u64)
}
