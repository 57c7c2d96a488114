//! The index, watched: what is kept in memory of paths and layouts is told of every change here,
//! so that no writer can forget to.
//!
//! ```text
//!   write: keys of paths --> presence; batch --> index; versions of its paths and layouts go up
//! ```
//! Guarantees: when a write returns, [`Presence`] knows its paths and no answer that [`Versions`]
//! says holds was made before it. Never: anything else but what the index below says.

use std::sync::Arc;

use super::forward::forward;
use super::{Batch, Index, Table};
use crate::Result;
use crate::presence::Presence;
use crate::versions::Versions;

/// A layout's summary has the NarHash for its key; its blocks have more.
const NAR_HASH_BYTES: usize = 32;

/// What is told of changes.
#[derive(Default)]
pub(crate) struct Watchers {
    /// Which paths may be here.
    pub presence: Presence,
    /// What changed since when.
    pub versions: Versions,
}

impl Watchers {
    /// The index was opened anew, and may say something else than before.
    pub fn anew(&self) {
        self.presence.forget();
        self.versions.all_changed();
    }
}

/// An index with its watchers.
pub(crate) struct Watched {
    index: Arc<dyn Index>,
    watchers: Arc<Watchers>,
}

impl Watched {
    /// Has `watchers` told of what is written to `index`.
    pub fn new(index: Arc<dyn Index>, watchers: Arc<Watchers>) -> Watched {
        Watched { index, watchers }
    }
}

impl Index for Watched {
    forward!(to index: get get_many scan rows_about stalls pause checkpoint ready);

    fn write(&self, batch: Batch) -> Result<()> {
        let Watchers { presence, versions } = &*self.watchers;
        let mut changed = Vec::new();
        for (table, key, value) in &batch.changes {
            match table {
                Table::Paths if value.is_some() => presence.add(key),
                Table::Paths => presence.removed(),
                Table::Layouts if key.len() == NAR_HASH_BYTES => {}
                // Ends with the NarHash, as what is kept of the NAR is known by.
                Table::Visible => {}
                _ => continue,
            }
            changed.push(key.clone());
        }
        let written = self.index.write(batch);
        // After a failure, too: nobody knows what it left behind.
        changed.iter().for_each(|key| versions.changed(key));
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::memory::MemoryIndex;
    use snowcache_nix::NarHash;

    fn watched() -> (Watched, Arc<Watchers>) {
        let watchers = Arc::<Watchers>::default();
        let index = Arc::new(MemoryIndex::default());
        (Watched::new(index, watchers.clone()), watchers)
    }

    #[test]
    fn a_watched_index_keeps_the_contract() {
        super::super::contract::suite(|| Box::new(watched().0));
    }

    #[test]
    fn each_change_of_a_path_or_a_layout_is_told() {
        let (index, watchers) = watched();
        watchers.presence.begin(1);
        watchers.presence.complete();
        let versions = &watchers.versions;
        let (path, nar) = (b"default\0path".as_slice(), [7; NAR_HASH_BYTES]);
        assert!(watchers.presence.is_absent(path));
        let visible = [b"default\0".as_slice(), &nar].concat();
        let named = versions.nar(&NarHash::from_bytes(nar));
        for (table, key) in [
            (Table::Paths, path),
            (Table::Layouts, &nar),
            (Table::Visible, &visible),
        ] {
            for value in [Some(b"row".to_vec()), None] {
                let before = versions.path(key);
                let mut batch = Batch::default();
                batch.changes.push((table, key.to_vec(), value));
                index.write(batch).expect("write");
                assert!(!versions.holds(before), "{table:?}");
            }
        }
        assert!(!watchers.presence.is_absent(path));
        assert!(!versions.holds(named), "visible under the NAR's own name");
    }

    #[test]
    fn what_is_not_about_them_is_not() {
        let (index, watchers) = watched();
        let block = [[7; NAR_HASH_BYTES].as_slice(), &[0, 0]].concat();
        let before = watchers.versions.path(&block);
        let mut batch = Batch::default();
        batch.put(Table::Layouts, block.clone(), *b"a block");
        batch.put(Table::Used, block, *b"a time");
        index.write(batch).expect("write");
        assert!(watchers.versions.holds(before));
    }
}
