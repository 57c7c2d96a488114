//! Two recipes compared: what of a NAR an older one has.
//!
//! A frame is where its id is; a literal, or a dense piece of the same skeleton, where swapping the
//! tokens makes it so. Tokens that differ in pieces that follow each other in both are taken for
//! swaps of this NAR, unless the same token was seen to stay.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;

use super::Swap;
use crate::recipe::{FrameId, Op, Recipe};
use crate::swap::Swaps;
use crate::token;

/// What comparing may cost: for one plan, or for all that one question asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Ops of both recipes that are compared. What has more is fetched whole.
    pub ops: usize,
    /// Dense pieces that are looked into, of up to 1 MiB on each side. Others are fetched.
    pub dense: usize,
}

impl Budget {
    /// For one question: NARs of 200 GB on both sides take 2 million ops and some seconds; a system
    /// of 700 paths has some 20 dense pieces.
    pub const PLAN: Budget = Budget {
        ops: 2_000_000,
        dense: 1000,
    };
}

/// Swaps learned for one NAR: with 64 bytes each at most 1 MiB.
const MAX_SWAPS: usize = 16_384;

/// Places further on that a literal is looked for.
const LITERALS_TRIED: usize = 4;

/// Which NAR is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that is there.
    Old,
    /// The one that is wanted.
    New,
}

/// The next bytes of the new NAR.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// They are these of the old one, tokens swapped.
    Copy {
        /// Where in the old NAR.
        offset: u64,
        /// How many.
        len: u64,
    },
    /// They are these.
    Literal(Vec<u8>),
    /// They are what these ops of the new recipe make.
    Fetch {
        /// Their numbers.
        ops: Range<usize>,
        /// How many bytes.
        len: u64,
    },
}

/// How the NAR of `new` is made of the one of `old`, and the swaps that it takes besides `swaps`;
/// `None` where that is beyond the `budget`. `read` gives bytes of either NAR, for dense pieces, or
/// nothing where they cannot be had.
pub fn compare(
    old: &Recipe,
    new: &Recipe,
    swaps: Swaps,
    budget: &mut Budget,
    read: &mut dyn FnMut(Side, Range<u64>) -> Option<Vec<u8>>,
) -> Option<(Vec<Swap>, Vec<Step>)> {
    let ops = old.ops().len() + new.ops().len();
    budget.ops = budget.ops.checked_sub(ops)?;
    let mut compared = Compared {
        old: Old::of(old),
        tokens: Tokens {
            swaps,
            stay: BTreeSet::new(),
            learned: Vec::new(),
        },
        cursor: 0,
        budget,
        read,
        steps: Vec::new(),
    };
    let mut at = 0;
    for (number, op) in new.ops().iter().enumerate() {
        let len = u64::from(op.raw_len());
        compared.op(number, op, at..at + len);
        at += len;
    }
    Some((compared.tokens.learned, compared.steps))
}

/// What makes two ops worth comparing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Frame(FrameId),
    Dense(FrameId),
    Literal(FrameId),
}

fn key(op: &Op) -> Key {
    match op {
        Op::Frame { id, .. } => Key::Frame(*id),
        Op::Dense { skeleton, .. } => Key::Dense(*skeleton),
        Op::Literal(bytes) => Key::Literal(FrameId::of_skeleton(bytes, &token::scan(bytes))),
    }
}

/// The old NAR: its ops, where they are in it, and where ops of a key are among them.
struct Old<'a> {
    ops: &'a [Op],
    keys: Vec<Key>,
    starts: Vec<u64>,
    places: BTreeMap<Key, Vec<usize>>,
}

impl<'a> Old<'a> {
    fn of(recipe: &'a Recipe) -> Old<'a> {
        let ops = recipe.ops();
        let keys: Vec<Key> = ops.iter().map(key).collect();
        let mut places: BTreeMap<Key, Vec<usize>> = BTreeMap::new();
        let (mut starts, mut at) = (Vec::with_capacity(ops.len()), 0);
        for (place, op) in ops.iter().enumerate() {
            places.entry(keys[place]).or_default().push(place);
            starts.push(at);
            at += u64::from(op.raw_len());
        }
        Old {
            ops,
            keys,
            starts,
            places,
        }
    }

    fn range(&self, place: usize) -> Range<u64> {
        let start = self.starts[place];
        start..start + u64::from(self.ops[place].raw_len())
    }

    /// Places of ops of this key: those from `cursor` on, then the first one.
    fn places(&self, key: Key, cursor: usize) -> impl Iterator<Item = usize> + '_ {
        let all = self.places.get(&key).map_or(&[][..], Vec::as_slice);
        let from = all.partition_point(|place| *place < cursor);
        all[from..].iter().chain(&all[..from.min(1)]).copied()
    }
}

