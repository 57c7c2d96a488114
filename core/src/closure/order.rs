//! References first: a depth-first walk with its own stack.
//!
//! Guarantees: every path comes after all of its references that were found; the same input gives
//! the same order. Never: recursion; a cycle taken for an order (a path may refer to itself).

use crate::cache::Narinfo;
use crate::error::{Blame, Error, Kind};
use snowcache_nix::{StoreHash, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Store paths are named after what they contain, so honest ones cannot refer to each other.
#[derive(Debug, Error)]
#[error("{0} refers to itself through other paths, which no Nix build can make; refuse the cache")]
struct Cycle(StorePath);

/// A path on the way down: which of its references is next.
struct Step {
    narinfo: Narinfo,
    next: usize,
}

/// Takes the paths out of `found` in order, beginning from `roots`.
pub(super) fn references_first(
    roots: &[StoreHash],
    mut found: BTreeMap<StoreHash, Narinfo>,
) -> Result<Vec<Narinfo>, Error> {
    let mut ordered = Vec::with_capacity(found.len());
    let mut open = BTreeSet::new();
    for root in roots {
        let mut stack: Vec<Step> = Vec::new();
        stack.extend(enter(&mut found, &mut open, *root));
        while let Some(step) = stack.last_mut() {
            let Some(reference) = step.narinfo.info.references.get(step.next) else {
                let Some(done) = stack.pop() else { break };
                open.remove(&done.narinfo.info.store_path.hash());
                ordered.push(done.narinfo);
                continue;
            };
            step.next += 1;
            let itself = *reference == step.narinfo.info.store_path;
            if !itself && open.contains(&reference.hash()) {
                let cycle = Cycle(reference.clone());
                return Err(Error::new(Kind::Corrupt, Blame::Upstream, cycle));
            }
            let reference = reference.hash();
            stack.extend(enter(&mut found, &mut open, reference));
        }
    }
    Ok(ordered)
}

/// Opens a path that was found and not taken yet.
fn enter(
    found: &mut BTreeMap<StoreHash, Narinfo>,
    open: &mut BTreeSet<StoreHash>,
    hash: StoreHash,
) -> Option<Step> {
    let narinfo = found.remove(&hash)?;
    open.insert(hash);
    Some(Step { narinfo, next: 0 })
}
