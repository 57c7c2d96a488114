//! What is said of paths that are left out, when paths that refer to them are published.
//!
//! Guarantees: of each path that is left out only what refers to it directly sends its record, with
//! the upstream's signature. Never: a record sent twice in one request.

use super::store::LocalPath;
use snowcache_nix::{PathInfo, StoreHash};
use std::collections::{BTreeMap, HashMap};

/// The paths that are left out.
pub(super) struct Vouchers<'a>(HashMap<StoreHash, &'a PathInfo>);

impl Vouchers<'_> {
    /// Of these paths.
    pub fn of(upstream: &[(LocalPath, String)]) -> Vouchers<'_> {
        let infos = upstream.iter().map(|(path, _)| &path.info);
        Vouchers(infos.map(|info| (info.store_path.hash(), info)).collect())
    }

    /// Adds the records of what `path` refers to and is left out; how many bytes these are.
    pub fn add(&self, path: &LocalPath, vouched: &mut BTreeMap<StoreHash, String>) -> usize {
        let mut bytes = 0;
        for reference in &path.info.references {
            let hash = reference.hash();
            let Some(info) = self.0.get(&hash) else {
                continue;
            };
            vouched.entry(hash).or_insert_with(|| {
                let record = info.to_record();
                bytes += record.len();
                record
            });
        }
        bytes
    }
}
