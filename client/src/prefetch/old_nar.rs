//! The NAR of a path of this node's store, read at any offset without being written anywhere.
//!
//! Guarantees: the bytes are those that nix would pack now; memory is what lies between the files'
//! contents in the NAR, about 300 bytes a file, of at most [`MAX_PIECES`] / 2 files. What is read
//! is not hashed: whoever puts something together of it does that.

use crate::push::pack::{self, PackError};
use snowcache_nix::nar::Writer;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file and what is before it are two: 100,000 files in a path are some 50 MB of these.
pub const MAX_PIECES: usize = 200_000;
/// Read from a file at a time.
const STEP_BYTES: usize = 256 << 10;

/// The pieces of a NAR, in order, each with the offset where it begins.
pub struct OldNar {
    pieces: Vec<(u64, Piece)>,
    nar_size_bytes: u64,
    /// The file that was read last.
    open: Option<(usize, File)>,
}

enum Piece {
    Between(Vec<u8>),
    File(PathBuf),
}

impl OldNar {
    /// The NAR of `path`.
    ///
    /// # Errors
    /// When it cannot be looked at, or has too many files.
    pub fn of(path: &Path) -> Result<OldNar, PackError> {
        let mut pieces = Vec::new();
        let mut writer = Writer::new(Vec::new());
        let mut between = 0;
        pack::walk(path, &mut writer, &mut |path, about, writer| {
            let too_many = || io::Error::other("it has too many files to be read in parts");
            if pieces.len() >= MAX_PIECES {
                return Err(pack::failed(path, too_many()));
            }
            let cannot = |error| pack::unpackable(path, error);
            let executable = pack::is_executable(about);
            writer.file(executable, about.len()).map_err(cannot)?;
            if about.len() > 0 {
                let bytes = std::mem::take(writer.sink());
                pieces.push((between, Piece::Between(bytes)));
                pieces.push((writer.offset(), Piece::File(path.to_owned())));
                between = writer.offset() + about.len();
                writer.skip_data(about.len()).map_err(cannot)?;
            }
            Ok(())
        })?;
        let nar_size_bytes = writer.offset();
        let rest = writer
            .finish()
            .map_err(|error| pack::unpackable(path, error))?;
        pieces.push((between, Piece::Between(rest)));
        Ok(OldNar {
            pieces,
            nar_size_bytes,
            open: None,
        })
    }

    /// Reads bytes of it; `take` gets them in order, some at a time.
    ///
    /// # Errors
    /// Those of the disk and of `take`; `UnexpectedEof` where the NAR is shorter, or a file by now.
    pub fn read(
        &mut self,
        range: Range<u64>,
        take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        if range.end > self.nar_size_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut buffer = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let number = self.pieces.partition_point(|(start, _)| *start <= at) - 1;
            let (start, piece) = &self.pieces[number];
            let next = self.pieces.get(number + 1);
            let end = next.map_or(self.nar_size_bytes, |(next, _)| *next);
            let within = at - start..range.end.min(end) - start;
            match piece {
                Piece::Between(bytes) => {
                    take(&bytes[within.start as usize..within.end as usize])?;
                }
                Piece::File(path) => {
                    let file = match &self.open {
                        Some((open, file)) if *open == number => file,
                        _ => &self.open.insert((number, File::open(path)?)).1,
                    };
                    from_file(file, within, &mut buffer, take)?;
                }
            }
            at = range.end.min(end);
        }
        Ok(())
    }
}

fn from_file(
    file: &File,
    range: Range<u64>,
    buffer: &mut Vec<u8>,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut at = range.start;
    while at < range.end {
        buffer.resize(STEP_BYTES.min((range.end - at) as usize), 0);
        file.read_exact_at(buffer, at)?;
        take(buffer)?;
        at += buffer.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A tree with whatever a NAR can hold.
    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("bin")).expect("a folder");
        std::fs::create_dir(at("empty")).expect("a folder");
        std::fs::write(at("bin/run"), vec![7; 300_001]).expect("a file");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(at("bin/run"), executable).expect("a mode");
        std::fs::write(at("none"), "").expect("a file");
        std::fs::write(at("text"), "some text").expect("a file");
        std::os::unix::fs::symlink("bin/run", at("link")).expect("a link");
        folder
    }

    fn read(old: &mut OldNar, range: Range<u64>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        old.read(range, &mut |bytes| {
            out.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(out)
    }

    #[test]
    fn any_range_is_what_the_packed_path_has_there() {
        let folder = tree();
        let mut packed = Vec::new();
        let mut take = |piece: snowcache_core::cut::Piece<'_>| {
            packed.extend_from_slice(piece.raw());
            true
        };
        pack::pack(folder.path(), &mut take).expect("packed");
        let mut old = OldNar::of(folder.path()).expect("a NAR");
        let size = packed.len() as u64;
        assert_eq!(old.nar_size_bytes, size);
        assert!(read(&mut old, 0..size).expect("whole") == packed);
        for start in (0..size).step_by(997).chain(size - 300..size) {
            for len in [1, 90, 2000, 280_000] {
                let end = size.min(start + len);
                let right = &packed[start as usize..end as usize];
                assert!(read(&mut old, start..end).expect("there") == right);
            }
        }
        assert!(read(&mut old, size - 1..size + 1).is_err(), "past the end");
    }

    #[test]
    fn a_file_that_got_shorter_or_went_away_is_an_error() {
        let folder = tree();
        let mut old = OldNar::of(folder.path()).expect("a NAR");
        std::fs::write(folder.path().join("text"), "some").expect("a file");
        let size = old.nar_size_bytes;
        let error = read(&mut old, 0..size).expect_err("shorter");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        std::fs::remove_file(folder.path().join("text")).expect("a file");
        let error = read(&mut old, 0..size).expect_err("gone");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
