//! What a pusher holds is counted anew while somebody publishes.

use std::sync::Mutex;

use bytes::Bytes;

use super::collect::strict;
use super::*;
use crate::index::forward::forward;
use crate::index::{Index, Table};

/// An index where something happens right after the first question for what is visible.
struct Meddled {
    index: MemoryIndex,
    happens: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Index for Meddled {
    forward!(to index: get_many write scan rows_about stalls pause checkpoint ready);

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.index.get(table, key);
        let happens = match table {
            Table::Visible => self.happens.lock().expect("no poison").take(),
            _ => None,
        };
        if let Some(happens) = happens {
            happens();
        }
        found
    }
}

#[test]
fn a_path_published_while_leases_are_counted_frees_its_nar() {
    let index = Arc::new(Meddled {
        index: MemoryIndex::default(),
        happens: Mutex::default(),
    });
    let mut options = Options::new("/nonexistent");
    options.clock = Arc::new(|| 1_700_000_000);
    options.max_leased_bytes = Some(1_000_000);
    let segments = Arc::new(MemorySegments::default());
    let depot = Depot::over(options, segments, index.clone()).expect("open");
    let put = |number: u8| {
        let mut ingest = depot.ingest()?;
        ingest.write(&nar_of(&noise(number.into(), 600_000)))?;
        ingest.finish(upload(&format!("{number}.nar")))
    };
    let first = put(1).expect("there is room");
    assert_eq!(put(2).expect_err("it is too much").kind(), ErrorKind::Full);
    let publishing = depot.clone();
    *index.happens.lock().expect("no poison") = Some(Box::new(move || {
        let path = signed(path(1, first, &[]), first);
        publishing
            .publish(&cache(), path, "tester")
            .expect("published");
    }));
    let policy = Policy {
        max_age_s: None,
        ..strict()
    };
    depot
        .collect(&policy, false, &mut |_| {})
        .expect("collected");
    assert!(index.happens.lock().expect("no poison").is_none());
    put(2).expect("the first one has a path and counts no more");
}
