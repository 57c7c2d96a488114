//! The queue: pushes what waits in the spool, for as long as it takes.
//!
//! ```text
//!   spool --the oldest--> batch --> closure --> what is missing --> push --> let go of
//!                           |          |               \-- the cache does not take it: wait, again
//!                           |          \-- a path fails: wait, again, at last given up with why
//!                           \-- Nix has it no more: given up at once
//! ```
//! Guarantees: an entry leaves the spool only when the cache has all of its closure, or with a
//! reason that `queue status` shows. One batch at a time, so nothing that two closures share is
//! sent twice; its parallelism is that of the push. A cache that is away, or a token that is not
//! good, costs nothing but time: no path is given up for it. A path that fails holds up no other.
//! Never: anything that must survive kept in memory only; a killed queue is one that had not begun.

pub mod notify;
pub mod report;

use crate::failure::Failure;
use crate::push::{self, Fate, LocalPath, Options, Plan, Pushed};
use crate::remote::{Remote, RemoteError, wait_after};
use crate::spool::{Entry, Failed, Spool, SpoolError, roots};
use futures::future::BoxFuture;
use report::{Report, now_s};
use snowcache_core::error::Error;
use snowcache_nix::{StoreHash, StorePath};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Roots pushed together: so many share a walk over the store and one question to the cache, and
/// what is published of them is published within minutes.
const BATCH: usize = 200;

/// How often the spool is looked at while there is nothing to do: reading an empty folder takes
/// some 10 us.
pub const POLL: Duration = Duration::from_millis(200);

/// Attempts for a path that fails while others do not. The waits between them last some 20 s on
/// average; whatever takes longer wants a person, and `queue retry`.
const MAX_ATTEMPTS: u32 = 6;

/// The first wait is up to a second, as after a third attempt of a request.
const FIRST_WAIT: u32 = 2;

/// How the queue reaches its cache: anew for each batch, so that a token that was renewed is taken.
pub type Connect = Box<dyn Fn() -> BoxFuture<'static, Result<Remote, Failure>> + Send + Sync>;

/// Why a batch has to wait.
#[derive(Debug)]
enum Trouble {
    /// The cache, the store, or the way to them.
    Passing(String),
    /// The cache takes something of it not: one of its paths, if there are several.
    Refused(String),
}

/// What a round of work came to.
#[derive(Debug, PartialEq, Eq)]
enum Round {
    /// There is nothing that could be tried now.
    Idle,
    /// Something was.
    Went,
    /// Nothing can be done for so long.
    Wait(Duration),
}

/// What is remembered of an entry while the queue lives.
struct Tries {
    entry: Entry,
    attempts: u32,
    not_before: Instant,
}

/// See the module.
pub struct Queue {
    spool: Spool,
    connect: Connect,
    options: Options,
    tries: BTreeMap<StorePath, Tries>,
    /// How many are tried together: fewer while one of them spoils it for the others.
    batch: usize,
    /// Rounds in a row that came to nothing.
    failures: u32,
    /// What is told of it.
    pub report: Report,
}

impl Queue {
    /// Of this spool. Whoever makes one holds its [`crate::spool::Reign`].
    pub fn new(spool: Spool, connect: Connect, options: Options, report: Report) -> Queue {
        Queue {
            spool,
            connect,
            options,
            tries: BTreeMap::new(),
            batch: BATCH,
            failures: 0,
            report,
        }
    }

    /// Pushes what comes, until `over` finds that it is enough; it is asked between batches.
    ///
    /// # Errors
    /// When the spool cannot be read or written.
    pub async fn work(
        &mut self,
        over: impl Fn(&Spool) -> Result<bool, SpoolError>,
    ) -> Result<(), SpoolError> {
        while !over(&self.spool)? {
            let poked = self.spool.poked();
            let wait = match self.round().await? {
                Round::Idle => POLL,
                Round::Went => Duration::ZERO,
                Round::Wait(wait) => wait,
            };
            self.report.save(&self.spool)?;
            let begin = Instant::now();
            while begin.elapsed() < wait && self.spool.poked() == poked {
                sleep(POLL.min(wait)).await;
            }
            if self.spool.poked() != poked {
                self.failures = 0;
                self.tries.clear();
            }
        }
        Ok(())
    }