struct Compared<'a, 'b> {
    old: Old<'a>,
    tokens: Tokens,
    /// The old op that the next new one should be like.
    cursor: usize,
    budget: &'b mut Budget,
    read: &'b mut dyn FnMut(Side, Range<u64>) -> Option<Vec<u8>>,
    steps: Vec<Step>,
}

impl Compared<'_, '_> {
    fn op(&mut self, number: usize, op: &Op, range: Range<u64>) {
        let key = key(op);
        let follows = self.old.keys.get(self.cursor) == Some(&key);
        let found = match op {
            Op::Frame { .. } => match follows {
                true => Some(self.cursor),
                false => self.old.places(key, self.cursor).next(),
            },
            Op::Literal(bytes) => self.literal(key, bytes, follows),
            Op::Dense { .. } => {
                let place = match follows {
                    true => Some(self.cursor),
                    false => self.old.places(key, self.cursor).next(),
                };
                place.filter(|place| self.is_dense(*place, &range, follows))
            }
        };
        match found {
            Some(place) => {
                self.copy(self.old.range(place));
                self.cursor = place + 1;
            }
            None => {
                self.put(number, op);
                let kind = |op: &Op| std::mem::discriminant(op);
                let like = self.old.ops.get(self.cursor).map(kind) == Some(kind(op));
                self.cursor += usize::from(like);
            }
        }
    }

    fn literal(&mut self, key: Key, bytes: &Bytes, follows: bool) -> Option<usize> {
        let Compared {
            old,
            tokens,
            cursor,
            ..
        } = self;
        let mut fits = |place: usize, learn: bool| match &old.ops[place] {
            Op::Literal(old) => tokens.fit(old, bytes, learn),
            _ => false,
        };
        if follows && fits(*cursor, true) {
            return Some(*cursor);
        }
        let mut others = old.places(key, *cursor).take(LITERALS_TRIED);
        others.find(|place| fits(*place, false))
    }

    fn is_dense(&mut self, place: usize, new: &Range<u64>, follows: bool) -> bool {
        let old = self.old.range(place);
        if self.budget.dense == 0 || old.end - old.start != new.end - new.start {
            return false;
        }
        self.budget.dense -= 1;
        let (old, new) = (
            (self.read)(Side::Old, old),
            (self.read)(Side::New, new.clone()),
        );
        match (old, new) {
            (Some(old), Some(new)) => self.tokens.fit(&old, &new, follows),
            _ => false,
        }
    }

    fn copy(&mut self, range: Range<u64>) {
        let count = range.end - range.start;
        match self.steps.last_mut() {
            Some(Step::Copy { offset, len }) if *offset + *len == range.start => *len += count,
            _ => self.steps.push(Step::Copy {
                offset: range.start,
                len: count,
            }),
        }
    }

    fn put(&mut self, number: usize, op: &Op) {
        let count = u64::from(op.raw_len());
        match (op, self.steps.last_mut()) {
            (Op::Literal(bytes), Some(Step::Literal(before))) => before.extend_from_slice(bytes),
            (Op::Literal(bytes), _) => self.steps.push(Step::Literal(bytes.to_vec())),
            (_, Some(Step::Fetch { ops, len })) if ops.end == number => {
                (ops.end, *len) = (number + 1, *len + count);
            }
            _ => self.steps.push(Step::Fetch {
                ops: number..number + 1,
                len: count,
            }),
        }
    }
}

/// What is known of the tokens of one NAR.
struct Tokens {
    swaps: Swaps,
    /// Tokens without a swap that were copied as they are.
    stay: BTreeSet<Vec<u8>>,
    learned: Vec<Swap>,
}

impl Tokens {
    /// Whether the swaps make `new` of `old`, or would with some more, where they may be learned.
    fn fit(&mut self, old: &[u8], new: &[u8], learn: bool) -> bool {
        let tokens = token::scan(old);
        if old.len() != new.len() || token::scan(new) != tokens {
            return false;
        }
        let mut at = 0;
        let mut stay = BTreeSet::new();
        let mut learned: BTreeMap<&[u8], &[u8]> = BTreeMap::new();
        for token in tokens {
            let (from, to) = (
                &old[token.start..token.end()],
                &new[token.start..token.end()],
            );
            if old[at..token.start] != new[at..token.start] {
                return false;
            }
            at = token.end();
            match self.swaps.get(from).or_else(|| learned.get(from).copied()) {
                Some(swapped) if swapped != to => return false,
                Some(_) => {}
                None if from == to => {
                    stay.insert(from);
                }
                None if !learn || self.stay.contains(from) || stay.contains(from) => return false,
                None => {
                    learned.insert(from, to);
                }
            }
        }
        if old[at..] != new[at..] || self.learned.len() + learned.len() > MAX_SWAPS {
            return false;
        }
        self.stay.extend(stay.into_iter().map(<[u8]>::to_vec));
        for (from, to) in learned {
            self.swaps.add(from, to);
            self.learned.push((from.to_vec(), to.to_vec()));
        }
        true
    }
}
