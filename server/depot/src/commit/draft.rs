//! The changes of one group, decided one after another: each sees those before it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use snowcache_core::upstream::{self, Vouched};
use snowcache_nix::{NarHash, PathInfo, StorePath, fingerprint};

use super::{Change, Outcome, PinEdit};
use crate::depot::{Published, Shared, Stored, document_key, read_document};
use crate::gc::Removals;
use crate::index::{Batch, Table};
use crate::keys::CacheName;
use crate::pins::{Pin, PinName, PinState};
use crate::pool::Stream;
use crate::record::Kind;
use crate::rows::{PathRow, PinRow, Place, RemovedRow, UploadRow, conflict_key};
use crate::state::{
    ConflictState, DocumentState, GroupState, PathState, RemovedState, SignaturesState,
    UploadState, document_payload, to_json,
};
use crate::tallies::{Holding, Step};
use crate::{Error, Result};

/// The most signatures kept with a path: keys of a chain of caches, each with a rotation under way.
pub const MAX_SIGNATURES: usize = 32;

/// Missing references that an error names.
const NAMED_IN_ERRORS: usize = 3;

/// A record to be written, and the row that will point at it.
struct Record {
    kind: Kind,
    payload: Vec<u8>,
    row: Row,
}

/// Which row a record's place belongs into, by its key.
pub(super) enum Row {
    Upload(UploadState),
    Path(Vec<u8>),
    Signatures(Vec<u8>),
    Document(Vec<u8>),
    Conflict(Vec<u8>),
    Removed { key: Vec<u8>, corpses: Vec<u32> },
    Pin { key: Vec<u8>, pin: Pin },
}

/// See the module.
pub struct Draft {
    pub(super) shared: Arc<Shared>,
    records: Vec<Record>,
    pub(super) batch: Batch,
    /// Paths that this group touches, as they will be.
    pub(super) paths: HashMap<Vec<u8>, PathRow>,
    documents: HashMap<Vec<u8>, Bytes>,
    pins: HashMap<Vec<u8>, Option<Pin>>,
    /// NARs that paths of this group have.
    pub(super) nars: Vec<NarHash>,
    /// Paths that appear and disappear.
    steps: Vec<Step>,
    removes: bool,
}

