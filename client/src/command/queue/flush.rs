//! `snowcache queue flush`: what is queued is there, or it is said what is not.
//!
//! Guarantees: waits for what was queued when it began, not for what comes; pushes by itself while
//! nobody else does, and waits while somebody does; ends when its time is over.

use super::super::print;
use crate::cli::{CacheArgs, FlushArgs};
use crate::failure::{Exit, Failure};
use crate::queue::POLL;
use crate::show;
use crate::spool::{Entry, Reign, Spool, SpoolError, is_reigned};
use std::collections::HashSet;
use std::time::Duration;

/// Runs it.
///
/// # Errors
/// When it is required that all is there, and it is not.
pub async fn run(cache: &CacheArgs, args: &FlushArgs) -> Result<(), Failure> {
    let spool = super::spool(&args.spool)?;
    let queued = spool.waiting().map_err(Failure::failed)?;
    if !args.wait {
        if !is_reigned(&spool) {
            return Err(Failure::failed(
                "no snowcache queue is at work here; with --wait this command pushes by itself",
            ));
        }
        return spool.poke().map_err(Failure::failed);
    }
    let patience = Duration::from_secs(args.timeout);
    let waited = tokio::time::timeout(patience, wait(cache, args, &spool, &queued)).await;
    let in_time = waited.is_ok();
    waited.unwrap_or(Ok(()))?;
    let left = left(&spool, &queued).map_err(Failure::failed)?;
    let failed = spool.failed().map_err(Failure::failed)?;
    for failed in &failed {
        eprintln!("snowcache: FAILED {}: {}", failed.path, failed.why);
    }
    if !in_time {
        let trouble = crate::queue::report::Report::read(&spool).and_then(|it| it.trouble);
        let trouble = trouble.map_or_else(String::new, |it| format!(": {it}"));
        eprintln!("snowcache: not there after {} s{trouble}", args.timeout);
    }
    let arrived = queued.len() - left;
    let arrived = arrived.saturating_sub(failed_of(&queued, &failed));
    print(&format!(
        "{} arrived, {} waiting, {} failed\n",
        show::paths(arrived),
        show::count(left as u64),
        show::count(failed.len() as u64)
    ))?;
    match args.require_complete && (left > 0 || !failed.is_empty()) {
        true => Err(Failure::told(Exit::Failed)),
        false => Ok(()),
    }
}

/// Waits until nothing of what was queued waits any more.
async fn wait(
    cache: &CacheArgs,
    args: &FlushArgs,
    spool: &Spool,
    queued: &[Entry],
) -> Result<(), Failure> {
    spool.poke().map_err(Failure::failed)?;
    while left(spool, queued).map_err(Failure::failed)? > 0 {
        match Reign::take(spool).map_err(Failure::failed)? {
            None => tokio::time::sleep(POLL).await,
            Some(_reign) => {
                let mut queue = super::queue(cache, &args.pushing, spool)?;
                let over = |spool: &Spool| Ok(left(spool, queued)? == 0);
                queue.work(over).await.map_err(Failure::failed)?;
            }
        }
    }
    Ok(())
}

/// How many of these wait still; one that was queued anew meanwhile waits, too.
fn left(spool: &Spool, queued: &[Entry]) -> Result<usize, SpoolError> {
    let waiting = spool.waiting()?;
    let waiting: HashSet<_> = waiting.iter().map(|entry| entry.path.hash()).collect();
    let waits = |entry: &&Entry| waiting.contains(&entry.path.hash());
    Ok(queued.iter().filter(waits).count())
}

fn failed_of(queued: &[Entry], failed: &[crate::spool::Failed]) -> usize {
    let failed: HashSet<&str> = failed.iter().map(|it| it.path.as_str()).collect();
    let has = |entry: &&Entry| failed.contains(entry.path.to_string().as_str());
    queued.iter().filter(has).count()
}
