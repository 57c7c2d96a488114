//! What the tests share: a snowcached of their own, real Nix clients on machines of their own, a
//! plain HTTP client, the corpus.
//!
//! Everything lives in temporary folders and on ports that were free; nothing of the user's is
//! read or written, except that the corpus is registered in the machine's own /nix/store, from
//! where it is pushed.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod agent;
pub mod attacks;
pub mod attic;
pub mod big;
pub mod builder;
pub mod cargo;
pub mod codec;
pub mod corpus;
pub mod daemon;
pub mod disk;
pub mod fault;
pub mod fleet;
pub mod http;
pub mod issuer;
pub mod machine;
pub mod nar;
pub mod nix;
pub mod oracle;
pub mod proxy;
pub mod random;
pub mod running;
pub mod served;
pub mod server;
pub mod snowread;
pub mod stocked;
pub mod strace;
pub mod systems;
pub mod tap;
pub mod versions;
pub mod wire;
pub mod world;

use std::path::PathBuf;

/// The root of the workspace.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A temporary folder on a disk (not in memory): for what must meet a real fsync, or is too big
/// for memory.
pub fn folder_on_disk() -> tempfile::TempDir {
    let base = std::env::temp_dir();
    tempfile::Builder::new()
        .prefix("snowcache-")
        .tempdir_in(base)
        .expect("a temporary folder")
}

/// A temporary folder for stores full of small files: in memory where there is room (8 GiB), which
/// spares ext4 the churn; below `TMPDIR_IN_MEMORY`, where `scripts/swept.sh` gives a place.
pub fn folder_for_files() -> tempfile::TempDir {
    let given = std::env::var_os("TMPDIR_IN_MEMORY").filter(|given| !given.is_empty());
    let shared_memory = PathBuf::from(given.unwrap_or_else(|| "/dev/shm".into()));
    let roomy = free_kib(&shared_memory).is_some_and(|kib| kib > 8 << 20);
    let base = if roomy {
        shared_memory
    } else {
        std::env::temp_dir()
    };
    tempfile::Builder::new()
        .prefix("snowcache-")
        .tempdir_in(base)
        .expect("a temporary folder")
}

fn free_kib(folder: &std::path::Path) -> Option<u64> {
    let output = std::process::Command::new("df")
        .args(["--output=avail", "-k"])
        .arg(folder)
        .output()
        .ok()?;
    String::from_utf8(output.stdout)
        .ok()?
        .lines()
        .nth(1)?
        .trim()
        .parse()
        .ok()
}
