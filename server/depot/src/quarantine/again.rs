//! Damaged state records are written again from what the index knows of them.
//!
//! They get new sequence numbers. A removal that is written again would take away what was
//! published after it, so the path is written again behind it. What the index does not hold, the
//! body of a document, is lost: its row goes, and the next push stores it anew.

use super::Damage;
use crate::Result;
use crate::depot::Shared;
use crate::gc::rows::{TABLES, places};
use crate::index::{Rows, Table};

/// A row of the index that leads to a damaged record.
pub struct Harmed {
    /// The row's table.
    pub table: Table,
    /// Its key.
    pub key: Vec<u8>,
}

impl Shared {
    /// The rows that lead to damaged records.
    pub fn harmed(&self, damage: &[Damage]) -> Result<Vec<Harmed>> {
        let mut harmed = Vec::new();
        for table in TABLES {
            for row in Rows::new(&*self.index, table, &[]) {
                let (key, value) = row?;
                let hit = places(table, &value)?.into_iter().any(|place| {
                    let (from, to) = (place.offset, place.offset + place.len);
                    damage
                        .iter()
                        .any(|one| one.touches(place.segment(), from, to))
                });
                if hit {
                    let key = key.to_vec();
                    harmed.push(Harmed { table, key });
                }
            }
        }
        Ok(harmed)
    }
}
