//! NARs that come in pieces, as our client sends them, and what is held of those that broke off.
//!
//! What must hold: a frame that was kept is there until its lease ends, whatever the machine does
//! meanwhile; one that was taken of an upload under way outlives the process, though not the power.

use std::collections::{HashMap, HashSet};

use snowcache_core::recipe::FrameId;

use super::operations::DAY;
use super::*;
use crate::index::{Rows, Table};
use crate::layout::Layout;
use crate::relayout::{frame_id, recipe_at};
use crate::tests::{Part, parts};

/// A NAR that is being received in pieces.
pub struct Sending {
    ingest: Ingest,
    nar: usize,
    /// What is still to come, the last piece first.
    rest: Vec<Part>,
    /// Frames that it brought since what came was last kept.
    brought: Vec<FrameId>,
    /// Seconds that they are held for.
    lease_s: u64,
}

/// Frames that are held for whoever resumes.
#[derive(Default)]
pub struct Kept {
    /// Until when.
    until: HashMap<FrameId, u64>,
    /// Those that a killed process left, each with its lease's length, until a start has found
    /// them.
    left: Vec<(FrameId, u64)>,
    /// When that is.
    now: u64,
}

impl Kept {
    fn hold(&mut self, id: FrameId, until: u64) {
        let known = self.until.entry(id).or_default();
        *known = until.max(*known);
    }

    /// The power went before they were durable.
    pub fn are_cut_off(&mut self) {
        self.left.clear();
    }

    /// A start has found them, and holds them from now on.
    pub fn are_found(&mut self) {
        for (id, lease_s) in std::mem::take(&mut self.left) {
            self.hold(id, self.now + lease_s);
        }
    }
}

impl Life {
    pub fn begin_in_pieces(&mut self) {
        if self.sendings.len() == 3 {
            return;
        }
        let nar = self.some_nar();
        let Ok(mut ingest) = self.depot().ingest() else {
            return;
        };
        let lease_s = [1, DAY, 40 * DAY][self.random.below(3) as usize];
        ingest.outlives(&self.lease_of(lease_s));
        let packs_anew = self.random.chance(500);
        if packs_anew {
            ingest.pack_anew();
        }
        self.tell(format!("NAR {nar} begins in pieces, anew: {packs_anew}"));
        let mut rest = parts(&self.model.nars[nar].bytes, 1);
        rest.reverse();
        self.sendings.push(Sending {
            ingest,
            nar,
            rest,
            brought: Vec::new(),
            lease_s,
        });
    }

    pub fn go_on_in_pieces(&mut self) {
        if self.sendings.is_empty() {
            return;
        }
        let which = self.random.below(self.sendings.len() as u64) as usize;
        let mut sending = self.sendings.swap_remove(which);
        let some = self.random.below(sending.rest.len() as u64 + 1);
        for _ in 0..some {
            if let Err(error) = self.send_one(&mut sending) {
                return self.tell(format!("a piece of NAR {} failed: {error}", sending.nar));
            }
        }
        let left = sending.rest.len();
        self.tell(format!(
            "NAR {} in pieces goes on: {left} left",
            sending.nar
        ));
        match self.random.below(8) {
            0 => self.tell("and is given up"),
            1 => self.keep(sending),
            2 => self.keep_so_far(sending),
            _ if left == 0 => drop(self.finish(sending.ingest, sending.nar)),
            _ => self.sendings.push(sending),
        }
    }

    /// Sends a piece: by its name, mostly, where the depot says that it has it.
    fn send_one(&mut self, sending: &mut Sending) -> Result<()> {
        let depot = self.depot();
        match sending.rest.pop().expect("invariant: so many are left") {
            Part::Literal(bytes) => sending.ingest.write(&bytes),
            Part::Frame(id, raw_len, stored) => {
                let here = depot.has_frames(&cache(), &[id])? == [true];
                if here && self.random.chance(800) {
                    let known = sending.ingest.known(&cache(), id, raw_len)?;
                    assert!(known, "frame {id} was said to be here");
                    return Ok(());
                }
                // What is here already is held by whoever brought it.
                let is_new = depot.shared().index.get(Table::Frames, id.as_bytes())?;
                sending.ingest.frame(id, raw_len, &stored)?;
                sending.brought.extend(is_new.is_none().then_some(id));
                Ok(())
            }
        }
    }