    async fn round(&mut self) -> Result<Round, SpoolError> {
        self.look().await?;
        let now = Instant::now();
        let ready = self.tries.values().filter(|it| it.not_before <= now);
        let mut batch: Vec<Entry> = ready.map(|it| it.entry.clone()).collect();
        batch.sort_by_key(Entry::age);
        batch.truncate(self.batch);
        if batch.is_empty() {
            self.report.rests();
            return Ok(Round::Idle);
        }
        match self.push(batch.clone()).await? {
            Ok(()) => {
                self.failures = 0;
                self.batch = (self.batch * 2).min(BATCH);
                Ok(Round::Went)
            }
            Err(Trouble::Refused(_)) if batch.len() > 1 => {
                self.batch = batch.len() / 2;
                Ok(Round::Went)
            }
            Err(Trouble::Refused(why)) => {
                self.report.failed(&why);
                self.batch = (self.batch * 2).min(BATCH);
                for entry in &batch {
                    self.tried(entry, &why)?;
                }
                Ok(Round::Went)
            }
            Err(Trouble::Passing(why)) => {
                self.failures += 1;
                let wait = wait_after(self.failures + FIRST_WAIT);
                self.report.waits(&why, wait);
                Ok(Round::Wait(wait))
            }
        }
    }

    /// Takes up what has been queued since, and makes sure that Nix keeps it.
    async fn look(&mut self) -> Result<(), SpoolError> {
        let waiting = self.spool.waiting()?;
        let mut links: Vec<PathBuf> = Vec::new();
        let mut tries = BTreeMap::new();
        for entry in waiting {
            let known = self.tries.remove(&entry.path);
            let known = known.filter(|known| known.entry == entry);
            let known = known.unwrap_or_else(|| {
                links.push(self.spool.link_of(&entry.path));
                Tries {
                    entry: entry.clone(),
                    attempts: 0,
                    not_before: Instant::now(),
                }
            });
            tries.insert(entry.path, known);
        }
        self.tries = tries;
        let unrooted = roots::hold_directly(&links);
        if let Err(why) = roots::hold_by_daemon(&unrooted).await {
            self.report
                .failed(&format!("what is queued may be collected: {why}"));
        }
        Ok(())
    }

