//! The thread that fills the filter of absent paths: at start, and whenever it is worn.
//!
//! Guarantees: a start never waits for more than [`AT_ONCE`] paths; until all are read, questions
//! go to the index. Ends with the depot.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::depot::Shared;
use crate::index::{Rows, Table};
use crate::{Error, Result};

/// Paths that a start reads itself: 10 ms.
const AT_ONCE: u64 = 20_000;

/// Between looks whether the filter is worn.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Rows between looks whether the depot ends.
const ROWS_BETWEEN_LOOKS: u64 = 4096;

/// The thread, as long as it is wanted.
pub(crate) struct Filling {
    /// Dropped to end it.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Filling {
    /// Fills what is small at once, the rest on a thread.
    pub fn start(shared: &Arc<Shared>) -> Result<Filling> {
        if shared.index.rows_about(Table::Paths)? <= AT_ONCE {
            fill(shared, || false)?;
        }
        let (stop, stopped) = sync_channel::<()>(0);
        let shared = shared.clone();
        let ended = move |wait| stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout);
        let work = move || loop {
            if shared.watchers.presence.is_worn()
                && let Err(error) = fill(&shared, || ended(Duration::ZERO))
            {
                tracing::warn!(%error, "absent paths are looked up until all could be read");
            }
            if ended(LOOK_AGAIN) {
                return;
            }
        };
        let thread = std::thread::Builder::new().name("filling".into());
        let thread = thread.spawn(work);
        let thread = thread.map_err(|e| Error::io("starting a thread", e))?;
        Ok(Filling {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that reads the paths panicked");
        }
    }
}

/// Reads all paths into a new filter, unless `ends` says that nobody wants it any more.
pub(crate) fn fill(shared: &Shared, ends: impl Fn() -> bool) -> Result<()> {
    let presence = &shared.watchers.presence;
    let paths = shared.index.rows_about(Table::Paths)?;
    // Between commits: a path on its way into the index would be in neither.
    let gate = shared.undisturbed()?;
    presence.begin(paths);
    drop(gate);
    for (number, row) in (0..).zip(Rows::new(&*shared.index, Table::Paths, &[])) {
        presence.add(&row?.0);
        if number % ROWS_BETWEEN_LOOKS == 0 && ends() {
            return Ok(());
        }
    }
    presence.complete();
    Ok(())
}
