//! Which path of this node's store is most likely to have the bytes of one that is wanted.
//!
//! Guarantees: none of them is anything but a guess, which costs a look into the store's folder.

use snowcache_core::alike;
use snowcache_nix::{STORE_DIR, StorePath};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;

/// For each of `wanted` a path that is in the store's folder, perhaps valid, and another one, and
/// none of `invalid`.
pub fn likely(
    wanted: &[StorePath],
    invalid: &BTreeSet<StorePath>,
) -> BTreeMap<StorePath, StorePath> {
    let Ok(entries) = std::fs::read_dir(STORE_DIR) else {
        return BTreeMap::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let there = names.filter_map(|name| name.parse().ok());
    let there: Vec<StorePath> = there.filter(|path| !invalid.contains(path)).collect();
    let came = |path: &StorePath| {
        let about = std::fs::symlink_metadata(path.absolute()).ok()?;
        Some((about.ctime(), about.ctime_nsec()))
    };
    alike::likely(wanted, &there, &came)
}
