//! The committer: one thread that decides, in one order for everybody, what becomes visible.
//!
//! ```text
//!   publish() --+
//!   set_pin() --+--> queue --> [decide, append]* --> fsync --> index --> answer all
//!   document()--+              up to MAX_GROUP at a time: one fsync for all of them;
//!   remove() ---'              a pause before, where the index is behind
//!                              (removals: in a group of their own)
//! ```
//!
//! Guarantees: nothing is answered before it is durable; of two offers for one path the first
//! stays; a path becomes visible only when its NAR and all its references are, but for what
//! an upstream vouches for, and goes only when nothing visible refers to it; after a failed write
//! the segment is given up and the whole group is told.

mod again;
mod draft;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use snowcache_core::upstream::Vouched;
use snowcache_nix::PathInfo;

use self::draft::Draft;
use crate::depot::{Published, Shared, Stored};
use crate::gc::Removals;
use crate::keys::CacheName;
use crate::pins::{Pin, PinName};
use crate::pool::Stream;
use crate::quarantine::Harmed;
use crate::state::Document;
use crate::{Error, Result};

/// The most changes that share one fsync.
pub const MAX_GROUP: usize = 256;

/// What can be asked of the committer.
pub enum Change {
    /// Make a path visible.
    Publish {
        cache: CacheName,
        info: PathInfo,
        subject: String,
        /// Which references need not be here.
        vouched: Arc<Vouched>,
    },
    /// Store a document.
    Document {
        cache: CacheName,
        kind: Document,
        key: String,
        body: Bytes,
        subject: String,
    },
    /// Change a pin; `edit` is given the pin as it is.
    Pin {
        cache: CacheName,
        name: PinName,
        edit: PinEdit,
    },
    /// Make paths invisible.
    Remove(Arc<Removals>),
    /// Write damaged records again, as far as the index knows what they said.
    Again(Vec<Harmed>),
    /// Let go of the segment that is being written to, so that it can be rewritten.
    Rest,
}

/// What becomes of a pin: None removes it.
pub type PinEdit = Box<dyn FnOnce(Option<Pin>) -> Result<Option<Pin>> + Send>;

/// What a change came to.
#[derive(Debug)]
pub enum Outcome {
    /// Of a publication.
    Published(Published),
    /// Of a document.
    Stored(Stored),
    /// Of a pin: as it is now, if it is.
    Pin(Option<Pin>),
    /// Of removals: the keys of the paths that are gone.
    Removed(Vec<Vec<u8>>),
    /// Of writing records again: how many.
    Again(u64),
    /// Of resting.
    Rested,
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
        let answer = self.ask(change)?;
        answer.recv().map_err(|_| Error::closed())?
    }

    /// Carries changes out in this order, as many as can be with one fsync.
    pub fn commit_all(&self, changes: impl Iterator<Item = Change>) -> Vec<Result<Outcome>> {
        let asked: Vec<_> = changes.map(|change| self.ask(change)).collect();
        let answered = asked.into_iter().map(|answer| {
            let answer = answer?.recv();
            answer.map_err(|_| Error::closed())?
        });
        answered.collect()
    }

    fn ask(&self, change: Change) -> Result<Receiver<Result<Outcome>>> {
        let (reply, answer) = sync_channel(1);
        let queue = self.queue.as_ref().ok_or_else(Error::closed)?;
        queue
            .send(Request { change, reply })
            .map_err(|_| Error::closed())?;
        Ok(answer)
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

fn refuse(group: Vec<Request>, error: &Error) {
    for Request { reply, .. } in group {
        tell(&reply, Err(error.again()));
    }
}

fn tell(reply: &SyncSender<Result<Outcome>>, answer: Result<Outcome>) {
    if reply.send(answer).is_err() {
        tracing::debug!("a client went away before its commit was answered");
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
            while !group.is_empty() {
                let alone =
                    |request: &Request| matches!(request.change, Change::Remove(_) | Change::Rest);
                let at = group.iter().position(alone).unwrap_or(group.len());
                let rest = group.split_off(at.max(1));
                self.carry_out(std::mem::replace(&mut group, rest));
            }
        }
    }

    fn carry_out(&mut self, group: Vec<Request>) {
        let shared = self.shared.clone();
        // Before the gate: nobody else waits for it. An index that cannot tell is told of below.
        std::thread::sleep(shared.index.pause().unwrap_or_default());
        let _gate = match shared.commits() {
            Ok(gate) => gate,
            Err(error) => return refuse(group, &error),
        };
        let mut draft = Draft::new(shared.clone());
        let mut answers = Vec::with_capacity(group.len());
        for Request { change, reply } in group {
            if matches!(change, Change::Rest) {
                self.stream = None;
            }
            answers.push((reply, draft.decide(change)));
        }
        let removes = draft.removes();
        let steps = draft.take_steps();
        let durable = self.write(draft);
        if durable.is_ok() {
            shared.tallies.made(&steps);
        }
        if removes {
            shared.uses.left();
        }
        for (reply, decision) in answers {
            let outcome = match (&durable, decision) {
                (Ok(()), decision) => decision,
                (Err(error), Ok(_)) => Err(error.again()),
                (Err(_), Err(refusal)) => Err(refusal),
            };
            tell(&reply, outcome);
        }
    }

    fn write(&mut self, draft: Draft) -> Result<()> {
        if draft.is_empty() {
            return Ok(());
        }
        let written = self.append(draft);
        if written.is_err() {
            self.stream = None; // cut back, or out of use
        }
        written
    }

    fn append(&mut self, draft: Draft) -> Result<()> {
        if self.stream.as_ref().is_none_or(Stream::is_full) {
            self.stream = None;
            self.stream = Some(self.shared.pool.borrow()?);
        }
        let stream = self
            .stream
            .as_mut()
            .expect("invariant: one was just borrowed");
        let (batch, nars) = draft.append(stream)?;
        for nar in &nars {
            self.shared.uses.nar(*nar);
        }
        tracing::debug!(phase = "fsync", "making a group of changes durable");
        stream.sync()?;
        stream.committed();
        let committed = std::slice::from_ref(stream);
        self.shared.index_committed(batch, committed)?;
        for nar in &nars {
            self.shared.leases.release(nar);
        }
        Ok(())
    }
}
