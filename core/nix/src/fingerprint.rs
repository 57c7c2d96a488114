//! What a signature on a path is over.

use crate::narinfo::PathInfo;

/// `1;<store path>;<NarHash>;<NarSize>;<references, sorted, full paths, joined by commas>`: these
/// four facts and nothing else. Deriver, content address, URL and compression are not signed.
///
/// Source: Nix, `ValidPathInfo::fingerprint` in `src/libstore/path-info.cc`.
pub fn fingerprint(path: &PathInfo) -> String {
    let mut references: Vec<_> = path.references.iter().collect();
    references.sort_unstable();
    references.dedup();
    let references: Vec<String> = references.into_iter().map(|path| path.absolute()).collect();
    format!(
        "1;{};{};{};{}",
        path.store_path.absolute(),
        path.nar_hash,
        path.nar_size,
        references.join(",")
    )
}
