//! A path of the file system as a NAR, cut into pieces while it is read.
//!
//! Guarantees: the pieces are those that the server cuts, for it is the same parser and the same
//! cutter; memory is the cutter's and one buffer. What is read is not hashed against what nix knows
//! of it: the server does that. Never: a file followed through a symlink.

use snowcache_core::cut::{Cutter, Params, Piece};
use snowcache_nix::nar::{Event, Parser, WriteError, Writer};
use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Read from a file, and parsed, at a time.
const STEP_BYTES: usize = 64 << 10;

/// Why a path could not be packed.
#[derive(Debug, Error)]
pub enum PackError {
    /// It is gone, in whole or in part: nix collected it, for example.
    #[error("{} vanished from the store while it was pushed", .0.display())]
    Vanished(PathBuf),
    /// It could not be read.
    #[error("{} cannot be read: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is nothing that a NAR can hold.
    #[error("{} is neither a file, a folder nor a symlink", .0.display())]
    Strange(PathBuf),
    /// No NAR can be made of it.
    #[error("{} cannot be packed: {source}", .path.display())]
    Unpackable {
        /// The path.
        path: PathBuf,
        /// Why.
        source: WriteError,
    },
    /// Whoever took the pieces wants no more.
    #[error("given up")]
    Stopped,
}

/// Packs `path`; `take` gets its pieces and may end it by false.
///
/// # Errors
/// See [`PackError`].
pub fn pack(path: &Path, take: &mut dyn FnMut(Piece<'_>) -> bool) -> Result<(), PackError> {
    let sink = Sink {
        parser: Parser::with_limits(snowcache_nix::nar::Limits::default()),
        cutter: Cutter::new(Params::V1),
        buffer: Vec::with_capacity(STEP_BYTES),
        files: Vec::new(),
        take,
        stopped: false,
    };
    let mut writer = Writer::new(sink);
    let mut read = vec![0; STEP_BYTES];
    let mut regular = |path: &Path, about: &Metadata, writer: &mut Writer<Sink<'_>>| {
        regular(path, about, writer, &mut read)
    };
    walk(path, &mut writer, &mut regular)?;
    let mut sink = writer.finish().map_err(|error| unpackable(path, error))?;
    sink.step()
        .map_err(|error| unpackable(path, error.into()))?;
    let Sink {
        cutter,
        take,
        mut stopped,
        ..
    } = sink;
    cutter.finish(&mut |piece| stopped = stopped || !take(piece));
    match stopped {
        true => Err(PackError::Stopped),
        false => Ok(()),
    }
}

/// What the NAR is written to.
struct Sink<'a> {
    parser: Parser,
    cutter: Cutter,
    buffer: Vec<u8>,
    files: Vec<(u64, u64)>,
    take: &'a mut dyn FnMut(Piece<'_>) -> bool,
    stopped: bool,
}

impl Sink<'_> {
    /// Parses and cuts what is buffered.
    fn step(&mut self) -> io::Result<()> {
        let files = &mut self.files;
        let parsed = self.parser.feed(&self.buffer, &mut |event| {
            if let Event::File { size, offset, .. } = event {
                files.push((offset, size));
            }
        });
        parsed.map_err(io::Error::other)?;
        for (offset, size) in self.files.drain(..) {
            self.cutter.file(offset, size);
        }
        let (take, stopped) = (&mut self.take, &mut self.stopped);
        self.cutter.push(&self.buffer, &mut |piece| {
            *stopped = *stopped || !take(piece);
        });
        self.buffer.clear();
        match self.stopped {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(()),
        }
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stopped {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(STEP_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == STEP_BYTES {
            self.step()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the bytes of a regular file.
pub(crate) type Regular<'a, W> =
    dyn FnMut(&Path, &Metadata, &mut Writer<W>) -> Result<(), PackError> + 'a;

/// Packs `path` into `writer`, `regular` being called for each regular file. The depth is bounded
/// by the writer: 64.
pub(crate) fn walk<W: Write>(
    path: &Path,
    writer: &mut Writer<W>,
    regular: &mut Regular<'_, W>,
) -> Result<(), PackError> {
    let about = fs::symlink_metadata(path).map_err(|error| failed(path, error))?;
    let kind = about.file_type();
    if kind.is_file() {
        return regular(path, &about, writer);
    }
    if kind.is_symlink() {
        let target = fs::read_link(path).map_err(|error| failed(path, error))?;
        let target = target.into_os_string().into_vec();
        return writer
            .symlink(&target)
            .map_err(|error| unpackable(path, error));
    }
    if !kind.is_dir() {
        return Err(PackError::Strange(path.to_owned()));
    }
    writer
        .directory()
        .map_err(|error| unpackable(path, error))?;
    let entries = fs::read_dir(path).map_err(|error| failed(path, error))?;
    let names: io::Result<Vec<_>> = entries.map(|entry| Ok(entry?.file_name())).collect();
    let mut names = names.map_err(|error| failed(path, error))?;
    names.sort_unstable_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    for name in names {
        let inner = path.join(&name);
        let entry = writer.entry(name.as_bytes());
        entry.map_err(|error| unpackable(&inner, error))?;
        walk(&inner, writer, regular)?;
    }
    writer
        .end_directory()
        .map_err(|error| unpackable(path, error))
}

/// As nix sees it: by its owner.
pub(crate) fn is_executable(about: &Metadata) -> bool {
    about.permissions().mode() & 0o100 != 0
}

fn regular(
    path: &Path,
    about: &Metadata,
    writer: &mut Writer<Sink<'_>>,
    read: &mut [u8],
) -> Result<(), PackError> {
    let executable = is_executable(about);
    let mut file = File::open(path).map_err(|error| failed(path, error))?;
    let begun = writer.file(executable, about.len());
    begun.map_err(|error| unpackable(path, error))?;
    let mut left = about.len();
    while left > 0 {
        let most = read.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let len = file
            .read(&mut read[..most])
            .map_err(|error| failed(path, error))?;
        if len == 0 {
            return Err(failed(path, io::ErrorKind::UnexpectedEof.into()));
        }
        let written = writer.data(&read[..len]);
        written.map_err(|error| unpackable(path, error))?;
        left -= len as u64;
    }
    Ok(())
}

/// What became of a file that cannot be read.
pub(crate) fn failed(path: &Path, source: io::Error) -> PackError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => PackError::Vanished(path),
        _ => PackError::Unreadable { path, source },
    }
}

/// What cannot be packed.
pub(crate) fn unpackable(path: &Path, source: WriteError) -> PackError {
    let path = path.to_owned();
    match source {
        WriteError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => PackError::Stopped,
        source => PackError::Unpackable { path, source },
    }
}
