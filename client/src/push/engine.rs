//! A push as a whole: what is missing, lanes that send it, and the paths published at the end.
//!
//! Guarantees: NARs travel in any order, the largest first, so that no core waits for one at the
//! end; paths are published references first. A path that cannot be packed fails with those that
//! refer to it, the others arrive. Never: more than [`Options::lanes`] windows in memory.

use super::lane::Lane;
use super::order::references_first;
use super::store::LocalPath;
use super::vouchers::Vouchers;
use crate::remote::{Remote, RemoteError, Waits, wait_after};
use snowcache_core::cache::Cache;
use snowcache_core::error::Error;
use snowcache_core::upstream::signed_by;
use snowcache_nix::{NarHash, StoreHash};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::runtime::Handle;

/// Paths published at once, at most: four turns of the server's committer.
const PATHS_PER_COMMIT: usize = 1_000;
/// Bytes of narinfos published at once.
const BYTES_PER_COMMIT: usize = 4 << 20;

/// Attempts for one NAR or request: the waits between them, with jitter, last some 8 s of 16 at
/// most, as a server's restart may.
pub(super) const MAX_ATTEMPTS: u32 = 7;

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// NARs packed at once; each lane holds some 25 MiB.
    pub lanes: usize,
    /// The zstd level.
    pub level: i32,
    /// Whether what upstreams of the cache signed is pushed, too.
    pub whole: bool,
}

impl Default for Options {
    /// Two lanes more than cores, so that one that waits for the server keeps no core idle; at most
    /// sixteen, which is 400 MiB. The level is that of the server.
    fn default() -> Options {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        Options {
            lanes: (cores + 2).min(16),
            level: 3,
            whole: false,
        }
    }
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// What the cache does not have, references first.
    pub missing: Vec<LocalPath>,
    /// What it does not have and need not, each with the name of the upstream's key.
    pub upstream: Vec<(LocalPath, String)>,
    /// What it has.
    pub there: Vec<LocalPath>,
}

impl Plan {
    /// Asks the cache what it lacks of `paths`, and which upstreams it knows.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn make(
        remote: &Remote,
        paths: Vec<LocalPath>,
        options: Options,
    ) -> Result<Plan, Error> {
        let hashes: Vec<StoreHash> = paths.iter().map(|it| it.info.store_path.hash()).collect();
        let missing: HashSet<StoreHash> = remote.missing(&hashes).await?.into_iter().collect();
        let lacks = |path: &LocalPath| missing.contains(&path.info.store_path.hash());
        let (missing, there): (Vec<_>, Vec<_>) = paths.into_iter().partition(lacks);
        let signed = |path: &LocalPath| !path.info.signatures.is_empty();
        let keys = match !options.whole && missing.iter().any(signed) {
            true => remote.upstreams().await?,
            false => Vec::new(),
        };
        let (mut pushed, mut upstream) = (Vec::new(), Vec::new());
        for path in missing {
            match signed_by(&path.info, &keys) {
                Some(key) => upstream.push((path, key.name().to_owned())),
                None => pushed.push(path),
            }
        }
        Ok(Plan {
            missing: references_first(pushed),
            upstream,
            there,
        })
    }

    /// NAR bytes of what is missing.
    pub fn nar_size_bytes(&self) -> u64 {
        self.missing.iter().map(|path| path.info.nar_size).sum()
    }
}

/// What became of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is published.
    Pushed,
    /// The cache has it with other bytes.
    Conflict(String),
    /// Why not.
    Failed(String),
}

/// What was done; also while it is done.
#[derive(Debug, Default)]
pub struct Pushed {
    /// NAR bytes read and cut, or found to be held.
    pub packed_bytes: AtomicU64,
    /// Bytes sent.
    pub sent_bytes: AtomicU64,
    /// Frames sent.
    pub sent_frames: AtomicU64,
    /// Frames that the cache had.
    pub known_frames: AtomicU64,
    /// NARs that the cache holds now.
    pub held_nars: AtomicU64,
}

/// Who is told what became of each path.
pub type Heard<'a> = &'a mut dyn FnMut(&LocalPath, &Fate);

/// A NAR that is to be sent, and how often that was tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub at: usize,
    pub attempt: u32,
}

/// What lanes share.
pub(super) struct Work {
    pub remote: Remote,
    pub options: Options,
    pub runtime: Handle,
    pub paths: Vec<LocalPath>,
    pub counts: Arc<Pushed>,
    pub waits: Waits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    failed: HashMap<NarHash, String>,
    /// Why all of it ended.
    fatal: Option<RemoteError>,
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    pub fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        match state.fatal {
            None => state.queue.pop_front(),
            Some(_) => None,
        }
    }

    pub fn again(&self, job: Job) {
        self.lock().queue.push_back(job);
    }

    pub fn is_over(&self) -> bool {
        self.lock().fatal.is_some()
    }

    pub fn held(&self) {
        self.counts.held_nars.fetch_add(1, Ordering::Relaxed);
    }

    pub fn failed(&self, job: Job, why: String) {
        let nar = self.paths[job.at].info.nar_hash;
        self.lock().failed.insert(nar, why);
    }

    /// Nothing more can be sent.
    pub fn fatal(&self, error: RemoteError) {
        self.lock().fatal.get_or_insert(error);
    }
}

