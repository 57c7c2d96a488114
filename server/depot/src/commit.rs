//! The committer: one thread that decides, in one order for everybody, what becomes visible.
//!
//! ```text
//!   publish() --+
//!   publish() --+--> queue --> [decide, append]* --> fsync --> index --> answer all
//!   document()--+              up to MAX_GROUP at a time: one fsync for all of them
//! ```
//!
//! Guarantees: nothing is answered before it is durable; of two offers for one path the first
//! stays; a path becomes visible only when its NAR and all its references are; after a failed write
//! the segment is given up and the whole group is told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use snowcache_nix::{PathInfo, StorePath, fingerprint};

use crate::depot::{Published, Shared, Stored, document_key, path_info, read_document};
use crate::index::{Batch, Table};
use crate::keys::CacheName;
use crate::pool::Stream;
use crate::record::Kind;
use crate::state::{
    ConflictState, Document, DocumentState, PathState, SignaturesState, document_payload, to_json,
};
use crate::varint::put;
use crate::{Error, Result};

/// The most changes that share one fsync.
pub const MAX_GROUP: usize = 256;

/// The most signatures kept with a path: keys of a chain of caches, each with a rotation under way.
pub const MAX_SIGNATURES: usize = 32;

/// Missing references that an error names.
const NAMED_IN_ERRORS: usize = 3;

/// What can be asked of the committer.
pub enum Change {
    /// Make a path visible.
    Publish {
        cache: CacheName,
        info: PathInfo,
        subject: String,
    },
    /// Store a document.
    Document {
        cache: CacheName,
        kind: Document,
        key: String,
        body: Bytes,
        subject: String,
    },
}

/// What a change came to.
#[derive(Debug)]
pub enum Outcome {
    /// Of a publication.
    Published(Published),
    /// Of a document.
    Stored(Stored),
}

struct Request {
    change: Change,
    reply: SyncSender<Result<Outcome>>,
}

