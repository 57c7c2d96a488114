//! Layouts against the recipes of their NARs, frame by frame: the current ones, and the former ones
//! that URLs of before still name.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use bytes::Bytes;
use snowcache_core::recipe::Op;
use snowcache_nix::NarHash;

use super::Teller;
use super::compare::Pair;
use crate::former::{self, Former};
use crate::index::{Batch, Index, Rows, Table};
use crate::layout::{Builder, Extent, Layout, Location, Part};
use crate::read::read_state;
use crate::record::{FRAME_HEADER_BYTES, Header};
use crate::relayout::frame_id;
use crate::rows::Place;
use crate::state::recipe_of;
use crate::{Error, ErrorKind, Result};

/// Where following a layout ends: with what is wrong, or with damage, which is told as such.
type End = ControlFlow<Option<String>>;

/// What the keys of all rows of former encodings that are not what their URLs promise begin with.
#[derive(Default)]
pub struct WrongFormers(BTreeSet<Bytes>);

impl WrongFormers {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Takes them out of the index. Their NARs are whole without them.
    pub fn remove(&self, index: &dyn Index) -> Result<()> {
        let mut batch = Batch::default();
        for prefix in &self.0 {
            for row in Rows::new(index, Table::Formers, prefix) {
                batch.delete(Table::Formers, row?.0);
            }
        }
        index.write(batch)?;
        index.checkpoint()
    }
}

impl Pair<'_> {
    /// Every layout is its recipe.
    pub(super) fn layouts(&self, tell: &mut Teller<'_>) -> Result<()> {
        for row in Rows::new(self.present, Table::Layouts, &[]) {
            let (key, _) = row?;
            let Ok(nar) = <[u8; 32]>::try_from(&key[..]) else {
                continue;
            };
            let nar = NarHash::from_bytes(nar);
            let layout = Layout::read(self.present, &nar);
            let wrong = readable(layout.and_then(|layout| match layout {
                Some(layout) => self.follow(&nar, &layout, &layout.recipe),
                None => Ok(None),
            }))?;
            if let Some(what) = wrong {
                tell.problem(format!("the layout of NAR {nar} is not its recipe: {what}"));
            }
        }
        Ok(())
    }

    /// Every former encoding sends what its URL promises; those that do not.
    pub fn formers(&self, tell: &mut Teller<'_>) -> Result<WrongFormers> {
        let mut wrong = WrongFormers::default();
        let mut seen = Bytes::new();
        for row in Rows::new(self.present, Table::Formers, &[]) {
            let (key, _) = row?;
            let whose = key.slice(..key.len().min(former::KEY_BYTES));
            if whose == seen {
                continue; // a block
            }
            tell.checked.former_encodings += 1;
            if let Some(what) = readable(self.former(&whose))? {
                tell.problem(format!("the former encoding {}: {what}", shown(&whose)));
                wrong.0.insert(whose.clone());
            }
            seen = whose;
        }
        Ok(wrong)
    }

    /// What is wrong with the former encoding whose rows' keys begin with this.
    fn former(&self, key: &[u8]) -> Result<Option<String>> {
        let Some(former) = Former::read(self.present, key)? else {
            return Ok(Some("it has no beginning".to_owned()));
        };
        if former.layout.encoding.name.as_bytes() != &key[key.len() - former::NAME_BYTES..] {
            return Ok(Some("it is another one".to_owned()));
        }
        // Of a NAR that is gone nothing is served, and the next collection lets go of it.
        let current = Layout::read(self.present, &former.nar)?;
        current.map_or(Ok(None), |current| {
            self.follow(&former.nar, &former.layout, &current.recipe)
        })
    }

    /// What is wrong with a layout of a NAR whose recipe lies there.
    fn follow(&self, nar: &NarHash, layout: &Layout, at: &Place) -> Result<Option<String>> {
        if self.is_damaged(at.segment(), at.offset, at.offset + at.len) {
            return Ok(None); // told as damage
        }
        let (_, payload) = read_state(self.segments, at.segment(), at.offset)?;
        let (found, _, recipe) = recipe_of(&payload)?;
        if found != *nar {
            return Ok(Some(format!("that one is of NAR {found}")));
        }
        let mut ops = recipe.ops().iter();
        let (mut raw_bytes, mut encoded_bytes) = (0, 0);
        let mut builder = Builder::default();
        for number in 0..layout.blocks.len() {
            let Some(parts) = layout.block(self.present, nar, number)? else {
                return Ok(Some(format!("block {number} is missing")));
            };
            for part in parts {
                raw_bytes += part.raw_len();
                encoded_bytes += part.encoded_len();
                if let ControlFlow::Break(what) = self.part(&part, &mut ops, &mut builder) {
                    return Ok(what);
                }
            }
        }
        let promised = (layout.nar_size, layout.encoding.size_bytes);
        Ok(if ops.next().is_some() {
            Some("it ends early".to_owned())
        } else if (raw_bytes, encoded_bytes) != promised {
            Some(format!(
                "{raw_bytes} bytes, {encoded_bytes} as sent, are not what it promises"
            ))
        } else if builder.name() != layout.encoding.name {
            Some("what it sends has another name".to_owned())
        } else {
            None
        })
    }

    /// Follows a part of a layout, given the ops that it should be.
    fn part(&self, part: &Part, ops: &mut std::slice::Iter<'_, Op>, to: &mut Builder) -> End {
        let wrong = |what: String| ControlFlow::Break(Some(what));
        let Extent {
            segment,
            offset,
            stored_len,
            ..
        } = match part {
            Part::Literal(bytes) => {
                to.literal(bytes);
                return match ops.next() {
                    Some(Op::Literal(want)) if want == bytes => ControlFlow::Continue(()),
                    _ => wrong("a literal differs".to_owned()),
                };
            }
            Part::Extent(extent) => *extent,
        };
        let (mut at, end) = (offset, offset + u64::from(stored_len));
        while at < end {
            let op = ops.next();
            let mut bytes = [0; FRAME_HEADER_BYTES];
            let read = self.segments.read(segment, at, &mut bytes);
            let header = read.ok().and_then(|()| Header::decode(&bytes).ok());
            match (header, op) {
                (Some(Header::Frame(header)), Some(op)) if frame_id(op) == Some(header.id) => {
                    let location = Location {
                        segment,
                        offset: at,
                        stored_len: header.stored_len,
                        raw_len: header.raw_len,
                        checksum: header.checksum,
                    };
                    to.frame(&header, &location);
                    at += FRAME_HEADER_BYTES as u64 + u64::from(header.stored_len);
                }
                _ if self.is_damaged(segment, at, end) => return ControlFlow::Break(None),
                _ => return wrong(format!("segment {segment} has another frame at {at}")),
            }
        }
        match at == end {
            true => ControlFlow::Continue(()),
            false => wrong("an extent ends within a frame".to_owned()),
        }
    }
}

/// Which former encoding the rows with such keys are of.
fn shown(key: &[u8]) -> String {
    match key.split_first_chunk() {
        Some((nar, name)) => {
            format!(
                "{} of NAR {}",
                name.escape_ascii(),
                NarHash::from_bytes(*nar)
            )
        }
        None => format!("{} of no NAR", key.escape_ascii()),
    }
}

/// Rows that do not read are wrong as well.
fn readable(checked: Result<Option<String>>) -> Result<Option<String>> {
    match checked {
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            let says = |error: &Error| format!("it does not read: {error}");
            Ok(Some(says(&error)))
        }
        checked => checked,
    }
}
