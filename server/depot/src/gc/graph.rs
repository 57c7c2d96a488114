//! All visible paths and what they refer to, and which of them are to stay.
//!
//! ```text
//!   pins, uses within the grace --> must stay, with all that they refer to
//!   the rest, by falling last use --> stay until one is too old, or the depot is full:
//!                                     that one and all behind it go
//! ```
//!
//! A path counts as used whenever something that refers to it is, so what goes is never referred
//! to by what stays.

use std::collections::HashSet;

use snowcache_nix::NarHash;

use super::{Policy, Stay};
use crate::depot::Shared;
use crate::index::{Rows, Table};
use crate::keys::CacheName;
use crate::rows::{PathRow, PinRow, SINCE_KEY, cache_of_key, time_of};
use crate::{Error, Result};

/// Of a depot that is over its limit, so much of the limit (in percent) is left filled, so that not
/// every upload needs a collection.
pub const LOW_WATER_PERCENT: u64 = 80;

/// Above so much of the limit (in percent) paths are removed.
const HIGH_WATER_PERCENT: u64 = 90;

/// One path of the graph, by its number.
pub type Node = u32;

/// The paths, by rising key. A path takes some 120 bytes, and 4 for each reference.
pub struct Graph {
    keys: Vec<Box<[u8]>>,
    used: Vec<u64>,
    nars: Vec<(NarHash, u64)>,
    /// Where the references of each node begin in `targets`, and where the last ones end.
    starts: Vec<u32>,
    targets: Vec<Node>,
}

/// What the depot may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Bytes that uploads may fill.
    pub bytes: u64,
    /// An upload did not fit since the last collection: however full the depot is, for that one it
    /// is too full.
    pub was_met: bool,
}

impl Limit {
    /// Of `total` bytes so many may stay; None: all.
    fn fits(&self, total: u64) -> Option<u64> {
        let low = |whole: u64| whole / 100 * LOW_WATER_PERCENT;
        match self.was_met {
            true => Some(low(self.bytes.min(total))),
            false if total > self.bytes / 100 * HIGH_WATER_PERCENT => Some(low(self.bytes)),
            false => None,
        }
    }
}

/// Why a path goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its cache was deleted.
    Deleted,
    /// It was last used so many seconds ago, which is longer than the second number.
    TooOld(u64, u64),
    /// The depot is over its limit, and it was last used so many seconds ago.
    OverLimit(u64),
}

/// What [`Graph::judge`] found, a flag a node.
pub struct Verdict {
    /// Why each node goes; None: it stays.
    pub goes: Vec<Option<Reason>>,
}

impl Graph {
    /// Reads the graph.
    pub fn read(shared: &Shared) -> Result<Graph> {
        let index = &*shared.index;
        let since = index.get(Table::About, SINCE_KEY)?;
        let since = since.map(|row| time_of(&row)).transpose()?.unwrap_or(0);
        let mut keys = Vec::new();
        for row in Rows::new(index, Table::Paths, &[]) {
            keys.push(row?.0.as_ref().into());
        }
        let mut graph = Graph {
            used: Vec::with_capacity(keys.len()),
            nars: Vec::with_capacity(keys.len()),
            starts: vec![0],
            targets: Vec::new(),
            keys,
        };
        for node in 0..graph.keys.len() {
            let row = PathRow::get(index, &graph.keys[node])?;
            graph.add(row, since)?;
        }
        for row in Rows::new(index, Table::Used, &[]) {
            let (key, time) = row?;
            if let Some(node) = graph.find(&key) {
                let used = &mut graph.used[node as usize];
                *used = (*used).max(time_of(&time)?);
            }
        }
        Ok(graph)
    }

    /// Adds what is known of the next node; nothing, when it was removed since its key was read.
    fn add(&mut self, row: Option<PathRow>, since: u64) -> Result<()> {
        let node = self.used.len();
        if let Some(row) = row {
            let info = row.info()?;
            let (cache, _) = cache_of_key(&self.keys[node])?;
            self.used.push(row.time.max(since));
            self.nars.push((info.nar_hash, info.nar_size));
            let targets = info.references.iter();
            let targets = targets.filter_map(|path| self.find(&cache.path_key(&path.hash())));
            let targets: Vec<Node> = targets.filter(|target| *target as usize != node).collect();
            self.targets.extend(targets);
        } else {
            self.used.push(u64::MAX);
            self.nars.push((NarHash::from_bytes([0; 32]), 0));
        }
        let end = u32::try_from(self.targets.len());
        self.starts
            .push(end.map_err(|_| Error::refused("more than 2^32 references"))?);
        Ok(())
    }

    /// How many paths there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The node of a path.
    pub fn find(&self, key: &[u8]) -> Option<Node> {
        let found = self.keys.binary_search_by(|other| (**other).cmp(key));
        found.ok().map(|node| node as Node)
    }

