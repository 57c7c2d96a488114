//! Tokens: the byte strings that change when nothing but a rebuild happened.
//!
//! A *token* is one of
//!
//! * 32 characters of the nix-base32 alphabet (`0123456789abcdfghijklmnpqrsvwxyz`), followed by
//!   `-`, which is not part of the token, and with no character of that alphabet before them (a
//!   store path's hash part);
//! * the same in the UPPER CASE alphabet (nixpkgs' gcc writes it into `__FILE__`);
//! * the 20 bytes of an ELF build-id: those behind the note header `namesz = 4, descsz = 20, type =
//!   3, "GNU\0"` in little-endian order.
//!
//! Leftmost first, no overlap, the longer one where two start together. Tokens are found in the
//! bytes alone, never by what a narinfo declares, so everything built on them is a pure function of
//! the bytes. A token that is no reference costs a few bytes, never correctness.
//!
//! The scan looks at one byte in 32 where the bytes are no text: a run of 32 characters covers
//! every 32nd byte.
//!
//! This module never allocates but for [`scan`], and never looks at a byte's meaning.

use std::ops::Range;

use memchr::memmem;

#[cfg(test)]
pub(crate) mod tests;

/// Characters in a store path's hash part.
pub const HASH_LEN: usize = 32;
/// Bytes in an ELF build-id as linkers write it (a SHA-1).
pub const BUILD_ID_LEN: usize = 20;
/// The note header in front of a build-id: namesz 4, descsz 20, type `NT_GNU_BUILD_ID`, name
/// "GNU\0" (ELF gABI, notes; little endian).
pub const BUILD_ID_HEADER: [u8; 16] = *b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
/// How far behind its start a byte can lie that decides whether there is a token: the 33rd, the
/// `-`.
pub const LOOKAHEAD: usize = HASH_LEN;
/// How far before its start a byte can lie that decides whether there is a token: the note header.
pub const LOOKBEHIND: usize = BUILD_ID_HEADER.len();

const LOWER: u8 = 1;
const UPPER: u8 = 2;
/// For every byte the alphabets it belongs to.
const CLASS: [u8; 256] = classes();

/// Where a token lies in the bytes that were scanned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// Offset of its first byte.
    pub start: usize,
    /// Bytes: 32 for a hash part, 20 for a build-id.
    pub len: usize,
}

impl Token {
    /// Offset of the first byte behind it.
    pub fn end(self) -> usize {
        self.start + self.len
    }

    /// The token with the bytes that make it one: a hash part with its `-`, a build-id with its
    /// note header.
    pub fn evidence(self) -> Range<usize> {
        match self.len {
            HASH_LEN => self.start..self.end() + 1,
            _ => self.start - BUILD_ID_HEADER.len()..self.end(),
        }
    }
}

/// All tokens of `bytes`, in order.
///
/// ```
/// use snowcache_core::token;
/// let text = b"/nix/store/0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm-hello/bin";
/// assert_eq!(token::scan(text), [token::Token { start: 11, len: 32 }]);
/// ```
pub fn scan(bytes: &[u8]) -> Vec<Token> {
    let mut found = Vec::new();
    scan_from(bytes, 0, bytes.len(), |token| found.push(token));
    found
}

/// Finds the tokens of `bytes` that start in `from..until`; bytes before `from` count as context,
/// those from `until` on as lookahead. Pass `until = bytes.len() - LOOKAHEAD` where more bytes will
/// follow, and begin the next scan there or at the end of the last token, whichever is later.
/// `bytes[0]` is taken for the very first byte there is, unless `from >= LOOKBEHIND`.
pub fn scan_from(bytes: &[u8], from: usize, until: usize, mut on: impl FnMut(Token)) {
    let mut notes = BuildIds::new(bytes, from.saturating_sub(LOOKBEHIND));
    let mut at = from;
    let mut hash = next_hash(bytes, at, until);
    loop {
        let note = notes.next_from(at);
        let next = match (hash, note) {
            (Some(hash), Some(note)) if note < hash => Token {
                start: note,
                len: BUILD_ID_LEN,
            },
            (Some(hash), _) => Token {
                start: hash,
                len: HASH_LEN,
            },
            (None, Some(note)) if note < until => Token {
                start: note,
                len: BUILD_ID_LEN,
            },
            (None, _) => return,
        };
        on(next);
        at = next.end();
        if hash.is_some_and(|hash| hash < at) {
            hash = next_hash(bytes, at, until);
        }
    }
}

