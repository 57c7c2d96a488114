//! `snowcache watch-store`: queues what becomes valid in the store, where nix runs no hook.
//!
//! Guarantees: what became valid while it ran, or since it ran last, is queued. Never: a path
//! queued that nix does not call valid.

use super::hook::{enqueue, spool};
use crate::cli::SpoolArgs;
use crate::failure::Failure;
use crate::push;
use crate::queue::notify;
use crate::watch::Watch;
use std::collections::HashSet;

/// Runs it, for ever.
///
/// # Errors
/// When the store cannot be watched, nix cannot be asked, or nothing can be queued.
pub fn run(args: &SpoolArgs) -> Result<(), Failure> {
    let spool = spool(args)?;
    let cannot = |error| Failure::failed(format!("the store cannot be watched: {error}"));
    spool.add(&[]).map_err(Failure::failed)?; // the folder is there, or cannot be
    let mut watch = Watch::start(&spool).map_err(cannot)?;
    watch.seen(watch.seen_s()).map_err(Failure::failed)?; // since when, for the next one
    notify::tell("READY=1\nSTATUS=queueing what becomes valid");
    loop {
        let (mut paths, until_s) = watch.wait().map_err(cannot)?;
        let invalid = push::invalid(&paths).map_err(Failure::failed)?;
        let invalid: HashSet<_> = invalid.iter().map(|path| path.hash()).collect();
        paths.retain(|path| !invalid.contains(&path.hash()));
        enqueue(&spool, &paths)?;
        watch.seen(until_s).map_err(Failure::failed)?;
    }
}
