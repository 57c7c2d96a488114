//! Tokens of one build in the place of another's: what a mass rebuild does to bytes.
//!
//! Guarantees: only tokens change ([`crate::token`]), each for one of its length, so the bytes stay
//! as many; the same however the bytes are handed in. Memory: 64 KiB and what was pushed last.
//! Says nothing about whether the result is what somebody wants: whoever uses it hashes it.

use std::collections::BTreeMap;
use std::sync::Arc;

use snowcache_nix::StoreHash;

use crate::token;

/// What is kept before the bytes that are due, at most, until it is let go of.
const KEPT_BYTES: usize = 64 << 10;

/// Which token stands for which.
#[derive(Clone, Debug, Default)]
pub struct Swaps {
    /// The same for many NARs.
    shared: Arc<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Of one NAR; they go before the shared ones.
    own: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Swaps {
    /// The hash parts of store paths for others, in lower and in upper case.
    pub fn of_paths(paths: impl IntoIterator<Item = (StoreHash, StoreHash)>) -> Swaps {
        let mut shared = BTreeMap::new();
        for (old, new) in paths {
            let (old, new) = (old.to_string(), new.to_string());
            let upper = (old.to_ascii_uppercase(), new.to_ascii_uppercase());
            for (old, new) in [(old, new), upper] {
                shared.entry(old.into_bytes()).or_insert(new.into_bytes());
            }
        }
        Swaps {
            shared: Arc::new(shared),
            own: BTreeMap::new(),
        }
    }

    /// One more, for this NAR. Tokens of different lengths are left alone.
    pub fn add(&mut self, old: &[u8], new: &[u8]) {
        if old.len() == new.len() {
            self.own.insert(old.to_vec(), new.to_vec());
        }
    }

    /// What stands for this token.
    pub fn get(&self, old: &[u8]) -> Option<&[u8]> {
        let found = self.own.get(old).or_else(|| self.shared.get(old));
        found.map(Vec::as_slice)
    }
}

/// Swaps the tokens of bytes that come in pieces.
///
/// ```
/// use snowcache_core::swap::{Swapper, Swaps};
///
/// let mut swaps = Swaps::default();
/// swaps.add(b"0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm", b"1zzf3lklh2b7m1arz9kw3yq1yq0vv0mm");
/// let mut swapper = Swapper::new(swaps);
/// let mut new = Vec::new();
/// swapper.push(b"/nix/store/0zzf3lklh2b7m1a", &mut new);
/// swapper.push(b"rz9kw3yq1yq0vv0mm-hello", &mut new);
/// swapper.finish(&mut new);
/// assert_eq!(new, b"/nix/store/1zzf3lklh2b7m1arz9kw3yq1yq0vv0mm-hello");
/// ```
#[derive(Debug)]
pub struct Swapper {
    swaps: Swaps,
    /// What is due, behind some bytes that decide what is a token.
    bytes: Vec<u8>,
    /// Where in `bytes` that begins.
    due: usize,
}

impl Swapper {
    /// A swapper at the beginning of some bytes.
    pub fn new(swaps: Swaps) -> Swapper {
        Swapper {
            swaps,
            bytes: Vec::new(),
            due: 0,
        }
    }

    /// The next bytes; those that are certain are appended to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.bytes.extend_from_slice(bytes);
        self.advance(self.bytes.len().saturating_sub(token::LOOKAHEAD), out);
        let gone = self.due.saturating_sub(token::LOOKBEHIND);
        if gone >= KEPT_BYTES {
            self.bytes.drain(..gone);
            self.due -= gone;
        }
    }

    /// No more bytes follow.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.advance(self.bytes.len(), out);
    }

    fn advance(&mut self, until: usize, out: &mut Vec<u8>) {
        if until <= self.due {
            return;
        }
        let (bytes, swaps) = (&self.bytes, &self.swaps);
        let (mut copied, mut end) = (self.due, until);
        token::scan_from(bytes, self.due, until, |token| {
            end = end.max(token.end());
            if let Some(new) = swaps.get(&bytes[token.start..token.end()]) {
                out.extend_from_slice(&bytes[copied..token.start]);
                out.extend_from_slice(new);
                copied = token.end();
            }
        });
        out.extend_from_slice(&bytes[copied..end]);
        self.due = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OLD: &str = "0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm";
    const NEW: &str = "9zzf3lklh2b7m1arz9kw3yq1yq0vv0mm";

    fn swaps() -> Swaps {
        let hash = |text: &str| text.parse().expect("a hash part");
        let mut swaps = Swaps::of_paths([(hash(OLD), hash(NEW))]);
        swaps.add(&[7; 20], &[8; 20]);
        swaps
    }

    fn swapped(bytes: &[u8], step: usize) -> Vec<u8> {
        let (mut swapper, mut out) = (Swapper::new(swaps()), Vec::new());
        for bytes in bytes.chunks(step) {
            swapper.push(bytes, &mut out);
        }
        swapper.finish(&mut out);
        out
    }

    #[test]
    fn hash_parts_in_both_cases_and_build_ids_are_swapped_and_nothing_else() {
        let text = |hash: &str, id: u8| {
            let upper = hash.to_uppercase();
            let note = [&token::BUILD_ID_HEADER[..], &[id; 20]].concat();
            let text = format!("a {hash}-x {upper}-y 1{OLD}-z {OLD} ");
            [text.as_bytes(), &note].concat()
        };
        assert_eq!(swapped(&text(OLD, 7), 1 << 20), text(NEW, 8));
    }

    proptest! {
        #[test]
        fn however_the_bytes_come_the_result_is_the_same(
            parts in prop::collection::vec(
                prop_oneof![
                    Just(format!("{OLD}-").into_bytes()),
                    Just(OLD.to_uppercase().into_bytes()),
                    Just([&token::BUILD_ID_HEADER[..], &[7; 20]].concat()),
                    prop::collection::vec(any::<u8>(), 0..40),
                    Just(vec![b'-']),
                ],
                0..30,
            ),
            step in 1..50usize,
        ) {
            let bytes = parts.concat();
            let whole = swapped(&bytes, 1 << 20);
            prop_assert_eq!(whole.len(), bytes.len());
            prop_assert_eq!(swapped(&bytes, step), whole);
        }
    }
}
