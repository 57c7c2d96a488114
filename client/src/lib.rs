//! snowcache, the client: another cache over HTTP as a `Cache`, and the commands of the binary.
//!
//! Guarantees: what is read is verified while it is read; every wait is bounded. Never: the engine
//! or the server linked in; all that is known of a cache is what it says over its public interface.

pub mod cli;
pub mod command;
mod failure;
pub mod push;
pub mod remote;
mod show;

pub use failure::{Exit, Failure};
