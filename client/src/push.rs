//! Pushing closures out of the local store, the native way.
//!
//! ```text
//!   store    nix path-info: closure, hashes, references
//!   pack     a path as a NAR, cut into pieces         \  one lane of several, each with a NAR
//!   lane     which frames are absent? compress, send  /  at a time and one stream
//!   push     what is missing -> lanes -> publish, references first
//! ```
//! Guarantees: memory is bounded by lanes, not by NARs; what is published has its references
//! published before; whatever breaks, asking again what is absent and going on ends complete.
//! Never: a byte of a frame sent that the cache has, or a path that its upstreams signed.

mod engine;
mod lane;
mod order;
pub(crate) mod pack;
mod store;
mod vouchers;

pub use engine::{Fate, Heard, Options, Plan, Pushed, push};
pub use store::{LocalPath, StoreError, closure, invalid, roots_of_json};