    fn lease_of(&self, lease_s: u64) -> crate::Lease {
        crate::Lease {
            cache: cache(),
            subject: "tester".to_owned(),
            expires_unix_s: self.model.now + lease_s,
        }
    }

    fn keep(&mut self, sending: Sending) {
        let kept = sending.ingest.keep(self.lease_of(sending.lease_s));
        self.are_kept(kept, &sending.brought, sending.lease_s);
    }

    fn keep_so_far(&mut self, mut sending: Sending) {
        let kept = sending.ingest.keep_so_far(self.lease_of(sending.lease_s));
        let brought = std::mem::take(&mut sending.brought);
        if self.are_kept(kept, &brought, sending.lease_s) {
            self.sendings.push(sending);
        }
    }

    fn are_kept(&mut self, kept: Result<u64>, brought: &[FrameId], lease_s: u64) -> bool {
        let of = brought.len();
        self.tell(format!(
            "of {of} frames {kept:?} is held for whoever resumes"
        ));
        if kept.is_ok() {
            let until = self.model.now + lease_s;
            brought.iter().for_each(|id| self.frames.hold(*id, until));
        }
        kept.is_ok()
    }

    /// The machine has ended; of a process that was killed all frames are left.
    pub fn outlive(&mut self, end: End) {
        let sendings = std::mem::take(&mut self.sendings);
        if end == End::Kill {
            self.frames.now = self.model.now;
            for Sending {
                brought, lease_s, ..
            } in &sendings
            {
                let left = brought.iter().map(|id| (*id, *lease_s));
                self.frames.left.extend(left);
            }
        }
        if !self.frames.left.is_empty() {
            let frames = self.frames.left.len();
            self.tell(format!("of {frames} frames each outlives the process"));
        }
    }

    /// What is held is here. Of two copies of a frame the index may have known the one that nothing
    /// led to and that was collected: then it is in what leads to the other one, though it will be
    /// asked for again.
    pub fn check_frames(&self) {
        let held = self.frames.until.iter();
        let held = held.filter(|(_, until)| **until > self.model.now);
        let (depot, mut led_to) = (self.depot(), None);
        for (id, until) in held {
            let here = depot.has_frames(&cache(), &[*id]).expect("look up") == [true];
            let mut is_led_to = || {
                led_to
                    .get_or_insert_with(|| frames_led_to(&depot))
                    .contains(id)
            };
            assert!(
                here || is_led_to(),
                "frame {id}, held until {until}, is gone"
            );
        }
    }
}

/// The frames of all that can be read.
fn frames_led_to(depot: &Depot) -> HashSet<FrameId> {
    let shared = depot.shared();
    let mut all = HashSet::new();
    for row in Rows::new(&*shared.index, Table::Layouts, &[]) {
        let Ok(hash) = <[u8; 32]>::try_from(row.expect("a row").0.as_ref()) else {
            continue; // a block of one
        };
        let nar = snowcache_nix::NarHash::from_bytes(hash);
        let layout = Layout::read(&*shared.index, &nar)
            .expect("read")
            .expect("it is there");
        let reader = NarReader::open(depot.shared().clone(), nar).expect("read");
        let raw = collect(reader.expect("it is there").raw(0..u64::MAX));
        assert_eq!(raw.len() as u64, layout.nar_size, "{nar}");
        let recipe = recipe_at(shared, &layout.recipe).expect("read");
        all.extend(recipe.ops().iter().filter_map(frame_id));
    }
    all
}
