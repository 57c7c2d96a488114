//! The load generator: what is asked, how fast, over how many connections, and what came of it.
//!
//! Guarantees: an answer counts as right only when its status and length (and, where known, its
//! bytes) are those that were expected; its own CPU time is measured beside the server's. It is one
//! thread unless told otherwise, since it shares the machine with what it measures. Never: parses
//! more of HTTP than a cache's answers need, or keeps bodies.

pub mod ask;
pub mod catalog;
pub mod closed;
pub mod mix;
pub mod open;
pub mod procs;
pub mod replay;
pub mod slow;
pub mod tally;
pub mod target;
pub mod verify;
pub mod walk;
pub mod wire;

use std::future::Future;

/// Runs on a runtime of one thread: this one.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}