    /// The key of a node's path.
    pub fn key(&self, node: Node) -> &[u8] {
        &self.keys[node as usize]
    }

    /// The cache of a node's path.
    pub fn cache(&self, node: Node) -> Result<CacheName> {
        Ok(cache_of_key(self.key(node))?.0)
    }

    /// Hash and length of a node's NAR.
    pub fn nar(&self, node: Node) -> (NarHash, u64) {
        self.nars[node as usize]
    }

    /// What a path refers to, itself aside.
    pub fn references(&self, node: Node) -> &[Node] {
        let at = node as usize;
        &self.targets[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// Adds what is reached from `root` and not in `reached` yet, references first, and calls
    /// `each` for it.
    pub fn reach(&self, root: Node, reached: &mut [bool], each: &mut dyn FnMut(Node)) {
        let mut stack = vec![(root, false)];
        while let Some((node, ready)) = stack.pop() {
            if ready {
                each(node);
            } else if !reached[node as usize] {
                reached[node as usize] = true;
                stack.push((node, true));
                let open = self.references(node).iter();
                stack.extend(
                    open.filter(|to| !reached[**to as usize])
                        .map(|to| (*to, false)),
                );
            }
        }
    }

    /// The roots of all pins.
    pub fn pinned(&self, shared: &Shared, now: u64) -> Result<HashSet<Node>> {
        let mut pinned = HashSet::new();
        for row in Rows::new(&*shared.index, Table::Pins, &[]) {
            let (key, row) = row?;
            let (cache, _) = cache_of_key(&key)?;
            let pin = PinRow::decode(&row)?.pin;
            let roots = pin.roots(now).map(|root| cache.path_key(&root.hash()));
            pinned.extend(roots.filter_map(|key| self.find(&key)));
        }
        Ok(pinned)
    }

    /// Decides which paths go. `cost` tells how many bytes a path's NAR adds to those that were
    /// asked about before it.
    pub fn judge(
        &self,
        policy: &Policy,
        limit: Option<Limit>,
        pinned: &HashSet<Node>,
        now: u64,
        cost: &mut dyn FnMut(NarHash) -> Result<u64>,
    ) -> Result<Verdict> {
        let age = |node: usize| now.saturating_sub(self.used[node]);
        let rules = self.rules(policy);
        let stay = |node: Node| rules[rules.partition_point(|(end, _)| *end <= node)].1;
        let must = |node: Node| match stay(node) {
            Stay::Nothing => false,
            Stay::For { grace_s, .. } => pinned.contains(&node) || age(node as usize) < grace_s,
        };
        let is_deleted = |node: Node| stay(node) == Stay::Nothing;
        let mut order: Vec<Node> = (0..self.len() as Node).collect();
        order.sort_by_key(|node| (is_deleted(*node), !must(*node), age(*node as usize)));
        let mut reached = vec![false; self.len()];
        // In the order in which they are to stay: the root's rank, age and the bytes added.
        let mut ranked = Vec::with_capacity(self.len());
        for root in order {
            let mut group = Vec::new();
            self.reach(root, &mut reached, &mut |node| group.push(node));
            for node in group {
                let added = match limit {
                    Some(_) if !is_deleted(node) => cost(self.nar(node).0)?,
                    _ => 0,
                };
                ranked.push((node, must(root), age(root as usize), added));
            }
        }
        let total: u64 = ranked.iter().map(|(_, _, _, added)| added).sum();
        let fits = limit.and_then(|limit| limit.fits(total));
        let mut goes = vec![None; self.len()];
        let mut kept = 0;
        for (node, must, age, added) in ranked {
            kept += added;
            goes[node as usize] = match stay(node) {
                Stay::Nothing => Some(Reason::Deleted),
                _ if must => None,
                Stay::For {
                    max_age_s: Some(max),
                    ..
                } if age >= max => Some(Reason::TooOld(age, max)),
                _ if fits.is_some_and(|fits| kept > fits) => Some(Reason::OverLimit(age)),
                _ => None,
            };
        }
        Ok(Verdict { goes })
    }

    /// What stays of which nodes: of those below each number, and not below the one before it.
    fn rules(&self, policy: &Policy) -> Vec<(Node, Stay)> {
        let mut rules = Vec::new();
        let mut node = 0;
        while let Some(key) = self.keys.get(node) {
            let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
            let cache = &key[..=end.min(key.len() - 1)];
            let count = self.keys[node..].partition_point(|key| key.starts_with(cache));
            let stay = cache_of_key(key).map(|(cache, _)| policy.of(&cache));
            node += count.max(1);
            // Of a key that does not read nothing is decided.
            let forever = Stay::For {
                grace_s: u64::MAX,
                max_age_s: None,
            };
            rules.push((node as Node, stay.unwrap_or(forever)));
        }
        rules
    }
}
