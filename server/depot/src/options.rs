//! How a depot is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::room::RESERVE_BYTES;

/// How a depot is opened.
#[derive(Clone)]
pub struct Options {
    /// The folder that holds everything.
    pub dir: PathBuf,
    /// zstd level of frames.
    pub zstd_level: i32,
    /// Threads that compress.
    pub threads: usize,
    /// The largest NAR taken, in bytes.
    pub max_nar_bytes: u64,
    /// The most bytes that segments may hold; None: as many as the disk.
    pub max_size_bytes: Option<u64>,
    /// Room on the disk, or below the maximum, that uploads leave for collection; never more than
    /// a twentieth of it.
    pub reserve_bytes: u64,
    /// The most bytes of NARs that one subject may hold without a path that has them; None: any.
    pub max_leased_bytes: Option<u64>,
    /// How long clients remember a narinfo, and the URL in it: so many seconds an encoding stays
    /// readable after it was replaced by another one.
    pub url_grace_s: u64,
    /// What patches may take on disk, in bytes; 0: none are made.
    pub max_patch_bytes: u64,
    /// Seconds since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Options {
    /// Level 3, a thread a core, NARs up to 1 TiB, as many as the disk holds, URLs for the 30 days
    /// of Nix's clients, 1 GiB of patches, the system's clock.
    pub fn new(dir: impl Into<PathBuf>) -> Options {
        let clock = || {
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_secs())
        };
        Options {
            dir: dir.into(),
            zstd_level: 3,
            threads: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
            max_nar_bytes: 1 << 40,
            max_size_bytes: None,
            reserve_bytes: RESERVE_BYTES,
            max_leased_bytes: None,
            url_grace_s: 30 * 24 * 60 * 60,
            max_patch_bytes: 1 << 30,
            clock: Arc::new(clock),
        }
    }
}
