//! Configuration of what is taken in and given out at once.

use serde::{Deserialize, Serialize};

/// `[uploads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uploads {
    /// NARs taken in at once.
    pub max_at_once: usize,
    /// A NAR that finds no place waits so long for one before it is answered 503.
    pub wait_s: u64,
    /// An upload that sends no byte for so long is given up.
    pub stall_timeout_s: u64,
    /// How long a NAR without narinfo is kept.
    pub lease_s: u64,
    /// What one token may have uploaded that has no narinfo yet, unpacked.
    pub max_leased_bytes: u64,
    /// The largest NAR, unpacked; the packed one may not be larger either.
    pub max_nar_size_bytes: u64,
    /// Unpacked bytes allowed for each packed one, past the first GiB.
    pub max_expansion: u64,
    /// Memory that one decoder may take for its dictionary or window.
    pub decoder_memory_bytes: u64,
    /// The largest narinfo, realisation or build trace.
    pub max_narinfo_bytes: u64,
    /// The largest build log, unpacked.
    pub max_log_bytes: u64,
    /// The largest listing or debuginfo link, which is read and thrown away.
    pub max_listing_bytes: u64,
}

/// `[reads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reads {
    /// Disk reads at once; a download holds one only while it fetches its next bytes.
    pub max_at_once: usize,
    /// Memory for narinfos as they are sent; 0: none.
    pub narinfo_cache_bytes: u64,
}

impl Default for Uploads {
    /// 64 uploads x (1 MiB of queued body + 0.25 MiB of decoded bytes + the codec's 1..8 MiB) are
    /// at most 600 MiB with the codecs' usual settings. 256 GiB is ten times the largest NAR we
    /// know of. gzip packs at most 1032:1, xz about 7000:1, so 10,000:1 is what only bzip2, br and
    /// zstd bombs reach. A narinfo with 10,000 references has 0.6 MB. Nix 2.36 sends all NARs of a
    /// closure before the first narinfo, so a lease quota is for whole closures: 512 GiB are two of
    /// the largest NARs.
    fn default() -> Uploads {
        Uploads {
            max_at_once: 64,
            wait_s: 60,
            stall_timeout_s: 60,
            lease_s: 24 * 60 * 60,
            max_leased_bytes: 512 << 30,
            max_nar_size_bytes: 256 << 30,
            max_expansion: 40_000,
            decoder_memory_bytes: 128 << 20,
            max_narinfo_bytes: 1 << 20,
            max_log_bytes: 64 << 20,
            max_listing_bytes: 256 << 20,
        }
    }
}

impl Default for Reads {
    /// Enough to keep a disk's queue full. A download holds at most one extent of 2 MiB: 256 of
    /// them at full speed are half a GiB. 64 MiB hold some 75,000 narinfos of 500 bytes: ten large
    /// systems, half of it kept for what was asked for lately.
    fn default() -> Reads {
        Reads {
            max_at_once: 32,
            narinfo_cache_bytes: 64 << 20,
        }
    }
}
