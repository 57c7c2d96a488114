//! snowcache, the client: another cache over HTTP as a `Cache`, this node's store as one, what
//! brings closures from the one to the other, and the commands of the binary.
//!
//! Guarantees: what is read is verified while it is read; every wait is bounded. Never: the engine
//! or the server linked in; all that is known of a cache is what it says over its public interface.

pub mod agent;
pub mod cli;
pub mod command;
pub mod damage;
mod failure;
pub mod figures;
pub mod frame_spool;
mod identity;
mod nix_conf;
pub mod node;
pub mod prefetch;
pub mod preflight;
pub mod push;
pub mod queue;
pub mod rate;
pub mod receipt;
pub mod remote;
mod show;
pub mod sources;
pub mod spool;
pub mod store;
pub mod system;
pub mod trial;
pub mod using;
pub mod watch;
mod why;

pub use failure::{Exit, Failure};
