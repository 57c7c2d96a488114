//! The depot: Snowcache's storage engine for NARs.
//!
//! ```text
//!   NAR --> cut at references --> frames (deduplicated, zstd) --+
//!                             \-> recipe -----------------------+--> segments: append-only,
//!   narinfo --> committer: first wins, closures complete -------+    checksummed, the truth
//!                                                                        |
//!                                                                        v  replayable
//!   GET --> path --> layout --> runs of frames as they lie  <-----  index (RocksDB)
//! ```
//!
//! What it guarantees: what was acknowledged is durable and stays readable under kill -9 and power
//! cuts; hash and size of a NAR are computed, never believed; a visible path has its NAR and all
//! its references; damaged bytes are not given out. What it never does: sign, speak HTTP, or write
//! a segment again that failed once.
//!
//! All calls block on the disk: call them off an async runtime's workers.

pub mod backup;
pub mod check;
mod commit;
mod compress;
mod delta;
mod depot;
mod error;
mod filling;
mod former;
mod frames;
mod gc;
pub mod index;
mod ingest;
mod kept_nar;
mod keys;
mod layout;
mod leases;
mod lookup;
mod mark;
mod offering;
mod options;
pub mod patches;
mod pinning;
mod pins;
mod pool;
mod presence;
mod quarantine;
mod read;
mod recompress;
pub mod record;
mod relayout;
mod replay;
mod room;
mod rows;
mod scan;
mod scrub;
pub mod segments;
mod state;
mod stats;
mod tallies;
mod tenants;
mod uses;
mod varint;
mod versions;
mod vitals;

pub use delta::Basis;
pub use depot::{CHECKPOINT_BYTES, Depot, MAX_PAGE, Published, Stored, UploadInfo};
pub use error::{Error, ErrorKind, Result};
pub use gc::{Collected, Finding, Policy, Removal, Stay};
pub use ingest::{Ingest, KEEP_BYTES, Lease, MAX_QUEUED, Nar, Upload, native_name};
pub use kept_nar::KeptNar;
pub use keys::{CacheName, MAX_CACHE_NAME_BYTES};
pub use layout::{BLOCK_PARTS, Encoding, MAX_EXTENT_BYTES};
pub use lookup::{Entry, Kept};
pub use options::Options;
pub use pins::{Generation, Keep, MAX_GENERATIONS, MAX_PIN_ROOTS, Pin, PinChange, PinName};
pub use pool::SEGMENT_BYTES;
pub use quarantine::{Broken, Damage};
pub use read::{Chunks, Cost, NarReader, Piece, Run};
pub use recompress::{Recompress, Recompressed};
pub use room::RESERVE_BYTES;
pub use scrub::{Progress, Scrub, Scrubbed, Scrubbing, Subset};
pub use state::Document;
pub use stats::Stats;
pub use tallies::Holding;
pub use vitals::Vitals;

#[cfg(test)]
mod tests;
