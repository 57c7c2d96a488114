//! Every visible path has its NAR, and everything that it refers to is visible too, or was vouched
//! for by an upstream.

use snowcache_core::upstream;
use snowcache_nix::StorePath;

use super::Teller;
use crate::Result;
use crate::index::{Index, Rows, Table};
use crate::layout::Layout;
use crate::read::read_state;
use crate::record::Kind;
use crate::replay::Lost;
use crate::rows::{PathRow, cache_of_key, path_info};
use crate::segments::Segments;
use crate::state::{PathState, from_json};

/// Checks every path of an index; how many lack what another index may have.
pub fn check(index: &dyn Index, tell: &mut Teller<'_>) -> Result<u64> {
    tell.checked.paths = 0;
    let mut lacking = 0;
    for row in Rows::new(index, Table::Paths, &[]) {
        let (key, value) = row?;
        let info = PathRow::decode(&value)?.info()?;
        let (cache, _) = cache_of_key(&key)?;
        let path = &info.store_path;
        tell.checked.paths += 1;
        if Layout::read(index, &info.nar_hash)?.is_none() {
            lacking += 1;
            tell.problem(format!("{path}: its NAR {} is not here", info.nar_hash));
        }
        let nar_key = cache.nar_key(&info.nar_hash);
        if index.get(Table::Visible, &nar_key)?.is_none() {
            lacking += 1;
            tell.problem(format!("{path}: its NAR {} is not visible", info.nar_hash));
        }
        let sick = index.scan(Table::Sick, info.nar_hash.as_bytes(), None, 1)?;
        if !sick.is_empty() {
            tell.problem(format!(
                "{path} is quarantined: its NAR {} is damaged; push it again",
                info.nar_hash
            ));
        }
        let elsewhere = upstream::noted(&info);
        let is_elsewhere = |other: &StorePath| elsewhere.contains_key(other.to_string().as_str());
        let others = info.references.iter();
        let others = others.filter(|other| *other != path && !is_elsewhere(other));
        for other in others {
            if index
                .get(Table::Paths, &cache.path_key(&other.hash()))?
                .is_none()
            {
                tell.problem(format!(
                    "{path} refers to {other}, which is not here; push it again"
                ));
            }
        }
    }
    Ok(lacking)
}

/// Tells of what a replay could not bring back, unless something else did.
pub fn tell_lost(
    segments: &dyn Segments,
    index: &dyn Index,
    lost: &[Lost],
    tell: &mut Teller<'_>,
) -> Result<()> {
    for one in lost {
        if !is_back(segments, index, one)? {
            tell.problem(one.sentence.clone());
        }
    }
    Ok(())
}

/// Whether the path of a record that counts for nothing is visible all the same: it was pushed
/// again.
pub fn is_back(segments: &dyn Segments, index: &dyn Index, lost: &Lost) -> Result<bool> {
    let Ok((header, payload)) = read_state(segments, lost.segment, lost.offset) else {
        return Ok(false);
    };
    if header.kind != Kind::Path {
        return Ok(false);
    }
    let state: PathState = from_json(&payload, "a path record")?;
    let hash = path_info(state.narinfo.as_bytes())?.store_path.hash();
    Ok(PathRow::get(index, &state.cache.path_key(&hash))?.is_some())
}
