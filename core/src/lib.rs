//! What both sides of Snowcache share, and nothing else.
//!
//! ```text
//!   cache    the waist: four verbs, and streams that carry what they must be
//!   path_info  Claimed -> Verified -> Signed
//!   closure, replicate   walking and copying, the same for every cache
//!   contract   what every cache must do, as stories
//!   token, cut, recipe   a NAR as pieces that rebuilds share, and the ops that put it together
//! again
//!   frame, upload        frames made elsewhere, and the stream in which they come
//!   upstream             references that another cache has and vouches for
//!   delta, swap          a NAR told by an older one, and tokens put in the place of others
//!   events               what streams of them are bounded by
//!   exposition, nearest  metrics as text, and what a misspelt word was meant to be
//! ```
//!
//! Guarantees: pure. The same input gives the same output, on any machine, at any time.
//! Never: a clock, a file, the network, randomness, a thread or a task of its own (see
//! clippy.toml).

pub mod alike;
pub mod cache;
pub mod closure;
pub mod contract;
pub mod cut;
pub mod delta;
pub mod error;
pub mod events;
pub mod exposition;
pub mod failover;
pub mod frame;
pub mod nearest;
pub mod path_info;
pub mod recipe;
pub mod replicate;
pub mod swap;
pub mod token;
pub mod upload;
pub mod upstream;
