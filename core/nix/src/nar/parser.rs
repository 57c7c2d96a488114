//! The push parser: bytes in, as they come; events out.

use super::names::{self, OpenDirectories};
use super::{Event, Limits, MAGIC, NarError, Quoted, padded, padding};

/// Every string begins with its length.
const LENGTH_BYTES: usize = 8;

/// Longest string where a word must stand: `nix-archive-1` has 13 bytes; a little more is read so
/// that an error can show what stands there instead.
const MAX_WORD_BYTES: u64 = 32;

/// What the grammar has next. Each but the last three is one string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Magic,
    NodeOpen,
    TypeWord,
    Type,
    ExecutableOrContents,
    ExecutableValue,
    ContentsWord,
    TargetWord,
    Target,
    /// Closes a file or a symlink.
    NodeClose {
        file: bool,
    },
    EntryOrClose,
    EntryOpen,
    NameWord,
    Name,
    NodeWord,
    EntryClose,
    /// The size of a file; only a number, its bytes follow as [`Expect::Contents`].
    Size,
    Contents {
        remaining: u64,
        padding: u8,
    },
    ContentsPadding(u8),
    Nothing,
}

impl Expect {
    /// As an error says it.
    const fn describe(self) -> &'static str {
        match self {
            Self::Magic => "'nix-archive-1'",
            Self::NodeOpen | Self::EntryOpen => "'('",
            Self::TypeWord => "'type'",
            Self::Type => "'regular', 'symlink' or 'directory'",
            Self::ExecutableOrContents => "'executable' or 'contents'",
            Self::ExecutableValue => "an empty string",
            Self::ContentsWord => "'contents'",
            Self::TargetWord => "'target'",
            Self::Target => "a symlink target",
            Self::NodeClose { .. } | Self::EntryClose => "')'",
            Self::EntryOrClose => "'entry' or ')'",
            Self::NameWord => "'name'",
            Self::Name => "a file name",
            Self::NodeWord => "'node'",
            Self::Size => "the size of a file",
            Self::Contents { .. } => "the contents of a file",
            Self::ContentsPadding(_) => "the padding of a file",
            Self::Nothing => "nothing",
        }
    }
}

/// The part of a string that is read next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Length,
    /// So many bytes, and their zeros.
    Bytes(usize),
}

/// Reads one NAR, fed in any pieces. See the module's documentation for what it accepts.
///
/// After an error it stays in error: every later call gives the same one.
#[derive(Debug, Clone)]
pub struct Parser {
    limits: Limits,
    expect: Expect,
    part: Part,
    /// Where the part to be read next begins.
    offset: u64,
    /// Where the string to be read next, or being read, begins.
    string_at: u64,
    /// The first bytes of a part that the end of the input cut.
    cut: Vec<u8>,
    executable: bool,
    open: OpenDirectories,
    failed: Option<NarError>,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser with the default limits.
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// A parser with limits of the caller's.
    pub fn with_limits(limits: Limits) -> Self {
        Self {
            limits,
            expect: Expect::Magic,
            part: Part::Length,
            offset: 0,
            string_at: 0,
            cut: Vec::new(),
            executable: false,
            open: OpenDirectories::default(),
            failed: None,
        }
    }

    /// Takes the next bytes of the NAR and tells `on` what they say. How the input is split changes
    /// nothing but where [`Event::Data`] is split.
    pub fn feed(&mut self, bytes: &[u8], on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        self.alive()?;
        let fed = self.feed_alive(bytes, on);
        self.remember(fed)
    }

    /// The NAR's size in bytes, if it was fed to its end.
    pub fn finish(&self) -> Result<u64, NarError> {
        self.alive()?;
        match self.expect {
            Expect::Nothing => Ok(self.offset),
            expect => Err(NarError::Truncated {
                offset: self.offset(),
                expected: expect.describe(),
            }),
        }
    }

    /// How many bytes were fed or skipped.
    pub fn offset(&self) -> u64 {
        self.offset + self.cut.len() as u64
    }

