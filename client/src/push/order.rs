//! References first: a depth-first walk with its own stack over what is local.

use super::store::LocalPath;
use snowcache_nix::StoreHash;
use std::collections::HashMap;

/// Puts every path behind those that it refers to.
pub(super) fn references_first(paths: Vec<LocalPath>) -> Vec<LocalPath> {
    let by_hash: HashMap<StoreHash, usize> = paths
        .iter()
        .enumerate()
        .map(|(at, path)| (path.info.store_path.hash(), at))
        .collect();
    let mut seen = vec![false; paths.len()];
    let mut order = Vec::with_capacity(paths.len());
    for root in 0..paths.len() {
        let mut stack = vec![(root, false)];
        while let Some((at, done)) = stack.pop() {
            if done {
                order.push(at);
            } else if !std::mem::replace(&mut seen[at], true) {
                stack.push((at, true));
                let references = paths[at].info.references.iter();
                let known = references.filter_map(|path| by_hash.get(&path.hash()));
                stack.extend(known.filter(|at| !seen[**at]).map(|at| (*at, false)));
            }
        }
    }
    let mut paths: Vec<Option<LocalPath>> = paths.into_iter().map(Some).collect();
    order
        .into_iter()
        .filter_map(|at| paths[at].take())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use snowcache_nix::PathInfo;

    fn path(name: char, references: &str) -> LocalPath {
        let base = |name: char| format!("{}-{name}", name.to_string().repeat(32));
        let references: Vec<String> = references.chars().map(base).collect();
        let record = format!(
            "StorePath: /nix/store/{}\nNarHash: sha256:{}\nNarSize: 120\nReferences: {}\n",
            base(name),
            "0".repeat(52),
            references.join(" ")
        );
        let info = PathInfo::from_record(&record).expect("a record");
        LocalPath { info }
    }

    #[test]
    fn every_path_comes_behind_what_it_refers_to() {
        let paths = vec![
            path('a', "abc"),
            path('b', "c"),
            path('d', "a"),
            path('c', ""),
        ];
        let ordered = references_first(paths);
        let names: Vec<&str> = ordered.iter().map(|it| it.info.store_path.name()).collect();
        assert_eq!(names, ["c", "b", "a", "d"]);
    }
}
