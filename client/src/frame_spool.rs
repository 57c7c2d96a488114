//! What has come of paths that are under way, on the disk: whoever comes back after `kill -9`
//! fetches only the rest.
//!
//! ```text
//!   STATE/spool/<pin>/<hash part>.nar      what a cache sends of a NAR, from its beginning
//!                    /<hash part>.frames   of ranges of one, for a delta
//!                    /<hash part>.patch    of a patch
//!
//!   begin     those of plans that are gone go, and those of paths that are here
//!   come      bytes are gathered, and given to the kernel a span at a time, beside the import
//!   again     span by span out of the file, each checked; the cache is asked for what follows
//!   forget    the path is imported
//! ```
//! Guarantees: what a kill costs of a stream is less than [`LEAST_BYTES`], a frame of the longest;
//! a power cut besides what the kernel had not written. All files together stay below the budget,
//! and below what the disk has left when the import is over. Nothing is given out that is not as it
//! came; who else uses a file is left alone. Whatever fails here costs only the spool: it is told
//! once. Never: a file of a path that came in less than [`LEAST_BYTES`].

mod entry;
mod file;
#[cfg(test)]
mod tests;

pub use entry::{Entry, MAX_CHUNK_BYTES};
pub use file::About;

use crate::node::Node;
use file::SpanFile;
use rustix::fs::statvfs;
use snowcache_core::cache::Narinfo;
use snowcache_nix::{STORE_DIR, StoreHash};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// As long as the longest frame of a snowcached: what comes in less is not kept.
pub const LEAST_BYTES: u64 = 1 << 20;

/// What is kept of all paths under way, when nobody says otherwise. Eight are fetched at a time: so
/// 128 MiB of each, some 400 MiB of its NAR. Few closures have eight paths as large as that.
pub const DEFAULT_BUDGET_BYTES: u64 = 1 << 30;

/// What is left free of a disk besides what is to be imported: for everybody else.
const MARGIN_BYTES: u64 = 64 << 20;

/// The spool of one plan; clones share it. By default there is none.
#[derive(Clone, Default)]
pub struct FrameSpool(Option<Arc<Shared>>);

struct Shared {
    node: Node,
    pin: String,
    budget_bytes: u64,
    /// What of the budget the disk has room for.
    most_bytes: AtomicU64,
    used_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Of which something was used that was here.
    resumed: BTreeSet<StoreHash>,
    complaint: Complaint,
}

/// What went wrong first is told, and only that.
#[derive(Default)]
enum Complaint {
    #[default]
    None,
    Untold(String),
    Told,
}

/// What of a path an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its NAR.
    Nar,
    /// What a delta fetches of it.
    Frames,
    /// What a delta makes it with.
    Patch,
}

impl Part {
    const ALL: [Part; 3] = [Part::Nar, Part::Frames, Part::Patch];

    fn file_name(self, hash: StoreHash) -> String {
        let suffix = match self {
            Part::Nar => "nar",
            Part::Frames => "frames",
            Part::Patch => "patch",
        };
        format!("{hash}.{suffix}")
    }
}

impl FrameSpool {
    /// For the plan of this pin, of at most so many bytes together with those of other plans; 0 is
    /// no spool. Nothing is touched yet.
    pub fn of(node: &Node, pin: &str, budget_bytes: u64) -> FrameSpool {
        let shared = || Shared {
            node: node.clone(),
            pin: pin.to_owned(),
            budget_bytes,
            most_bytes: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
            state: Mutex::default(),
        };
        FrameSpool((budget_bytes > 0).then(|| Arc::new(shared())))
    }

    /// These are to come now, so many bytes of NARs: of everything else of this plan, and of plans
    /// that are gone, nothing is kept.
    pub fn begin(&self, missing: &[Narinfo], nar_size_bytes: u64) {
        let Some(shared) = &self.0 else {
            return;
        };
        // The plan is there from here on, also before something of it has come.
        let planned = fs::create_dir_all(shared.node.plan_folder(&shared.pin));
        let wanted: BTreeSet<StoreHash> = missing
            .iter()
            .map(|narinfo| narinfo.info.store_path.hash())
            .collect();
        let swept = planned.and_then(|()| shared.sweep(&wanted));
        let used_bytes = swept.unwrap_or_else(|error| {
            shared.complain(&shared.folder(), &error);
            0
        });
        shared.used_bytes.store(used_bytes, Ordering::Relaxed);
        let free = free_beside(shared.node.folder(), nar_size_bytes);
        let most = shared.budget_bytes.min(free.saturating_add(used_bytes));
        shared.most_bytes.store(most, Ordering::Relaxed);
    }

    /// An entry that goes on where the one that is there ends, if that is of the same.
    pub async fn entry(&self, hash: StoreHash, part: Part, about: About) -> Option<Entry> {
        let shared = self.0.clone()?;
        Entry::open(shared, hash, part, about).await
    }

