//! Gathering: what a pin's machines read lies together.
//!
//! ```text
//!   generation 1, as it came        |aaaaaaaaaaaaaaaaaaaaaaaaaaaa|
//!   generation 50, most of it shared  |aa|b|aaa|c|a|d|aaaa|e|aa|   a cold disk seeks at each |
//!   gathered                        |aabaaacadaaaaeaa|            what was copied is garbage
//! ```
//!
//! A frame that many NARs share lies in one place only: beside those of the NAR that a walk over
//! the pins' current generations meets first. That walk is always the same one, so what was
//! gathered stays where it is until a pin moves.
//!
//! Guarantees: one collection copies at most [`GATHERED_BYTES`]; nothing is read from a copy before
//! it is durable; each NAR stays readable throughout. Never: takes room from the reserve,
//! which is for rewriting.

use std::collections::BTreeSet;
use std::sync::Arc;

use snowcache_core::recipe::FrameId;
use snowcache_nix::NarHash;

use super::Collection;
use super::copier::{Copier, Moved};
use super::graph::Graph;
use super::space::Coverage;
use crate::depot::Shared;
use crate::index::{Rows, Table};
use crate::layout::{Extent, Layout, Location, Part};
use crate::record::FRAME_HEADER_BYTES;
use crate::relayout::located;
use crate::rows::{PinRow, cache_of_key};
use crate::{ErrorKind, Result};

/// Runs shorter than this, on average, are scattered: where a disk reads 1 GB/s and takes 0.1 ms
/// to get anywhere else, they are read at 0.7 of its speed; where it is 150 MB/s and 1 ms, at 0.6.
const RUN_BYTES: u64 = 256 << 10;

/// Frames are looked at, and copied, so many bytes at a time: of a large NAR only the parts that
/// changed are scattered.
const STRETCH_BYTES: u64 = 4 << 20;

/// What lies so near behind a run is read ahead with it.
const GAP_BYTES: u64 = 64 << 10;

/// Bytes that one collection copies: some seconds of a disk's time, and 130,000 frames of the
/// smallest usual size take 13 MB of memory meanwhile.
const GATHERED_BYTES: u64 = 1 << 30;

/// Frames of a NAR that lie where they do for its sake.
type Stretch = Vec<(FrameId, Location)>;

/// One pass over what is pinned.
pub struct Gather<'a, 'b> {
    collection: &'a mut Collection<'b>,
    shared: Arc<Shared>,
    copier: Copier,
    /// What the walk has met.
    met: Coverage,
    moved: Vec<Moved>,
    /// What the old records of `moved` cover.
    left: Coverage,
    bytes: u64,
}

impl<'a, 'b> Gather<'a, 'b> {
    /// A pass that has met nothing yet.
    pub fn new(collection: &'a mut Collection<'b>) -> Self {
        let shared = collection.depot.shared().clone();
        Gather {
            collection,
            copier: Copier::new(shared.clone()),
            shared,
            met: Coverage::default(),
            moved: Vec::new(),
            left: Coverage::default(),
            bytes: 0,
        }
    }

