//! Where in the old bytes the new ones are like them.
//!
//! ```text
//!   new   ------------------x--x----x------!!!!!!!!-------x----
//!         like the old ones at one place  |        like those at another
//! ```
//! Bytes are taken as like those that follow the last ones, for as long as nothing is clearly
//! better: a place where some more than eight bytes more are the same. Where exactly one
//! place gives way to the next, and what between them is like neither, is what makes most bytes the
//! same.
//!
//! Guarantees: memory is 48 MiB at most besides the bytes; the time goes with the number of bytes:
//! 83 MB of changed files of Debian packages took 3 s.

use super::{MAX_MORE_BYTES, Script};

/// So many bytes are looked up: what is shorter is hardly worth a step.
const KEY_BYTES: usize = 8;
/// Places of old bytes that are remembered: 4 bytes each. Of 32 MiB it is every fourth.
const MAX_PLACES: usize = 8 << 20;
/// Places of one key that are tried: with four times as many, libcrypto comes out 1 % smaller.
const TRIED: usize = 32;
/// Bytes that are compared of a place that is tried.
const LOOK_BYTES: usize = 1 << 10;
/// While so many bytes go on being the same, no other place is looked for.
const SURE_BYTES: usize = 16;
/// From so many bytes on that mostly differ these are new ones, and not each a change.
const REPLACED_BYTES: usize = 32;
/// By how many bytes another place must be better: what its step takes.
const BETTER_BYTES: usize = 8;
const NONE: u32 = u32::MAX;

/// Old bytes, of which is known where they are.
pub struct Old {
    bytes: Vec<u8>,
    /// Every how many bytes one is remembered.
    stride: usize,
    /// For each hash of a key the last place, in strides.
    last: Vec<u32>,
    /// For each place the one before it with the same hash.
    before: Vec<u32>,
    shift: u32,
}

/// Where the new bytes go on with another place: these are like those.
#[derive(Clone, Copy)]
struct Place {
    new: usize,
    old: usize,
}

impl Old {
    /// Of at most 4 GiB.
    pub fn new(bytes: Vec<u8>) -> Old {
        let stride = bytes.len().div_ceil(MAX_PLACES).max(1).next_power_of_two();
        let places = bytes.len() / stride + 1;
        let bits = places.next_power_of_two().ilog2().clamp(10, 22);
        let mut old = Old {
            stride,
            last: vec![NONE; 1 << bits],
            before: vec![NONE; places],
            shift: u64::BITS - bits,
            bytes,
        };
        for place in 0..places {
            let Some(slot) = old.slot(&old.bytes[place * stride..]) else {
                break;
            };
            old.before[place] = old.last[slot];
            old.last[slot] = place as u32;
        }
        old
    }

    /// How `new` is made of these: a [script](super).
    pub fn script(&self, new: &[u8]) -> Vec<u8> {
        let mut script = Script::default();
        let mut here = Place { new: 0, old: 0 };
        let mut from = 0;
        loop {
            let (next, end) = self.next(new, here, from);
            let (like, begin) = self.border(new, here, next, end);
            let (like, other) = (
                &new[here.new..here.new + like],
                &new[here.new + like..begin],
            );
            script.step((here.old, &self.bytes), like, other);
            let Some(next) = next else { break };
            here = Place {
                new: begin,
                old: next.old - (next.new - begin),
            };
            from = end;
        }
        let script = script.encode();
        match script.len() as u64 <= new.len() as u64 + MAX_MORE_BYTES {
            true => script,
            false => all_new(new),
        }
    }

    /// The next place that is clearly better than to go on from `here`, looked for from `from` on,
    /// and until where it surely is. Behind a stretch that is replaced, to go on is better, too.
    fn next(&self, new: &[u8], here: Place, mut from: usize) -> (Option<Place>, usize) {
        let mut sure = from;
        while from < new.len() {
            let old = (here.old + (from - here.new)).min(self.bytes.len());
            let on = &self.bytes[old..];
            let same = same(on, &new[from..]);
            if same >= SURE_BYTES {
                let doubtful = from - sure;
                let began = &self.bytes[old - doubtful..old];
                if doubtful >= REPLACED_BYTES && equal(began, &new[sure..from]) < doubtful / 2 {
                    return (Some(Place { new: from, old }), from + same);
                }
                sure = from + same;
            } else if let Some((place, len)) = self.longest(&new[from..], old)
                && len > equal(on, &new[from..from + len]) + BETTER_BYTES
            {
                let place = Place {
                    new: from,
                    old: place,
                };
                return (Some(place), from + len);
            }
            from += same.max(1);
        }
        (None, new.len())
    }