/// Sends what is missing and publishes it.
///
/// # Errors
/// When the cache cannot be reached, or takes nothing more. What a single path failed for is told.
pub async fn push(
    remote: &Remote,
    plan: Plan,
    options: Options,
    counts: Arc<Pushed>,
    heard: Heard<'_>,
) -> Result<(), RemoteError> {
    let nars = send(remote, plan.missing, options, counts).await?;
    publish(remote, nars, &Vouchers::of(&plan.upstream), heard).await
}

/// Asks again what may go well later; all that is asked here may be asked twice.
async fn patiently<T, F>(ask: impl Fn() -> F) -> Result<T, RemoteError>
where
    F: Future<Output = Result<T, RemoteError>>,
{
    let mut attempt = 1;
    loop {
        match ask().await {
            Err(error) if attempt < MAX_ATTEMPTS && error.may_pass() => {
                tokio::time::sleep(wait_after(attempt)).await;
                attempt += 1;
            }
            answer => return answer,
        }
    }
}

/// NARs under way to the cache; which paths they were for, and which failed.
async fn send(
    remote: &Remote,
    paths: Vec<LocalPath>,
    options: Options,
    counts: Arc<Pushed>,
) -> Result<(Vec<LocalPath>, HashMap<NarHash, String>), RemoteError> {
    let hashes: Vec<NarHash> = paths.iter().map(|path| path.info.nar_hash).collect();
    let absent = patiently(|| remote.absent_nars(&hashes)).await?;
    let mut absent: HashSet<NarHash> = absent.into_iter().collect();
    let mut jobs = Vec::new();
    for (at, path) in paths.iter().enumerate() {
        match absent.remove(&path.info.nar_hash) {
            true => jobs.push(Job { at, attempt: 1 }),
            false => {
                let bytes = path.info.nar_size;
                counts.packed_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
        }
    }
    jobs.sort_by_key(|job| std::cmp::Reverse(paths[job.at].info.nar_size));
    let lanes = options.lanes.min(jobs.len());
    let state = State {
        queue: jobs.into(),
        ..State::default()
    };
    let work = Arc::new(Work {
        remote: remote.clone(),
        options,
        runtime: Handle::current(),
        paths,
        counts,
        waits: Waits::default(),
        state: Mutex::new(state),
    });
    let lanes = (0..lanes).map(|_| {
        let work = work.clone();
        tokio::task::spawn_blocking(move || Lane::new(work).run())
    });
    for lane in futures::future::join_all(lanes).await {
        lane.expect("invariant: lanes do not panic");
    }
    let State { failed, fatal, .. } = std::mem::take(&mut *work.lock());
    match fatal {
        Some(error) => Err(error),
        None => Ok((work.paths.clone(), failed)),
    }
}

/// Publishes what has its NAR and its references there, references first.
async fn publish(
    remote: &Remote,
    (paths, failed): (Vec<LocalPath>, HashMap<NarHash, String>),
    vouchers: &Vouchers<'_>,
    heard: Heard<'_>,
) -> Result<(), RemoteError> {
    let mut lost: HashSet<StoreHash> = HashSet::new();
    let mut rest = paths.iter().peekable();
    while rest.peek().is_some() {
        let (mut batch, mut records, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut vouched = BTreeMap::new();
        while records.len() + vouched.len() < PATHS_PER_COMMIT
            && bytes < BYTES_PER_COMMIT
            && let Some(path) = rest.next()
        {
            let broken = path
                .info
                .references
                .iter()
                .find(|it| lost.contains(&it.hash()));
            let why = match (failed.get(&path.info.nar_hash), broken) {
                (Some(why), _) => why.clone(),
                (None, Some(broken)) => format!("it refers to {broken}, which was not pushed"),
                (None, None) => {
                    let record = path.info.to_record();
                    bytes += record.len() + vouchers.add(path, &mut vouched);
                    records.push(record);
                    batch.push(path);
                    continue;
                }
            };
            lost.insert(path.info.store_path.hash());
            heard(path, &Fate::Failed(why));
        }
        if records.is_empty() {
            continue;
        }
        let vouched: Vec<String> = vouched.into_values().collect();
        let fates = patiently(|| remote.commit(&records, &vouched)).await?;
        for (path, fate) in batch.into_iter().zip(fates) {
            let why = || fate.error.clone().unwrap_or_default();
            let fate = match fate.status {
                200 => Fate::Pushed,
                409 => Fate::Conflict(why()),
                _ => {
                    lost.insert(path.info.store_path.hash());
                    Fate::Failed(why())
                }
            };
            heard(path, &fate);
        }
    }
    Ok(())
}