    /// Pushes a batch, and sees to what became of each of its paths.
    async fn push(&mut self, batch: Vec<Entry>) -> Result<Result<(), Trouble>, SpoolError> {
        let roots: Vec<StorePath> = batch.iter().map(|entry| entry.path.clone()).collect();
        let invalid = blocking(move || push::invalid(&roots)).await;
        let invalid = match invalid {
            Ok(invalid) => invalid,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let (gone, batch): (Vec<Entry>, Vec<Entry>) =
            batch.into_iter().partition(|it| invalid.contains(&it.path));
        for entry in &gone {
            let why = "it is not in the store any more: Nix collected it, or somebody deleted it, \
                       before it was pushed; build it again";
            self.give_up(entry, why, false)?;
        }
        if batch.is_empty() {
            return Ok(Ok(()));
        }
        let failures = match self.send(&batch).await {
            Ok(failures) => failures,
            Err(trouble) => return Ok(Err(trouble)),
        };
        let fails = |entry: &Entry| failures.of(&entry.path);
        let arrived = batch.iter().filter(|entry| fails(entry).is_none());
        let arrived: Vec<Entry> = arrived.cloned().collect();
        self.spool.done(&arrived)?;
        self.report.arrived(arrived.len());
        for entry in &arrived {
            self.tries.remove(&entry.path);
        }
        for entry in &batch {
            if let Some(why) = fails(entry) {
                self.tried(entry, &why)?;
            }
        }
        Ok(Ok(()))
    }

    /// Sends what the cache lacks of these closures: the paths that it could not get, with why.
    async fn send(&mut self, batch: &[Entry]) -> Result<Failures, Trouble> {
        let roots: Vec<String> = batch.iter().map(|entry| entry.path.absolute()).collect();
        let paths = blocking(move || push::closure(&roots)).await?;
        let remote = (self.connect)().await.map_err(|failure| {
            Trouble::Passing(failure.sentence().unwrap_or_default().to_owned())
        })?;
        let plan = Plan::make(&remote, paths, self.options).await;
        let plan = plan.map_err(|error: Error| Trouble::Passing(error.to_string()))?;
        let mut failures = Failures::default();
        if plan.missing.is_empty() {
            return Ok(failures);
        }
        let counts = Arc::new(Pushed::default());
        self.report.begins(batch.len(), &plan, &counts);
        let report = &mut self.report;
        let (mut pushed, mut conflicts) = (0, 0);
        let mut heard = |path: &LocalPath, fate: &Fate| match fate {
            Fate::Pushed => pushed += 1,
            Fate::Conflict(_) => conflicts += 1,
            Fate::Failed(why) => failures.add(path, why),
        };
        let work = push::push(&remote, plan, self.options, counts.clone(), &mut heard);
        let result = report.over(&self.spool, work).await;
        report.ends(pushed, conflicts, &counts);
        result.map_err(trouble)?;
        Ok(failures)
    }

    /// A path failed, and others did not.
    fn tried(&mut self, entry: &Entry, why: &str) -> Result<(), SpoolError> {
        let Some(tries) = self.tries.get_mut(&entry.path) else {
            return Ok(());
        };
        tries.attempts += 1;
        if tries.attempts >= MAX_ATTEMPTS {
            return self.give_up(entry, why, true);
        }
        tries.not_before = Instant::now() + wait_after(tries.attempts + FIRST_WAIT);
        self.report.failed(&format!("{}: {why}", entry.path));
        Ok(())
    }

    fn give_up(&mut self, entry: &Entry, why: &str, held: bool) -> Result<(), SpoolError> {
        let tries = self.tries.remove(&entry.path);
        let failed = Failed {
            path: entry.path.to_string(),
            why: why.to_owned(),
            since_s: now_s(),
            attempts: tries.map_or(0, |it| it.attempts),
            held,
        };
        self.report.gave_up(&format!("{}: {why}", entry.path));
        self.spool.give_up(entry, &failed)
    }
}

/// Paths that could not be pushed, each with the path that it failed for, which may be another
/// one that it needs, and with what is wrong with that.
#[derive(Default)]
struct Failures {
    causes: HashMap<StoreHash, (StorePath, String)>,
}

impl Failures {
    /// Told references first, so the cause is known when what it stops is told.
    fn add(&mut self, path: &LocalPath, why: &str) {
        let path = &path.info;
        let others = path.references.iter().filter(|it| **it != path.store_path);
        let cause = others.filter_map(|it| self.causes.get(&it.hash())).next();
        let cause = cause.cloned();
        let cause = cause.unwrap_or_else(|| (path.store_path.clone(), why.to_owned()));
        self.causes.insert(path.store_path.hash(), cause);
    }

    fn of(&self, path: &StorePath) -> Option<String> {
        let (cause, why) = self.causes.get(&path.hash())?;
        Some(match cause == path {
            true => why.clone(),
            false => format!("it needs {cause}: {why}"),
        })
    }
}

/// What to do about an error of the whole push.
fn trouble(error: RemoteError) -> Trouble {
    let of_a_path = matches!(
        &error,
        RemoteError::Status { status, .. } if [400, 413, 422].contains(&status.as_u16())
    );
    let why = crate::command::denied(error, "push.token");
    let why = why.sentence().unwrap_or_default().to_owned();
    match of_a_path {
        true => Trouble::Refused(why),
        false => Trouble::Passing(why),
    }
}

/// Asks nix something.
async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, push::StoreError> + Send + 'static,
) -> Result<T, Trouble> {
    match tokio::task::spawn_blocking(ask).await {
        Ok(answer) => answer.map_err(|error| Trouble::Passing(error.to_string())),
        Err(error) => Err(Trouble::Passing(error.to_string())),
    }
}

#[cfg(test)]
mod tests;