    /// Where these bytes are longest, and for how many; of several the place nearest to `to`.
    fn longest(&self, new: &[u8], to: usize) -> Option<(usize, usize)> {
        let look = &new[..new.len().min(LOOK_BYTES)];
        let mut place = self.last[self.slot(new)?];
        let mut best = None;
        for _ in 0..TRIED {
            if place == NONE {
                break;
            }
            let at = place as usize * self.stride;
            let found = (same(&self.bytes[at..], look), usize::MAX - at.abs_diff(to));
            if best.is_none_or(|(best, _)| found > best) {
                best = Some((found, at));
            }
            place = self.before[place as usize];
        }
        best.map(|((len, _), at)| (at, len))
    }

    /// How many bytes from `here` on are taken as like those there, and where those begin that are
    /// like those at `next`.
    fn border(&self, new: &[u8], here: Place, next: Option<Place>, end: usize) -> (usize, usize) {
        let until = next.map_or(end, |next| next.new);
        let between = until - here.new;
        let ahead = self.bytes[here.old.min(self.bytes.len())..].iter();
        let ahead = ahead.zip(&new[here.new..until]).map(|(a, b)| a == b);
        let like = worthwhile(ahead);
        let Some(next) = next else {
            return (like, until);
        };
        let behind = self.bytes[..next.old].iter().rev();
        let behind = behind.zip(new[here.new..until].iter().rev());
        let back = worthwhile(behind.map(|(a, b)| a == b));
        // Where both reach over the same bytes, these are parted where most are the same.
        let Some(both) = (like + back).checked_sub(between) else {
            return (like, until - back);
        };
        let first = like - both;
        let (mut sum, mut most, mut parted) = (0_i64, 0, 0);
        for at in 0..both {
            let is = new[here.new + first + at];
            sum += i64::from(self.bytes[here.old + first + at] == is);
            sum -= i64::from(self.bytes[next.old - back + at] == is);
            if sum > most {
                (most, parted) = (sum, at + 1);
            }
        }
        (first + parted, here.new + first + parted)
    }

    fn slot(&self, bytes: &[u8]) -> Option<usize> {
        let key = bytes.first_chunk::<KEY_BYTES>()?;
        // Fibonacci hashing: 2^64 by the golden ratio.
        let hash = u64::from_le_bytes(*key).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Some((hash >> self.shift) as usize)
    }
}

fn all_new(new: &[u8]) -> Vec<u8> {
    let mut script = Script::default();
    script.step((0, &[]), &[], new);
    script.encode()
}

/// How many bytes are the same until the first that is not.
fn same(a: &[u8], b: &[u8]) -> usize {
    let (a_words, _) = a.as_chunks::<8>();
    let (b_words, _) = b.as_chunks::<8>();
    let words = a_words.iter().zip(b_words);
    for (number, (a, b)) in words.enumerate() {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return number * 8 + differ.trailing_zeros() as usize / 8;
        }
    }
    let len = a_words.len().min(b_words.len()) * 8;
    let rest = a[len..].iter().zip(&b[len..]);
    len + rest.take_while(|(a, b)| a == b).count()
}

/// How many bytes are the same.
fn equal(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).filter(|(a, b)| a == b).count()
}

/// For how many most are the same: those that are outweigh those that are not by most.
fn worthwhile(same: impl Iterator<Item = bool>) -> usize {
    let (mut sum, mut most, mut len) = (0_i64, 0, 0);
    for (at, same) in same.enumerate() {
        sum += if same { 1 } else { -1 };
        if sum > most {
            (most, len) = (sum, at + 1);
        }
    }
    len
}
