//! What the agent has been asked for: a list that outlives it.
//!
//! ```text
//!   FOLDER/<number>.json    one job; written before whoever asked is answered, and when it ends
//! ```
//! ```text
//!   asked --> waiting --attempt--> ready
//!              ^  |  \--- its time is over, or nothing would change ---> given up
//!              '--'  failed: a longer wait each time
//! ```
//! Guarantees: a job that was taken is there after any end of the process, and was neither changed
//! nor forgotten by it. The same closure under the same pin is one job. Bounded: [`MAX_WAITING`]
//! that wait, and the last [`MAX_ENDED`] that have ended.
//! Never: how far a job is; what is valid in the store says that.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Jobs that wait: a closure takes minutes, so these are a day of work.
pub const MAX_WAITING: usize = 256;
/// Of those that have ended, so many can be asked for still.
pub const MAX_ENDED: usize = 100;

/// What somebody wants.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// Store paths or hash parts.
    pub roots: Vec<String>,
    /// The node's pin that keeps them.
    pub pin: String,
    /// The higher, the sooner.
    #[serde(default)]
    pub priority: i32,
    /// Seconds until which it must be there.
    #[serde(default)]
    pub deadline_in_s: Option<u64>,
    /// Other caches than the agent's own.
    #[serde(default)]
    pub from: Vec<String>,
}

/// How it stands.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is to be done, or is being done.
    Waiting,
    /// The closure is here, verified and pinned.
    Ready,
    /// It is not tried any more.
    GivenUp,
}

/// One job.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Job {
    /// Its number; later ones have higher ones.
    pub id: u64,
    /// Store paths or hash parts.
    pub roots: Vec<String>,
    /// The node's pin that keeps them.
    pub pin: String,
    /// The higher, the sooner.
    pub priority: i32,
    /// Until when it must be there, in seconds since 1970.
    pub deadline_s: Option<u64>,
    /// Other caches than the agent's own.
    pub from: Vec<String>,
    /// The cache's pin that pointed here, if that is why.
    pub followed: Option<String>,
    /// When it was asked for, in seconds since 1970.
    pub asked_s: u64,
    /// How it stands.
    pub state: State,
    /// When that was said, in seconds since 1970.
    pub since_s: u64,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// Why it is not ready.
    pub why: Option<String>,
    /// What was done when it became ready.
    #[serde(default)]
    pub done: Option<Done>,
    /// Not tried before: forgotten when the agent ends.
    #[serde(skip)]
    pub not_before: Option<Instant>,
    /// Something of it was in none of its caches, once.
    #[serde(skip)]
    pub was_absent: bool,
    /// A root has come since it was begun last: it does not wait.
    #[serde(skip)]
    pub came: bool,
}

/// What it took.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Done {
    /// Paths of the closure.
    pub paths: usize,
    /// Of these fetched.
    pub fetched: usize,
    /// Of these made of older paths.
    pub made: usize,
    /// NAR bytes of what was fetched.
    pub nar_size_bytes: u64,
    /// For the attempt that went well.
    pub seconds: f64,
}

/// The list could not be worked with.
#[derive(Debug, Error)]
pub enum JobsError {
    /// The folder, or a file in it.
    #[error("{}: {source}; `state` of agent.toml names another folder", .path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room for more.
    #[error(
        "{MAX_WAITING} jobs wait already; `snowcache status` shows them, `snowcache agent cancel \
         ROOT` takes one away"
    )]
    TooMany,
}

/// See the module.
pub struct Jobs {
    folder: PathBuf,
    jobs: BTreeMap<u64, Job>,
}

impl Job {
    /// Whether it is about this root: a store path, a base name or a hash part.
    pub fn has_root(&self, hash: &str) -> bool {
        self.roots.iter().any(|root| hash_of(root) == hash)
    }

    /// When it is over, for one that fails in this way.
    pub fn ends_s(&self, passing: bool, patience_s: u64) -> Option<u64> {
        match (&self.followed, self.deadline_s) {
            (Some(_), _) => None,
            (None, Some(deadline_s)) => Some(deadline_s),
            (None, None) if passing => Some(self.asked_s.saturating_add(patience_s)),
            (None, None) => Some(0),
        }
    }

    fn ready_to_go(&self, now: Instant) -> bool {
        let waits = self.not_before.filter(|it| !self.came && *it > now);
        self.state == State::Waiting && waits.is_none()
    }

    /// Those that go first sort first.
    fn turn(&self) -> impl Ord + use<> {
        let deadline_s = self.deadline_s.unwrap_or(u64::MAX);
        (std::cmp::Reverse(self.priority), deadline_s, self.id)
    }
}

/// The hash part of `/nix/store/HASH-NAME`, `HASH-NAME` or `HASH`.
pub fn hash_of(root: &str) -> &str {
    let base = root
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(root);
    base.split('-').next().unwrap_or(base)
}