impl Draft {
    /// Nothing decided yet.
    pub fn new(shared: Arc<Shared>) -> Draft {
        Draft {
            shared,
            records: Vec::new(),
            batch: Batch::default(),
            paths: HashMap::new(),
            documents: HashMap::new(),
            pins: HashMap::new(),
            nars: Vec::new(),
            steps: Vec::new(),
            removes: false,
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// What caches hold more and less by this group, once it is durable.
    pub fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// Whether paths are on their way out.
    pub fn removes(&self) -> bool {
        self.removes
    }

    /// Decides about one change.
    pub fn decide(&mut self, change: Change) -> Result<Outcome> {
        match change {
            Change::Publish {
                cache,
                info,
                subject,
                vouched,
            } => {
                let published = self.publish(cache, info, subject, &vouched);
                published.map(Outcome::Published)
            }
            Change::Document {
                cache,
                kind,
                key,
                body,
                subject,
            } => {
                let head = DocumentState {
                    cache,
                    kind,
                    key,
                    subject,
                };
                self.document(&head, body).map(Outcome::Stored)
            }
            Change::Pin { cache, name, edit } => self.pin(cache, &name, edit).map(Outcome::Pin),
            Change::Remove(removals) => self.remove(&removals).map(Outcome::Removed),
            Change::Again(harmed) => self.again(&harmed).map(Outcome::Again),
            Change::Rest => Ok(Outcome::Rested),
        }
    }

    /// Appends all records; what the index is to be told, and which NARs the group counts on.
    pub fn append(mut self, stream: &mut Stream) -> Result<(Batch, Vec<NarHash>)> {
        let begins = stream.committed_len();
        let is_alone = self.records.len() == 1;
        for Record { kind, payload, row } in std::mem::take(&mut self.records) {
            let place = stream.state(kind, is_alone, &payload)?;
            match row {
                Row::Upload(state) => UploadRow { place, state }.put(&mut self.batch),
                Row::Path(key) => self.row(&key).place = place,
                Row::Signatures(key) => self.row(&key).signatures = Some(place),
                Row::Document(key) => self.batch.put(Table::Documents, key, place.to_row()),
                Row::Conflict(key) => {
                    let key = conflict_key(&key, place.seq);
                    self.batch.put(Table::Conflicts, key, place.to_row());
                }
                Row::Removed { key, corpses } => {
                    let row = RemovedRow { place, corpses };
                    self.batch.put(Table::Removed, key, row.encode());
                }
                Row::Pin { key, pin } => {
                    let row = PinRow { place, pin };
                    self.batch.put(Table::Pins, key, row.encode());
                }
            }
        }
        if !is_alone {
            // Of a group that was never synced a later removal, or path, must not count without
            // those before it.
            stream.state(Kind::Part, true, &to_json(&GroupState { begins }))?;
        }
        for (key, row) in &self.paths {
            self.batch.put(Table::Paths, key.as_slice(), row.encode());
        }
        Ok((self.batch, self.nars))
    }

    fn row(&mut self, key: &[u8]) -> &mut PathRow {
        self.paths
            .get_mut(key)
            .expect("invariant: whoever wrote the record put the row there")
    }

    pub(super) fn record(&mut self, kind: Kind, payload: Vec<u8>, row: Row) {
        self.records.push(Record { kind, payload, row });
    }

    fn path(&self, key: &[u8]) -> Result<Option<PathRow>> {
        match self.paths.get(key) {
            Some(row) => Ok(Some(row.clone())),
            None if self.shared.watchers.presence.is_absent(key) => Ok(None),
            None => PathRow::get(&*self.shared.index, key),
        }
    }

    fn publish(
        &mut self,
        cache: CacheName,
        mut info: PathInfo,
        subject: String,
        vouched: &Vouched,
    ) -> Result<Published> {
        let key = cache.path_key(&info.store_path.hash());
        self.shared.uses.path(&key);
        let have = self.path(&key)?;
        if let Some(row) = &have
            && !self.is_lost(row, &info)?
        {
            return self.offered_again(cache, key, row.clone(), &info, subject);
        }
        let nar = info.nar_hash;
        let layout = self.shared.index.get(Table::Layouts, nar.as_bytes())?;
        if layout.is_none() || self.shared.quarantine.is_sick(&nar) {
            let path = &info.store_path;
            return Err(Error::refused(format!(
                "{path}: its NAR {nar} is not here; upload it first"
            )));
        }
        let elsewhere = self.check_references(&cache, &info, vouched)?;
        if !upstream::note(&mut info, &elsewhere) {
            let path = &info.store_path;
            return Err(Error::refused(format!(
                "{path}: there is no room for a line about its references that an upstream has; \
                 send fewer lines that Nix does not know"
            )));
        }
        let tallies = &self.shared.tallies;
        tallies.check(&cache, info.nar_size, &self.steps)?;
        if let Some(lost) = have {
            self.give_up(&cache, &key, &lost)?;
            self.step(&cache, &key, lost.info()?.nar_size, false);
        }
        self.step(&cache, &key, info.nar_size, true);
        let narinfo = info.to_record();
        let time = (self.shared.clock)();
        let nar_key = cache.nar_key(&nar);
        // A row that says that another is not there costs as much as the other.
        if self.shared.index.get(Table::Doomed, &nar_key)?.is_some() {
            self.batch.delete(Table::Doomed, nar_key.as_slice());
        }
        self.batch.put(Table::Visible, nar_key, []);
        let row = PathRow {
            place: Place::default(),
            time,
            signatures: None,
            narinfo: narinfo.clone().into(),
        };
        self.paths.insert(key.clone(), row);
        self.nars.push(nar);
        let state = PathState {
            cache,
            subject,
            time,
            narinfo,
        };
        self.record(Kind::Path, to_json(&state), Row::Path(key));
        Ok(Published::New)
    }

    fn step(&mut self, cache: &CacheName, key: &[u8], nar_bytes: u64, appears: bool) {
        if !cache.is_default() {
            self.steps.push(Step {
                cache: cache.clone(),
                key: key.to_vec(),
                path: Holding::of(nar_bytes),
                appears,
            });
        }
    }

    /// A path becomes visible only when all that it refers to is, or an upstream has it: which
    /// references those are, each with the upstream's key.
    fn check_references(
        &self,
        cache: &CacheName,
        info: &PathInfo,
        vouched: &Vouched,
    ) -> Result<Vec<(StorePath, String)>> {
        let others = info
            .references
            .iter()
            .filter(|path| **path != info.store_path);
        let others: Vec<(&StorePath, Vec<u8>)> = others
            .map(|path| (path, cache.path_key(&path.hash())))
            .collect();
        others
            .iter()
            .for_each(|(_, key)| self.shared.uses.path(key));
        let unknown = others
            .iter()
            .filter(|(_, key)| !self.paths.contains_key(key));
        let unknown: Vec<_> = unknown.collect();
        let keys: Vec<&[u8]> = unknown.iter().map(|(_, key)| key.as_slice()).collect();
        let found = self.shared.index.get_many(Table::Paths, &keys)?;
        let missing = unknown.iter().zip(found).map(|(one, found)| match found {
            Some(row) => Ok((one, self.shared.quarantine.hides(&row)?)),
            None => Ok((one, true)),
        });
        let missing = missing.collect::<Result<Vec<_>>>()?.into_iter();
        let missing = missing.filter(|(_, missing)| *missing);
        let missing = missing.map(|((path, _), _)| (*path).clone());
        let (elsewhere, missing): (Vec<StorePath>, Vec<StorePath>) =
            missing.partition(|path| vouched.by(path).is_some());
        if missing.is_empty() {
            let keyed = elsewhere.into_iter().map(|path| {
                let key = vouched.by(&path).unwrap_or_default().to_owned();
                (path, key)
            });
            return Ok(keyed.collect());
        }
        let named = missing
            .iter()
            .take(NAMED_IN_ERRORS)
            .map(StorePath::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        let more = match missing.len().saturating_sub(NAMED_IN_ERRORS) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Err(Error::refused(format!(
            "{} refers to paths that this cache does not have: {named}{more}; upload them first",
            info.store_path
        )))
    }

    /// The first commit stays; signatures that say the same may be added to it.
    fn offered_again(
        &mut self,
        cache: CacheName,
        key: Vec<u8>,
        mut row: PathRow,
        offer: &PathInfo,
        subject: String,
    ) -> Result<Published> {
        let mut have = row.info()?;
        if fingerprint(&have) != fingerprint(offer) {
            let (winner, loser) = (have.nar_hash, offer.nar_hash);
            let (time, store_path) = ((self.shared.clock)(), have.store_path.to_string());
            tracing::warn!(path = store_path, %winner, %loser, subject, "other content offered");
            let conflict = ConflictState {
                cache,
                store_path,
                winner,
                loser,
                subject,
                time,
            };
            self.record(Kind::Conflict, to_json(&conflict), Row::Conflict(key));
            return Ok(Published::Conflict { winner });
        }
        let before = have.signatures.len();
        for signature in &offer.signatures {
            if have.signatures.len() < MAX_SIGNATURES && !have.signatures.contains(signature) {
                have.signatures.push(signature.clone());
            }
        }
        if have.signatures.len() > before {
            let signatures = have.signatures.iter().map(|one| one.to_string()).collect();
            let state = SignaturesState {
                cache,
                store_hash: have.store_path.hash(),
                subject,
                signatures,
            };
            row.narinfo = have.to_record().into();
            self.paths.insert(key.clone(), row);
            self.record(Kind::Signatures, to_json(&state), Row::Signatures(key));
        }
        Ok(Published::Known)
    }

    fn document(&mut self, head: &DocumentState, body: Bytes) -> Result<Stored> {
        let key = document_key(&head.cache, head.kind, &head.key);
        let have = match self.documents.get(&key) {
            Some(body) => Some(body.clone()),
            None => read_document(&self.shared, &key)?,
        };
        match have {
            Some(have) if have == body => return Ok(Stored::Same),
            Some(_) if !head.kind.is_replaced() => {
                let (kind, key, subject) = (head.kind, &head.key, &head.subject);
                tracing::warn!(?kind, key, subject, "another document was offered");
                return Ok(Stored::Conflict);
            }
            _ => {}
        }
        let payload = document_payload(head, &body)?;
        self.shared.room.check(payload.len() as u64)?;
        self.documents.insert(key.clone(), body);
        self.record(Kind::Document, payload, Row::Document(key));
        Ok(Stored::New)
    }

    fn pin(&mut self, cache: CacheName, name: &PinName, edit: PinEdit) -> Result<Option<Pin>> {
        let key = cache.key(name.to_string().as_bytes());
        let before = match self.pins.get(&key) {
            Some(pin) => pin.clone(),
            None => {
                let row = self.shared.index.get(Table::Pins, &key)?;
                row.map(|row| PinRow::decode(&row).map(|row| row.pin))
                    .transpose()?
                    .filter(|pin| !pin.generations.is_empty())
            }
        };
        let after = edit(before.clone())?;
        if after == before {
            return Ok(after);
        }
        if let Some(pin) = &after {
            self.check_roots(&cache, pin)?;
        }
        let mut pin = after.clone().or(before);
        if after.is_none() {
            pin.iter_mut().for_each(|pin| pin.generations.clear());
        }
        if let Some(pin) = pin {
            let state = PinState { cache, pin };
            let payload = to_json(&state);
            let pin = state.pin;
            self.record(
                Kind::Pin,
                payload,
                Row::Pin {
                    key: key.clone(),
                    pin,
                },
            );
        }
        self.pins.insert(key, after.clone());
        Ok(after)
    }

    /// Only what is here can be held.
    fn check_roots(&self, cache: &CacheName, pin: &Pin) -> Result<()> {
        let current = pin.generations.iter().find(|one| one.number == pin.current);
        for root in current.into_iter().flat_map(|one| &one.roots) {
            let key = cache.path_key(&root.hash());
            self.shared.uses.path(&key);
            if self.path(&key)?.is_none() {
                return Err(Error::refused(format!(
                    "{root} is not in this cache; push it before it is pinned"
                )));
            }
        }
        Ok(())
    }

    /// Removes what nobody used since the removal was planned.
    fn remove(&mut self, removals: &Removals) -> Result<Vec<Vec<u8>>> {
        self.removes = true;
        let mut gone = Vec::new();
        self.shared.uses.leave(|used| {
            gone = removals.unused(used);
            gone.clone()
        });
        let time = (self.shared.clock)();
        for key in &gone {
            let Some(row) = PathRow::get(&*self.shared.index, key)? else {
                continue;
            };
            let info = row.info()?;
            let earlier = RemovedRow::get(&*self.shared.index, key)?;
            let mut corpses = earlier.map(|row| row.corpses).unwrap_or_default();
            corpses.push(row.place.segment);
            corpses.sort_unstable();
            corpses.dedup();
            let state = RemovedState {
                cache: removals.cache.clone(),
                store_hash: info.store_path.hash(),
                reason: removals.reason(key),
                subject: removals.subject.clone(),
                time,
            };
            self.step(&removals.cache, key, info.nar_size, false);
            let key = key.clone();
            self.batch.delete(Table::Paths, key.as_slice());
            self.batch.delete(Table::Used, key.as_slice());
            let row = Row::Removed { key, corpses };
            self.record(Kind::Removed, to_json(&state), row);
        }
        Ok(gone)
    }
}
