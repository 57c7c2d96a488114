//! Records written again, because they are damaged where they lie.

use snowcache_nix::{PathInfo, StoreHash, fingerprint};

use super::draft::{Draft, Row};
use crate::Result;
use crate::index::Table;
use crate::keys::CacheName;
use crate::pins::PinState;
use crate::quarantine::Harmed;
use crate::record::Kind;
use crate::rows::{PathRow, PinRow, RemovedRow, UploadRow, cache_of_key};
use crate::state::{PathState, RemovedState, to_json};
/// In whose name records are written again whose subject only they knew.
const SUBJECT: &str = "scrub";

impl Draft {
    /// Whether a published path is gone for good, as far as this offer can tell: its NAR is
    /// damaged, and other content is offered.
    pub fn is_lost(&self, row: &PathRow, offer: &PathInfo) -> Result<bool> {
        if !self.shared.quarantine.any() {
            return Ok(false);
        }
        let have = row.info()?;
        let sick = self.shared.quarantine.is_sick(&have.nar_hash);
        Ok(sick && fingerprint(&have) != fingerprint(offer))
    }

    /// Removes a path that is lost, so that another one can take its name.
    pub fn give_up(&mut self, cache: &CacheName, key: &[u8], lost: &PathRow) -> Result<()> {
        let info = lost.info()?;
        tracing::warn!(path = %info.store_path, nar = %info.nar_hash, "damaged, and replaced");
        let earlier = RemovedRow::get(&*self.shared.index, key)?;
        let mut corpses = earlier.map(|row| row.corpses).unwrap_or_default();
        corpses.push(lost.place.segment);
        corpses.sort_unstable();
        corpses.dedup();
        let state = RemovedState {
            cache: cache.clone(),
            store_hash: info.store_path.hash(),
            reason: "its NAR is damaged, and other content was pushed".to_owned(),
            subject: SUBJECT.to_owned(),
            time: (self.shared.clock)(),
        };
        let key = key.to_vec();
        self.record(
            Kind::Removed,
            to_json(&state),
            Row::Removed { key, corpses },
        );
        Ok(())
    }

    /// Writes again what the index still knows of these rows' records; how many.
    pub fn again(&mut self, harmed: &[Harmed]) -> Result<u64> {
        let mut written = 0;
        // Removals first: what was published after them stands behind them again.
        for one in harmed.iter().filter(|one| one.table == Table::Removed) {
            written += self.removal_again(&one.key)?;
        }
        for one in harmed {
            written += match one.table {
                Table::Paths => self.path_again(&one.key)?,
                Table::Uploads => self.upload_again(&one.key)?,
                Table::Pins => self.pin_again(&one.key)?,
                Table::Documents | Table::Conflicts => {
                    let (table, key) = (one.table.name(), one.key.escape_ascii().to_string());
                    tracing::error!(table, key, "a damaged record is dropped");
                    self.batch.delete(one.table, one.key.as_slice());
                    0
                }
                _ => 0,
            };
        }
        Ok(written)
    }

    fn path_again(&mut self, key: &[u8]) -> Result<u64> {
        if self.paths.contains_key(key) {
            return Ok(0); // behind its removal, or in another change of this group
        }
        let Some(row) = PathRow::get(&*self.shared.index, key)? else {
            return Ok(0);
        };
        let state = PathState {
            cache: cache_of_key(key)?.0,
            subject: SUBJECT.to_owned(),
            time: row.time,
            narinfo: String::from_utf8_lossy(&row.narinfo).into_owned(),
        };
        self.nars.push(row.info()?.nar_hash);
        // Its record has all signatures.
        let row = PathRow {
            signatures: None,
            ..row
        };
        self.paths.insert(key.to_vec(), row);
        self.record(Kind::Path, to_json(&state), Row::Path(key.to_vec()));
        Ok(1)
    }

    fn removal_again(&mut self, key: &[u8]) -> Result<u64> {
        let Some(row) = RemovedRow::get(&*self.shared.index, key)? else {
            return Ok(0);
        };
        let (cache, hash) = cache_of_key(key)?;
        let Ok(hash) = <[u8; 20]>::try_from(hash) else {
            return Ok(0);
        };
        let state = RemovedState {
            cache,
            store_hash: StoreHash::from_bytes(hash),
            reason: "removed earlier; the record was damaged".to_owned(),
            subject: SUBJECT.to_owned(),
            time: (self.shared.clock)(),
        };
        let row = Row::Removed {
            key: key.to_vec(),
            corpses: row.corpses,
        };
        self.record(Kind::Removed, to_json(&state), row);
        Ok(1 + self.path_again(key)?)
    }

    fn upload_again(&mut self, key: &[u8]) -> Result<u64> {
        let Some(value) = self.shared.index.get(Table::Uploads, key)? else {
            return Ok(0);
        };
        let state = UploadRow::decode(&value)?.state;
        self.record(Kind::Upload, to_json(&state), Row::Upload(state));
        Ok(1)
    }

    fn pin_again(&mut self, key: &[u8]) -> Result<u64> {
        let Some(value) = self.shared.index.get(Table::Pins, key)? else {
            return Ok(0);
        };
        let pin = PinRow::decode(&value)?.pin;
        let cache = cache_of_key(key)?.0;
        let payload = to_json(&PinState {
            cache,
            pin: pin.clone(),
        });
        let row = Row::Pin {
            key: key.to_vec(),
            pin,
        };
        self.record(Kind::Pin, payload, row);
        Ok(1)
    }
}
