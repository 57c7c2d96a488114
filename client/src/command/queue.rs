//! `snowcache queue`: what hooks have queued, pushed and watched over.
//!
//! Guarantees: one process at a time pushes what is queued in a folder. Never: an entry changed by
//! asking for the status.

mod flush;
mod status;

use super::admission::Admission;
use super::hook::{spool, store_paths};
use super::{block_on, connect};
use crate::cli::{CacheArgs, PushingArgs, QueueCommand, RunArgs, SomeArgs};
use crate::failure::Failure;
use crate::push::Options;
use crate::queue::notify;
use crate::queue::report::Report;
use crate::queue::{Connect, Queue};
use crate::spool::{Reign, Spool};
use futures::FutureExt;
use snowcache_nix::StorePath;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Runs one of its commands.
///
/// # Errors
/// With what to tell the caller.
pub fn run(cache: &CacheArgs, command: QueueCommand) -> Result<(), Failure> {
    match command {
        QueueCommand::Run(args) => block_on(serve(cache, &args)),
        QueueCommand::Status(args) => status::run(&args),
        QueueCommand::Flush(args) => block_on(flush::run(cache, &args)),
        QueueCommand::Retry(args) => retry(&args),
        QueueCommand::Forget(args) => {
            let spool = spool(&args.spool)?;
            let paths = named(&spool, &args)?;
            spool.forget(&paths).map_err(Failure::failed)
        }
    }
}

/// A queue of this spool, which pushes to this cache.
fn queue(cache: &CacheArgs, args: &PushingArgs, spool: &Spool) -> Result<Queue, Failure> {
    let (url, cache) = (cache.cache.clone(), cache.clone());
    connect(&cache.cache, &cache)?; // what is wrong now is said now
    let (cache, admission) = (Arc::new(cache), Arc::new(Admission::default()));
    let connect: Connect = Box::new(move || {
        let (cache, admission) = (cache.clone(), admission.clone());
        let connected = async move {
            let remote = connect(&cache.cache, &cache)?;
            admission.admitted(remote).await
        };
        connected.boxed()
    });
    let mut options = Options::default();
    options.lanes = args.jobs.map_or(options.lanes, usize::from);
    options.whole = args.whole;
    let report = Report::new(url, args.metrics_file.clone());
    Ok(Queue::new(spool.clone(), connect, options, report))
}

async fn serve(cache: &CacheArgs, args: &RunArgs) -> Result<(), Failure> {
    let spool = spool(&args.spool)?;
    let mut queue = queue(cache, &args.pushing, &spool)?;
    let reign = Reign::take(&spool).map_err(Failure::failed)?;
    let Some(_reign) = reign else {
        let folder = spool.folder().display();
        return Err(Failure::failed(format!(
            "another snowcache queue serves {folder}; --spool names another folder"
        )));
    };
    let cannot = |error| Failure::failed(format!("signals cannot be waited for: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    notify::tell("READY=1\nSTATUS=pushing what is queued");
    tokio::spawn(notify::keep_watch());
    tokio::select! {
        worked = queue.work(|_| Ok(false)) => worked.map_err(Failure::failed),
        _ = terminate.recv() => stop(),
        _ = interrupt.recv() => stop(),
    }
}

/// What is under way need not end: the next queue begins it anew and finds what is held.
fn stop() -> Result<(), Failure> {
    notify::tell("STOPPING=1");
    Ok(())
}

fn retry(args: &SomeArgs) -> Result<(), Failure> {
    let spool = spool(&args.spool)?;
    let paths = named(&spool, args)?;
    let retried = spool.add(&paths).and_then(|_| spool.poke());
    retried.map_err(Failure::failed)?;
    super::print(&format!(
        "{} queued again\n",
        crate::show::paths(paths.len())
    ))
}

/// The paths of the arguments, or all that failed.
fn named(spool: &Spool, args: &SomeArgs) -> Result<Vec<StorePath>, Failure> {
    if !args.paths.is_empty() {
        return store_paths(&args.paths);
    }
    let failed = spool.failed().map_err(Failure::failed)?;
    let paths = failed.iter().map(|it| it.path.parse());
    paths.collect::<Result<_, _>>().map_err(Failure::failed)
}