impl Jobs {
    /// The list in this folder. A file that is no job is told of and left alone.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn open(folder: PathBuf) -> Result<Jobs, JobsError> {
        fs::create_dir_all(&folder).map_err(at(&folder))?;
        let mut jobs = BTreeMap::new();
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let path = entry.map_err(at(&folder))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some(id) = name.strip_suffix(".json").and_then(|id| id.parse().ok()) else {
                continue; // a draft that was not finished
            };
            let text = fs::read(&path).map_err(at(&path))?;
            match serde_json::from_slice::<Job>(&text) {
                Ok(job) if job.id == id => drop(jobs.insert(id, job)),
                Ok(_) => eprintln!("snowcache: {}: it is about another job", path.display()),
                Err(error) => eprintln!("snowcache: {}: {error}", path.display()),
            }
        }
        Ok(Jobs { folder, jobs })
    }

    /// All of them, the oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Job> {
        self.jobs.values()
    }

    /// One of them.
    pub fn get(&self, id: u64) -> Option<&Job> {
        self.jobs.get(&id)
    }

    /// The last one about this root, if there is one.
    pub fn about(&self, hash: &str) -> Option<&Job> {
        self.jobs.values().rev().find(|job| job.has_root(hash))
    }

    /// Takes a wish: its job, which may be there already. On the disk when this returns.
    ///
    /// # Errors
    /// When there are too many, or it cannot be written.
    pub fn add(
        &mut self,
        wish: Wish,
        followed: Option<&str>,
        now_s: u64,
    ) -> Result<u64, JobsError> {
        let deadline_s = wish
            .deadline_in_s
            .map(|span_s| now_s.saturating_add(span_s));
        let waits = |job: &&Job| job.state == State::Waiting;
        let same = |job: &&Job| {
            let roots = |roots: &[String]| -> Vec<String> {
                roots.iter().map(|it| hash_of(it).to_owned()).collect()
            };
            job.pin == wish.pin && roots(&job.roots) == roots(&wish.roots) && job.from == wish.from
        };
        let known = self.jobs.values().filter(waits).find(same).cloned();
        let job = match known {
            Some(known) => Job {
                priority: known.priority.max(wish.priority),
                deadline_s,
                followed: followed.map(str::to_owned).or(known.followed),
                asked_s: now_s,
                not_before: None,
                ..known
            },
            None if self.jobs.values().filter(waits).count() >= MAX_WAITING => {
                return Err(JobsError::TooMany);
            }
            None => Job {
                id: self.jobs.keys().next_back().map_or(1, |last| last + 1),
                roots: wish.roots,
                pin: wish.pin,
                priority: wish.priority,
                deadline_s,
                from: wish.from,
                followed: followed.map(str::to_owned),
                asked_s: now_s,
                state: State::Waiting,
                since_s: now_s,
                attempts: 0,
                why: None,
                done: None,
                not_before: None,
                was_absent: false,
                came: false,
            },
        };
        let id = job.id;
        self.put(job)?;
        Ok(id)
    }

    /// Changes one of them, if it is there. On the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; it is changed in memory all the same.
    pub fn change(&mut self, id: u64, how: impl FnOnce(&mut Job)) -> Result<(), JobsError> {
        let Some(mut job) = self.jobs.get(&id).cloned() else {
            return Ok(());
        };
        how(&mut job);
        self.put(job)?;
        self.forget_old()
    }

    /// Takes one of them away.
    ///
    /// # Errors
    /// When its file cannot be removed.
    pub fn remove(&mut self, id: u64) -> Result<bool, JobsError> {
        let known = self.jobs.remove(&id).is_some();
        let file = self.file(id);
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&file)(error)),
            _ => Ok(known),
        }
    }

    /// What is to be done now: the highest priority, then the earliest deadline, then the oldest.
    pub fn next(&self, now: Instant) -> Option<&Job> {
        let ready = self.jobs.values().filter(|job| job.ready_to_go(now));
        ready.min_by_key(|job| job.turn())
    }

    /// Whether something with a higher priority than this one could be done now.
    pub fn is_overtaken(&self, id: u64, now: Instant) -> bool {
        match (self.jobs.get(&id), self.next(now)) {
            (Some(job), Some(next)) => next.priority > job.priority,
            (None, _) => true,
            (Some(_), None) => false,
        }
    }

    /// How long until something waits no more; nothing if nothing waits.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let waiting = self.jobs.values().filter(|job| job.state == State::Waiting);
        let times = waiting.map(|job| job.not_before.filter(|_| !job.came).unwrap_or(now));
        times.min().map(|time| time.saturating_duration_since(now))
    }

    /// These that were absent are to be tried now.
    pub fn came(&mut self, which: impl Fn(&Job) -> bool) {
        let waiting = self.jobs.values_mut();
        let absent = waiting.filter(|job| job.state == State::Waiting && job.was_absent);
        absent
            .filter(|job| which(job))
            .for_each(|job| job.came = true);
    }

    /// One of them is tried now.
    pub fn begun(&mut self, id: u64) {
        if let Some(job) = self.jobs.get_mut(&id) {
            job.came = false;
        }
    }

    fn forget_old(&mut self) -> Result<(), JobsError> {
        let ended = self.jobs.values().filter(|it| it.state != State::Waiting);
        let ended: Vec<u64> = ended.map(|job| job.id).collect();
        let too_many = ended.len().saturating_sub(MAX_ENDED);
        for id in ended.into_iter().take(too_many) {
            self.remove(id)?;
        }
        Ok(())
    }

    fn put(&mut self, job: Job) -> Result<(), JobsError> {
        let (file, text) = (self.file(job.id), serde_json::to_vec(&job));
        let draft = self.folder.join(format!(".{}", job.id));
        self.jobs.insert(job.id, job);
        let text = text.map_err(io::Error::from).map_err(at(&file))?;
        write(&draft, &text).map_err(at(&draft))?;
        fs::rename(&draft, &file).map_err(at(&file))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(at(&self.folder))
    }

    fn file(&self, id: u64) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }
}

fn write(file: &Path, text: &[u8]) -> io::Result<()> {
    use std::io::Write;
    let mut file = File::create(file)?;
    file.write_all(text)?;
    file.sync_all()
}

fn at(path: &Path) -> impl Fn(io::Error) -> JobsError {
    move |source| JobsError::Folder {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests;