/// The handle to the thread.
pub struct Committer {
    queue: Option<SyncSender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread.
    pub fn start(shared: Arc<Shared>) -> Result<Committer> {
        let (queue, requests) = sync_channel(MAX_GROUP);
        let thread = std::thread::Builder::new().name("commit".into());
        let thread = thread
            .spawn(move || {
                Journal {
                    shared,
                    stream: None,
                }
                .run(&requests)
            })
            .map_err(|e| Error::io("starting a thread", e))?;
        Ok(Committer {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Carries a change out; it is durable when this returns.
    pub fn commit(&self, change: Change) -> Result<Outcome> {
        let (reply, answer) = sync_channel(1);
        let queue = self.queue.as_ref().ok_or_else(Error::closed)?;
        queue
            .send(Request { change, reply })
            .map_err(|_| Error::closed())?;
        answer.recv().map_err(|_| Error::closed())?
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if self
            .thread
            .take()
            .is_some_and(|thread| thread.join().is_err())
        {
            tracing::error!("the commit thread panicked");
        }
    }
}

/// Where the committer writes.
struct Journal {
    shared: Arc<Shared>,
    stream: Option<Stream>,
}

impl Journal {
    fn run(&mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut group = vec![first];
            group.extend(requests.try_iter().take(MAX_GROUP - 1));
            self.carry_out(group);
        }
    }

    fn carry_out(&mut self, group: Vec<Request>) {
        let mut draft = Draft::new(self.shared.clone());
        let mut answers = Vec::with_capacity(group.len());
        for Request { change, reply } in group {
            answers.push((reply, draft.decide(change)));
        }
        let durable = self.write(draft);
        for (reply, decision) in answers {
            let answer = match (&durable, decision) {
                (Ok(()), decision) => decision,
                (Err(error), Ok(_)) => Err(error.again()),
                (Err(_), Err(refusal)) => Err(refusal),
            };
            if reply.send(answer).is_err() {
                tracing::debug!("a client went away before its commit was answered");
            }
        }
    }

    fn write(&mut self, draft: Draft) -> Result<()> {
        if draft.records.is_empty() {
            return Ok(());
        }
        let written = self.append(draft);
        if written.is_err() {
            self.stream = None; // cut back, or out of use
        }
        written
    }

    fn append(&mut self, draft: Draft) -> Result<()> {
        let Draft {
            records, mut batch, ..
        } = draft;
        if self.stream.as_ref().is_none_or(Stream::is_full) {
            self.stream = None;
            self.stream = Some(self.shared.pool.borrow()?);
        }
        let stream = self
            .stream
            .as_mut()
            .expect("invariant: one was just borrowed");
        for record in records {
            let (offset, _) = stream.state(record.kind, true, &record.payload)?;
            if let Some(key) = record.located {
                let mut location = Vec::new();
                put(&mut location, stream.id().0.into());
                put(&mut location, offset);
                batch.put(Table::Documents, key, location);
            }
        }
        tracing::debug!(phase = "fsync", "making a group of changes durable");
        stream.sync()?;
        stream.committed();
        self.shared
            .index_committed(batch, std::slice::from_ref(stream))
    }
}

struct Record {
    kind: Kind,
    payload: Vec<u8>,
    /// The key of the document whose location this record is.
    located: Option<Vec<u8>>,
}

/// The changes of one group: each sees those before it.
struct Draft {
    shared: Arc<Shared>,
    records: Vec<Record>,
    batch: Batch,
    paths: HashMap<Vec<u8>, Bytes>,
    documents: HashMap<Vec<u8>, Bytes>,
}

impl Draft {
    fn new(shared: Arc<Shared>) -> Draft {
        let (paths, documents) = (HashMap::new(), HashMap::new());
        Draft {
            shared,
            records: Vec::new(),
            batch: Batch::default(),
            paths,
            documents,
        }
    }

    fn decide(&mut self, change: Change) -> Result<Outcome> {
        match change {
            Change::Publish {
                cache,
                info,
                subject,
            } => self.publish(cache, info, subject).map(Outcome::Published),
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
        }
    }

    fn record(&mut self, kind: Kind, payload: Vec<u8>) {
        self.records.push(Record {
            kind,
            payload,
            located: None,
        });
    }

    fn path(&self, key: &[u8]) -> Result<Option<Bytes>> {
        match self.paths.get(key) {
            Some(text) => Ok(Some(text.clone())),
            None => self.shared.index.get(Table::Paths, key),
        }
    }

    fn publish(&mut self, cache: CacheName, info: PathInfo, subject: String) -> Result<Published> {
        let key = cache.path_key(&info.store_path.hash());
        if let Some(text) = self.path(&key)? {
            return self.offered_again(cache, path_info(&text)?, &info, subject);
        }
        let nar = info.nar_hash;
        let layout = self.shared.index.get(Table::Layouts, nar.as_bytes())?;
        if layout.is_none() || self.shared.quarantine.is_sick(&nar) {
            let path = &info.store_path;
            return Err(Error::refused(format!(
                "{path}: its NAR {nar} is not here; upload it first"
            )));
        }
        self.check_references(&cache, &info)?;
        let narinfo = info.to_record();
        let time = (self.shared.clock)();
        self.batch.put(Table::Visible, cache.nar_key(&nar), []);
        self.batch.put(Table::Paths, key.clone(), narinfo.clone());
        self.paths.insert(key, narinfo.clone().into());
        self.record(
            Kind::Path,
            to_json(&PathState {
                cache,
                subject,
                time,
                narinfo,
            }),
        );
        Ok(Published::New)
    }

    /// Whether a path that the index has is not served.
    fn is_sick(&self, text: &[u8]) -> bool {
        let quarantine = &self.shared.quarantine;
        quarantine.any() && path_info(text).map_or(true, |info| quarantine.is_sick(&info.nar_hash))
    }

    /// A path becomes visible only when all that it refers to is.
    fn check_references(&self, cache: &CacheName, info: &PathInfo) -> Result<()> {
        let others = info
            .references
            .iter()
            .filter(|path| **path != info.store_path);
        let others: Vec<(&StorePath, Vec<u8>)> = others
            .map(|path| (path, cache.path_key(&path.hash())))
            .collect();
        let unknown = others
            .iter()
            .filter(|(_, key)| !self.paths.contains_key(key));
        let unknown: Vec<_> = unknown.collect();
        let keys: Vec<&[u8]> = unknown.iter().map(|(_, key)| key.as_slice()).collect();
        let found = self.shared.index.get_many(Table::Paths, &keys)?;
        let missing = unknown
            .iter()
            .zip(found)
            .filter(|(_, found)| found.as_ref().is_none_or(|text| self.is_sick(text)));
        let missing: Vec<String> = missing.map(|((path, _), _)| path.to_string()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let named = missing
            .iter()
            .take(NAMED_IN_ERRORS)
            .cloned()
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
        mut have: PathInfo,
        offer: &PathInfo,
        subject: String,
    ) -> Result<Published> {
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
            self.record(Kind::Conflict, to_json(&conflict));
            return Ok(Published::Conflict { winner });
        }
        let before = have.signatures.len();
        for signature in &offer.signatures {
            if have.signatures.len() < MAX_SIGNATURES && !have.signatures.contains(signature) {
                have.signatures.push(signature.clone());
            }
        }
        if have.signatures.len() > before {
            let store_hash = have.store_path.hash();
            let signatures = have.signatures.iter().map(|one| one.to_string()).collect();
            let (key, text) = (cache.path_key(&store_hash), have.to_record());
            self.batch.put(Table::Paths, key.clone(), text.clone());
            self.paths.insert(key, text.into());
            let state = SignaturesState {
                cache,
                store_hash,
                subject,
                signatures,
            };
            self.record(Kind::Signatures, to_json(&state));
        }
        Ok(Published::Known)
    }

    fn document(&mut self, head: &DocumentState, body: Bytes) -> Result<Stored> {
        let key = document_key(&head.cache, head.kind, &head.key);
        let have = match self.documents.get(&key) {
            Some(body) => Some(body.clone()),
            None => {
                let location = self.shared.index.get(Table::Documents, &key)?;
                location
                    .map(|at| read_document(&self.shared, &at))
                    .transpose()?
            }
        };
        match have {
            Some(have) if have == body => return Ok(Stored::Same),
            Some(_) if head.kind != Document::Log => {
                let (kind, key, subject) = (head.kind, &head.key, &head.subject);
                tracing::warn!(?kind, key, subject, "another document was offered");
                return Ok(Stored::Conflict);
            }
            _ => {}
        }
        let payload = document_payload(head, &body)?;
        self.documents.insert(key.clone(), body);
        self.records.push(Record {
            kind: Kind::Document,
            payload,
            located: Some(key),
        });
        Ok(Stored::New)
    }
}
