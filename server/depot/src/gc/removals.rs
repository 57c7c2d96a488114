//! Paths on their way out, and the second look that saves those that were used meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::graph::{Graph, Node};
use crate::keys::CacheName;

/// Removals carried out in one commit: one fsync, and some 200 KB of records.
pub const REMOVALS_AT_ONCE: usize = 1000;

/// All paths of a graph that are to go.
pub struct Doomed {
    /// The graph.
    pub graph: Graph,
    /// Why each of them goes.
    pub reasons: HashMap<Node, String>,
}

/// Paths of one cache that go in one commit.
pub struct Removals {
    /// The cache.
    pub cache: CacheName,
    /// In whose name.
    pub subject: String,
    /// Everything that is to go, of which this is a part.
    pub doomed: Arc<Doomed>,
    /// The part: what refers to others stands before them.
    pub nodes: Vec<Node>,
}

impl Removals {
    /// The keys of those that neither were used since the graph was read, nor are referred to by
    /// what was.
    pub fn unused(&self, used: &HashSet<Vec<u8>>) -> Vec<Vec<u8>> {
        let graph = &self.doomed.graph;
        let mut saved = vec![false; graph.len()];
        for node in used.iter().filter_map(|key| graph.find(key)) {
            graph.reach(node, &mut saved, &mut |_| {});
        }
        let unused = self.nodes.iter().filter(|node| !saved[**node as usize]);
        unused.map(|node| graph.key(*node).to_vec()).collect()
    }

    /// Why the path with this key goes.
    pub fn reason(&self, key: &[u8]) -> String {
        let node = self.doomed.graph.find(key);
        let reason = node.and_then(|node| self.doomed.reasons.get(&node));
        reason.cloned().unwrap_or_default()
    }
}