/// Overwrites every token with zeros: what remains is the same for all rebuilds.
pub fn blank(bytes: &mut [u8], tokens: &[Token]) {
    for token in tokens {
        bytes[token.start..token.end()].fill(0);
    }
}

/// The first hash part that starts in `from..until`.
///
/// `last` walks over possible last characters. Going back from it, the first byte that shares no
/// alphabet with those already seen shows that no hash part starts at or before that byte: the next
/// possible last character is 32 further.
fn next_hash(bytes: &[u8], from: usize, until: usize) -> Option<usize> {
    let mut last = from.checked_add(HASH_LEN - 1)?;
    // The `-` behind it must be there too.
    while last + 1 < bytes.len() && last + 1 - HASH_LEN < until {
        let start = last + 1 - HASH_LEN;
        let mut shared = CLASS[usize::from(bytes[last])];
        let mut first = last;
        while shared != 0 && first > start {
            first -= 1;
            shared &= CLASS[usize::from(bytes[first])];
        }
        if shared == 0 {
            last = first + HASH_LEN;
            continue;
        }
        // 32 characters of one alphabet. Those of a longer run are no token; its end is where to
        // look again.
        let mut end = last + 1;
        while end < bytes.len() && shared & CLASS[usize::from(bytes[end])] != 0 {
            shared &= CLASS[usize::from(bytes[end])];
            end += 1;
        }
        if bytes.get(end) == Some(&b'-') {
            let start = end - HASH_LEN;
            if start < until && is_hash(bytes, start) {
                return Some(start);
            }
            last = end + HASH_LEN;
        } else {
            last = end;
        }
    }
    None
}

/// Whether 32 characters of one alphabet start here with none of it before them (the caller has
/// seen the `-`).
fn is_hash(bytes: &[u8], start: usize) -> bool {
    let shared = bytes[start..start + HASH_LEN]
        .iter()
        .fold(LOWER | UPPER, |shared, &byte| {
            shared & CLASS[usize::from(byte)]
        });
    let before = if start == 0 {
        0
    } else {
        CLASS[usize::from(bytes[start - 1])]
    };
    shared & !before != 0
}

/// Walks over the build-ids of a buffer.
struct BuildIds<'a> {
    bytes: &'a [u8],
    header: memmem::Finder<'static>,
    searched: usize,
    next: Option<usize>,
}

impl<'a> BuildIds<'a> {
    fn new(bytes: &'a [u8], from: usize) -> BuildIds<'a> {
        let header = memmem::Finder::new(&BUILD_ID_HEADER);
        let mut notes = BuildIds {
            bytes,
            header,
            searched: from,
            next: None,
        };
        notes.search();
        notes
    }

    /// The first build-id at or behind `from`; `from` must not shrink from call to call.
    fn next_from(&mut self, from: usize) -> Option<usize> {
        while self.next.is_some_and(|next| next < from) {
            self.search();
        }
        self.next
    }

    fn search(&mut self) {
        let rest = self.bytes.get(self.searched..).unwrap_or_default();
        self.next = self
            .header
            .find(rest)
            .map(|found| self.searched + found + BUILD_ID_HEADER.len())
            .filter(|start| start + BUILD_ID_LEN <= self.bytes.len());
        // The next header may begin inside these 20 bytes, but not inside this header.
        self.searched = self.next.unwrap_or(self.bytes.len());
    }
}

const fn classes() -> [u8; 256] {
    let lower = b"0123456789abcdfghijklmnpqrsvwxyz";
    let mut table = [0; 256];
    let mut i = 0;
    while i < lower.len() {
        table[lower[i] as usize] |= LOWER;
        table[lower[i].to_ascii_uppercase() as usize] |= UPPER;
        i += 1;
    }
    table
}