    /// How many bytes of the open file have not come yet; zero outside a file's contents.
    pub fn file_remaining(&self) -> u64 {
        match self.expect {
            Expect::Contents { remaining, .. } => remaining,
            _ => 0,
        }
    }

    /// Takes the next `n` bytes of the open file as read without having seen them: for a caller
    /// that can seek and wants only the structure. At most [`Self::file_remaining`].
    pub fn skip_file_data(&mut self, n: u64) -> Result<(), NarError> {
        self.alive()?;
        match self.expect {
            Expect::Contents { remaining, padding } if n <= remaining => {
                self.pass_contents(n, remaining, padding);
                Ok(())
            }
            _ if n == 0 => Ok(()),
            _ => Err(NarError::Skip {
                offset: self.offset(),
                asked: n,
                remaining: self.file_remaining(),
            }),
        }
    }

    fn alive(&self) -> Result<(), NarError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    fn remember(&mut self, result: Result<(), NarError>) -> Result<(), NarError> {
        if let Err(error) = &result {
            self.failed = Some(error.clone());
        }
        result
    }

    fn feed_alive(
        &mut self,
        mut bytes: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), NarError> {
        while !bytes.is_empty() {
            if let Expect::Contents { remaining, padding } = self.expect {
                let here = usize::try_from(remaining)
                    .unwrap_or(usize::MAX)
                    .min(bytes.len());
                let (data, rest) = bytes.split_at(here);
                on(Event::Data(data));
                self.pass_contents(here as u64, remaining, padding);
                bytes = rest;
                continue;
            }
            let needed = self.needed()?;
            if self.cut.is_empty() && bytes.len() >= needed {
                let (part, rest) = bytes.split_at(needed);
                self.take(part, on)?;
                bytes = rest;
                continue;
            }
            let here = (needed - self.cut.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(here);
            self.cut.extend_from_slice(head);
            bytes = rest;
            if self.cut.len() == needed {
                let mut part = std::mem::take(&mut self.cut);
                self.take(&part, on)?;
                part.clear();
                self.cut = part;
            }
        }
        Ok(())
    }

    /// How many bytes the next part has; never zero.
    fn needed(&self) -> Result<usize, NarError> {
        match (self.expect, self.part) {
            (Expect::Nothing, _) => Err(NarError::TrailingBytes {
                offset: self.offset,
            }),
            (Expect::ContentsPadding(zeros), _) => Ok(usize::from(zeros)),
            (_, Part::Length) => Ok(LENGTH_BYTES),
            (_, Part::Bytes(len)) => Ok(padded(len)),
        }
    }

    /// Takes one whole part.
    fn take(&mut self, part: &[u8], on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        self.check_fits(part.len() as u64)?;
        let at = self.offset;
        match (self.expect, self.part) {
            (Expect::ContentsPadding(_), _) => {
                check_zeros(at, part)?;
                self.offset += part.len() as u64;
                self.next(Expect::NodeClose { file: true });
                Ok(())
            }
            (_, Part::Length) => {
                let mut length = [0; LENGTH_BYTES];
                length.copy_from_slice(part);
                self.string_at = at;
                self.offset += LENGTH_BYTES as u64;
                self.take_length(u64::from_le_bytes(length), on)
            }
            (_, Part::Bytes(len)) => {
                let (string, zeros) = part.split_at(len);
                check_zeros(at + len as u64, zeros)?;
                self.offset += part.len() as u64;
                self.take_string(string, on)
            }
        }
    }

    fn take_length(&mut self, len: u64, on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        let offset = self.string_at;
        match self.expect {
            Expect::Size => return self.begin_contents(len, on),
            Expect::Name => names::check_name_len(offset, len)?,
            Expect::Target => names::check_target_len(offset, len)?,
            expect if len > MAX_WORD_BYTES => {
                return Err(NarError::LongWord {
                    offset,
                    expected: expect.describe(),
                    len,
                });
            }
            _ => {}
        }
        if len == 0 {
            return self.take_string(b"", on);
        }
        // At most 4,095 by the checks above.
        self.part = Part::Bytes(len as usize);
        Ok(())
    }

    fn begin_contents(&mut self, size: u64, on: &mut dyn FnMut(Event<'_>)) -> Result<(), NarError> {
        self.check_fits(size.checked_next_multiple_of(8).unwrap_or(size))?;
        on(Event::File {
            executable: self.executable,
            size,
            offset: self.offset,
        });
        self.next(match size {
            0 => Expect::NodeClose { file: true },
            _ => Expect::Contents {
                remaining: size,
                padding: padding(size),
            },
        });
        Ok(())
    }

    fn pass_contents(&mut self, passed: u64, remaining: u64, padding: u8) {
        self.offset += passed;
        self.next(match (remaining - passed, padding) {
            (0, 0) => Expect::NodeClose { file: true },
            (0, zeros) => Expect::ContentsPadding(zeros),
            (remaining, padding) => Expect::Contents { remaining, padding },
        });
    }

    /// Takes one whole string.
    fn take_string(
        &mut self,
        string: &[u8],
        on: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), NarError> {
        let offset = self.string_at;
        let next = match (self.expect, string) {
            (Expect::Magic, magic) if magic == MAGIC.as_bytes() => Expect::NodeOpen,
            (Expect::NodeOpen, b"(") => {
                self.open.check_depth(offset)?;
                Expect::TypeWord
            }
            (Expect::TypeWord, b"type") => Expect::Type,
            (Expect::Type, b"regular") => {
                self.executable = false;
                Expect::ExecutableOrContents
            }
            (Expect::Type, b"symlink") => Expect::TargetWord,
            (Expect::Type, b"directory") => {
                self.open.open();
                on(Event::Directory);
                Expect::EntryOrClose
            }
            (Expect::ExecutableOrContents, b"executable") => Expect::ExecutableValue,
            (Expect::ExecutableValue, b"") => {
                self.executable = true;
                Expect::ContentsWord
            }
            (Expect::ExecutableOrContents | Expect::ContentsWord, b"contents") => Expect::Size,
            (Expect::TargetWord, b"target") => Expect::Target,
            (Expect::Target, target) => {
                names::check_target(offset, target)?;
                on(Event::Symlink { target });
                Expect::NodeClose { file: false }
            }
            (Expect::NodeClose { file }, b")") => {
                if file {
                    on(Event::EndFile);
                }
                self.after_node()
            }
            (Expect::EntryOrClose, b"entry") => Expect::EntryOpen,
            (Expect::EntryOrClose, b")") => {
                self.open.close();
                on(Event::EndDirectory);
                self.after_node()
            }
            (Expect::EntryOpen, b"(") => Expect::NameWord,
            (Expect::NameWord, b"name") => Expect::Name,
            (Expect::Name, name) => {
                self.open.next(offset, name)?;
                on(Event::Entry { name });
                Expect::NodeWord
            }
            (Expect::NodeWord, b"node") => Expect::NodeOpen,
            (Expect::EntryClose, b")") => Expect::EntryOrClose,
            (expect, found) => {
                let (expected, found) = (expect.describe(), Quoted::new(found));
                return Err(NarError::Word {
                    offset,
                    expected,
                    found,
                });
            }
        };
        self.next(next);
        Ok(())
    }

    /// What follows a node: the end of its entry, or of everything.
    fn after_node(&self) -> Expect {
        if self.open.is_empty() {
            Expect::Nothing
        } else {
            Expect::EntryClose
        }
    }

    fn next(&mut self, expect: Expect) {
        self.expect = expect;
        self.part = Part::Length;
    }

    fn check_fits(&self, size: u64) -> Result<(), NarError> {
        let limit = self.limits.max_nar_size_bytes;
        match limit.checked_sub(self.offset) {
            Some(room) if size <= room => Ok(()),
            _ => Err(NarError::TooLarge {
                offset: self.offset,
                size,
                limit,
            }),
        }
    }
}

fn check_zeros(offset: u64, bytes: &[u8]) -> Result<(), NarError> {
    match bytes.iter().position(|&byte| byte != 0) {
        Some(at) => Err(NarError::Padding {
            offset: offset + at as u64,
            found: bytes[at],
        }),
        None => Ok(()),
    }
}
