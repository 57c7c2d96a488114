//! snowcached: a Nix binary cache that stock Nix reads from and writes to.
//!
//! ```text
//!   main --> compose --+-- config, first_start, lock, observe, banner   what a start needs
//!                      +-- auth, workers                                who may, how much at once
//!                      +-- caches                                       which there are beside /
//!                      +-- metrics, systemd, reload                     what operators see and do
//!                      '-- listen --> http --> snowcache_depot          what is asked and answered
//! ```
//! What it guarantees: an upload is acknowledged only when it is durable, and signed only over what
//! was computed. What it never does: hold a client's data unbounded in memory, or trust what a
//! client says of its own bytes.

pub mod auth;
pub mod background;
pub mod banner;
pub mod caches;
pub mod clock;
pub mod collector;
pub mod commands;
pub mod compose;
pub mod config;
pub mod events;
pub mod files;
pub mod first_start;
pub mod http;
pub mod listen;
pub mod lock;
pub mod memory;
pub mod metrics;
pub mod observe;
pub mod oidc;
pub mod patcher;
pub mod recompressor;
pub mod reload;
pub mod scrubber;
pub mod systemd;
pub mod turns;
pub mod workers;
