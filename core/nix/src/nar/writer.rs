//! The mirror image of the parser: calls in, bytes out.

use std::io::Write;

use super::names::{self, OpenDirectories};
use super::{Event, MAGIC, WriteError, padded, padding};

/// What may be called next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The root, or what an entry is.
    Node,
    EntryOrEnd,
    Data {
        remaining: u64,
        padding: u8,
    },
    Finish,
}

impl Expect {
    const fn describe(self) -> &'static str {
        match self {
            Self::Node => "directory(), file() or symlink()",
            Self::EntryOrEnd => "entry() or end_directory()",
            Self::Data { .. } => "data(), the file has not all its bytes yet",
            Self::Finish => "finish()",
        }
    }
}

/// Writes one canonical NAR into `W`, and refuses to write any other.
///
/// A file ends by itself with its last byte, so an empty file ends at once.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    offset: u64,
    expect: Expect,
    open: OpenDirectories,
}

impl<W: Write> Writer<W> {
    /// A writer that has written nothing yet.
    pub fn new(out: W) -> Self {
        Self {
            out,
            offset: 0,
            expect: Expect::Node,
            open: OpenDirectories::default(),
        }
    }

    /// How many bytes were written.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Begins a directory.
    pub fn directory(&mut self) -> Result<(), WriteError> {
        self.begin_node("directory()", &[b"directory"])?;
        self.open.open();
        self.expect = Expect::EntryOrEnd;
        Ok(())
    }

    /// Begins an entry of the innermost directory; its node comes next.
    pub fn entry(&mut self, name: &[u8]) -> Result<(), WriteError> {
        self.expect("entry()", Expect::EntryOrEnd)?;
        self.open.next(self.offset, name)?;
        self.strings(&[b"entry", b"(", b"name", name, b"node"])?;
        self.expect = Expect::Node;
        Ok(())
    }

    /// Ends the innermost directory.
    pub fn end_directory(&mut self) -> Result<(), WriteError> {
        self.expect("end_directory()", Expect::EntryOrEnd)?;
        self.open.close();
        self.end_node()
    }

    /// Begins a file of exactly `size` bytes.
    pub fn file(&mut self, executable: bool, size: u64) -> Result<(), WriteError> {
        let words: &[&[u8]] = match executable {
            true => &[b"regular", b"executable", b"", b"contents"],
            false => &[b"regular", b"contents"],
        };
        self.begin_node("file()", words)?;
        self.bytes(&size.to_le_bytes())?;
        if size == 0 {
            return self.end_node();
        }
        self.expect = Expect::Data {
            remaining: size,
            padding: padding(size),
        };
        Ok(())
    }

    /// Writes the next bytes of the file; the last ones end it.
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if bytes.is_empty() && !matches!(self.expect, Expect::Data { .. }) {
            return Ok(());
        }
        let given = bytes.len() as u64;
        self.data_of("data()", given, |writer| writer.bytes(bytes))
    }

    /// As [`Writer::data`], but the `given` bytes are somewhere else: only the offset moves on.
    pub fn skip_data(&mut self, given: u64) -> Result<(), WriteError> {
        self.data_of("skip_data()", given, |writer| {
            writer.offset += given;
            Ok(())
        })
    }

    fn data_of(
        &mut self,
        call: &'static str,
        given: u64,
        put: impl FnOnce(&mut Self) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let Expect::Data { remaining, padding } = self.expect else {
            return Err(self.out_of_order(call));
        };
        let offset = self.offset;
        let left = remaining.checked_sub(given).ok_or(WriteError::LongFile {
            offset,
            remaining,
            given,
        })?;
        put(self)?;
        if left != 0 {
            self.expect = Expect::Data {
                remaining: left,
                padding,
            };
            return Ok(());
        }
        self.bytes(&[0; 8][..usize::from(padding)])?;
        self.end_node()
    }

    /// What is written to.
    pub fn sink(&mut self) -> &mut W {
        &mut self.out
    }

    /// Writes a symlink.
    pub fn symlink(&mut self, target: &[u8]) -> Result<(), WriteError> {
        names::check_target(self.offset, target)?;
        self.begin_node("symlink()", &[b"symlink", b"target", target])?;
        self.end_node()
    }

    /// Writes what a parser said.
    pub fn event(&mut self, event: Event<'_>) -> Result<(), WriteError> {
        match event {
            Event::Directory => self.directory(),
            Event::Entry { name } => self.entry(name),
            Event::EndDirectory => self.end_directory(),
            Event::File {
                executable, size, ..
            } => self.file(executable, size),
            Event::Data(bytes) => self.data(bytes),
            Event::EndFile => match self.expect {
                Expect::Data { .. } => Err(self.out_of_order("the end of a file")),
                _ => Ok(()),
            },
            Event::Symlink { target } => self.symlink(target),
        }
    }

    /// Gives the output back, if the NAR is whole.
    pub fn finish(self) -> Result<W, WriteError> {
        self.expect("finish()", Expect::Finish)?;
        Ok(self.out)
    }

    fn expect(&self, call: &'static str, expect: Expect) -> Result<(), WriteError> {
        if self.expect == expect {
            Ok(())
        } else {
            Err(self.out_of_order(call))
        }
    }

    fn out_of_order(&self, call: &'static str) -> WriteError {
        WriteError::Order {
            offset: self.offset,
            call,
            expected: self.expect.describe(),
        }
    }

    fn begin_node(&mut self, call: &'static str, words: &[&[u8]]) -> Result<(), WriteError> {
        self.expect(call, Expect::Node)?;
        self.open.check_depth(self.offset)?;
        if self.offset == 0 {
            self.string(MAGIC.as_bytes())?;
        }
        self.strings(&[b"(", b"type"])?;
        self.strings(words)
    }

    fn end_node(&mut self) -> Result<(), WriteError> {
        self.string(b")")?;
        if self.open.is_empty() {
            self.expect = Expect::Finish;
            return Ok(());
        }
        self.expect = Expect::EntryOrEnd;
        self.string(b")")
    }

    fn strings(&mut self, strings: &[&[u8]]) -> Result<(), WriteError> {
        strings.iter().try_for_each(|string| self.string(string))
    }

    fn string(&mut self, string: &[u8]) -> Result<(), WriteError> {
        self.bytes(&(string.len() as u64).to_le_bytes())?;
        self.bytes(string)?;
        self.bytes(&[0; 8][..padded(string.len()) - string.len()])
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }
}