    /// Walks over the paths of `graph` and gathers what is scattered.
    pub fn run(mut self, graph: &Graph) -> Result<()> {
        for nar in graph.current(&self.shared, self.collection.now)? {
            self.collection.depot.may_go_on()?;
            match self.gather(&nar) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::warn!(%nar, %error, "not gathered");
                }
                gathered => gathered?,
            }
        }
        self.collection.collected.gathered_bytes = self.bytes;
        if self.moved.is_empty() {
            return Ok(());
        }
        self.copier.make_durable()?;
        self.copier.repoint(std::mem::take(&mut self.moved))?;
        self.copier.lay_out(&self.users()?)?;
        self.collection.collected.copied_bytes += self.copier.copied_bytes;
        Ok(())
    }

    fn gather(&mut self, nar: &NarHash) -> Result<()> {
        let Some((layout, extents)) = extents(&self.shared, nar)? else {
            return Ok(());
        };
        let records = extents.iter();
        let records = records.map(|it| (it.segment, it.offset, it.stored_len.into()));
        if runs(records) < 2 {
            for extent in extents {
                let end = extent.offset + u64::from(extent.stored_len);
                self.met.add(extent.segment, extent.offset..end);
            }
            return Ok(());
        }
        let (mut stretch, mut bytes) = (Stretch::new(), 0);
        for (frame, at) in located(&self.shared, &layout.recipe)? {
            let end = at.offset + FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            if self.met.add(at.segment, at.offset..end) == 0 {
                continue;
            }
            bytes += end - at.offset;
            stretch.push((frame, at));
            if bytes >= STRETCH_BYTES {
                self.copy(std::mem::take(&mut stretch), bytes)?;
                bytes = 0;
            }
        }
        self.copy(stretch, bytes)
    }

    /// Copies a stretch of `bytes` if it is scattered, and there is room for a second one of it.
    fn copy(&mut self, stretch: Stretch, bytes: u64) -> Result<()> {
        let records = stretch.iter().map(|(_, at)| {
            let len = FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            (at.segment, at.offset, len)
        });
        let runs = runs(records);
        let worth = runs >= 2 && bytes / runs < RUN_BYTES;
        if !worth || self.bytes + bytes > GATHERED_BYTES || !self.has_room(bytes)? {
            return Ok(());
        }
        self.bytes += bytes;
        if self.collection.dry_run {
            return Ok(());
        }
        for (frame, at) in stretch {
            let new = self.copier.frame(&at)?;
            let end = at.offset + FRAME_HEADER_BYTES as u64 + u64::from(at.stored_len);
            self.left.add(at.segment, at.offset..end);
            self.moved.push((frame, at, new));
        }
        Ok(())
    }

    fn has_room(&self, bytes: u64) -> Result<bool> {
        let space = self.shared.segments.space();
        let space = space.map_err(|e| crate::Error::io("asking how much room the disk has", e))?;
        let (room, usable) = (&self.shared.room, self.shared.room.usable_bytes());
        Ok(
            space.free_bytes >= bytes + room.reserve_of(space.total_bytes)
                && usable.is_none_or(|usable| self.shared.pool.bytes() + bytes <= usable),
        )
    }

    /// The NARs that use what has moved. Commits that counted on the old records have ended when
    /// the gate is passed; later ones find the copies.
    fn users(&self) -> Result<BTreeSet<NarHash>> {
        drop(self.shared.undisturbed()?);
        let mut users = BTreeSet::new();
        for row in Rows::new(&*self.shared.index, Table::Layouts, &[]) {
            let Ok(hash) = <[u8; 32]>::try_from(row?.0.as_ref()) else {
                continue;
            };
            let nar = NarHash::from_bytes(hash);
            let Some((_, extents)) = extents(&self.shared, &nar)? else {
                continue;
            };
            let touched = extents.iter().any(|extent| {
                let end = extent.offset + u64::from(extent.stored_len);
                self.left.touches(extent.segment, extent.offset..end)
            });
            if touched {
                users.insert(nar);
            }
        }
        Ok(users)
    }
}

impl Graph {
    /// The NARs of what the pins' current generations need, each once, references first, always in
    /// the same order.
    fn current(&self, shared: &Shared, now: u64) -> Result<Vec<NarHash>> {
        let (mut nars, mut reached) = (Vec::new(), vec![false; self.len()]);
        for row in Rows::new(&*shared.index, Table::Pins, &[]) {
            let (key, row) = row?;
            let (cache, _) = cache_of_key(&key)?;
            let pin = PinRow::decode(&row)?.pin;
            for root in pin.current_roots(now) {
                if let Some(root) = self.find(&cache.path_key(&root.hash())) {
                    self.reach(root, &mut reached, &mut |node| nars.push(self.nar(node).0));
                }
            }
        }
        Ok(nars)
    }
}

/// The extents of a NAR, in order.
fn extents(shared: &Shared, nar: &NarHash) -> Result<Option<(Layout, Vec<Extent>)>> {
    'again: loop {
        let Some(layout) = Layout::read(&*shared.index, nar)? else {
            return Ok(None);
        };
        let mut extents = Vec::new();
        for number in 0..layout.blocks.len() {
            let Some(parts) = layout.block(&*shared.index, nar, number)? else {
                continue 'again;
            };
            extents.extend(parts.into_iter().filter_map(|part| match part {
                Part::Extent(extent) => Some(extent),
                Part::Literal(_) => None,
            }));
        }
        return Ok(Some((layout, extents)));
    }
}

/// Into how many runs records fall: segment, offset and length of each.
fn runs(records: impl Iterator<Item = (crate::segments::SegmentId, u64, u64)>) -> u64 {
    let (mut runs, mut last) = (0, None);
    for (segment, offset, len) in records {
        let near =
            |(other, end): (_, u64)| other == segment && (end..=end + GAP_BYTES).contains(&offset);
        runs += u64::from(!last.is_some_and(near));
        last = Some((segment, offset + len));
    }
    runs
}