    /// The path is here, or what was kept of it is of no use.
    pub fn forget(&self, hash: StoreHash) {
        let Some(shared) = &self.0 else {
            return;
        };
        shared.state().resumed.remove(&hash);
        for part in Part::ALL {
            shared.remove(&shared.folder().join(part.file_name(hash)));
        }
    }

    /// Whether something that was kept of this path has been used since it was last asked.
    pub fn has_resumed(&self, hash: StoreHash) -> bool {
        let shared = self.0.as_ref();
        shared.is_some_and(|shared| shared.state().resumed.remove(&hash))
    }

    /// All of it goes: the plan is over, or room is needed for more than it.
    pub fn clear(&self) {
        if let Some(shared) = &self.0 {
            give_up(&shared.node, &shared.pin);
            shared.used_bytes.store(0, Ordering::Relaxed);
        }
    }

    /// What went wrong, once.
    pub fn complaint(&self) -> Option<String> {
        let complaint = &mut self.0.as_ref()?.state().complaint;
        if !matches!(complaint, Complaint::Untold(_)) {
            return None;
        }
        match std::mem::replace(complaint, Complaint::Told) {
            Complaint::Untold(why) => Some(why),
            Complaint::None | Complaint::Told => None,
        }
    }
}

/// Of this plan nothing is kept any more.
pub fn give_up(node: &Node, pin: &str) {
    // What cannot be removed now goes with the next one that begins, or stays within the budget.
    drop(fs::remove_dir_all(node.spool_folder().join(pin)));
}

impl Shared {
    fn folder(&self) -> PathBuf {
        self.node.spool_folder().join(&self.pin)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change of it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, path: &Path, error: &io::Error) {
        let complaint = &mut self.state().complaint;
        if matches!(complaint, Complaint::None) {
            *complaint = Complaint::Untold(format!(
                "what comes is not kept until it is imported: {}: {error}; if this is killed, the \
                 paths that are under way are fetched anew",
                path.display()
            ));
        }
    }

    /// Removes what nobody comes back for; how much is left, of all plans.
    fn sweep(&self, wanted: &BTreeSet<StoreHash>) -> io::Result<u64> {
        let mut left_bytes = 0;
        for plan in names_in(&self.node.spool_folder())? {
            let folder = self.node.spool_folder().join(&plan);
            if plan != self.pin && !self.node.plan_folder(&plan).exists() {
                fs::remove_dir_all(&folder)?;
                continue;
            }
            for name in names_in(&folder)? {
                let file = folder.join(&name);
                let hash = name.split('.').next().unwrap_or_default().parse();
                if plan == self.pin && !hash.is_ok_and(|hash| wanted.contains(&hash)) {
                    fs::remove_file(&file)?;
                } else if let Ok(about) = fs::metadata(&file) {
                    left_bytes += about.len();
                }
            }
        }
        Ok(left_bytes)
    }

    /// So many bytes are to be written: whether they may be. What other plans have left goes for
    /// them, the oldest first.
    fn take(&self, bytes: u64) -> bool {
        let most = self.most_bytes.load(Ordering::Relaxed);
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if used <= most {
            return true;
        }
        let mut left_over = self.left_over().unwrap_or_default();
        left_over.sort_unstable();
        for (_, file) in left_over {
            if SpanFile::is_free(&file) {
                self.remove(&file);
            }
            if self.used_bytes.load(Ordering::Relaxed) <= most {
                return true;
            }
        }
        self.give_back(bytes);
        false
    }

    fn give_back(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // It always has an answer.
        let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
        self.used_bytes.fetch_update(set, read, less).ok();
    }

    /// The files of other plans, and when they were written last.
    fn left_over(&self) -> io::Result<Vec<(SystemTime, PathBuf)>> {
        let mut files = Vec::new();
        let plans = names_in(&self.node.spool_folder())?;
        for plan in plans.into_iter().filter(|plan| *plan != self.pin) {
            let folder = self.node.spool_folder().join(plan);
            for name in names_in(&folder)? {
                let file = folder.join(name);
                let written = fs::metadata(&file).and_then(|about| about.modified());
                files.extend(written.map(|written| (written, file)));
            }
        }
        Ok(files)
    }

    fn remove(&self, file: &Path) {
        let bytes = fs::metadata(file).map_or(0, |about| about.len());
        if fs::remove_file(file).is_ok() {
            self.give_back(bytes);
        }
    }
}

/// What is free where `folder` is, when so much was imported, which may be elsewhere.
fn free_beside(folder: &Path, nar_size_bytes: u64) -> u64 {
    let Ok(disk) = statvfs(folder) else {
        return 0;
    };
    let device = |path: &Path| fs::metadata(path).ok().map(|about| about.dev());
    let imported = match device(folder) == device(Path::new(STORE_DIR)) {
        true => nar_size_bytes,
        false => 0,
    };
    let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
    free_bytes.saturating_sub(imported.saturating_add(MARGIN_BYTES))
}

/// None where there is no such folder.
fn names_in(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .map(|name| name.to_string_lossy().into_owned())
        .collect())
}
