//! Which paths have become valid, for those whose imports wait for them.
//!
//! ```text
//!   begun in this order:   glibc     openssl    curl         so that nothing waits for what is
//!   its bytes:             ########  ####       ######       not under way
//!   its end, once valid:             glibc      glibc, openssl
//! ```
//! A daemon asks for a path's references when it has all of its NAR. Until then any number of paths
//! can be on their way at once, whatever refers to what.
//!
//! Guarantees: where paths are begun references first, the first one under way waits for nobody.

use snowcache_core::cache::Narinfo;
use snowcache_nix::{PathInfo, StorePath};
use std::collections::BTreeMap;
use tokio::sync::watch;

/// Of each path that is brought, whether it is valid.
pub(super) struct Arrivals {
    of: BTreeMap<StorePath, watch::Sender<bool>>,
}

impl Arrivals {
    /// None of these has come.
    pub(super) fn of(missing: &[Narinfo]) -> Arrivals {
        let paths = missing.iter().map(|it| it.info.store_path.clone());
        Arrivals {
            of: paths
                .map(|path| (path, watch::Sender::new(false)))
                .collect(),
        }
    }

    /// It is valid now.
    pub(super) fn arrived(&self, path: &StorePath) {
        if let Some(valid) = self.of.get(path) {
            valid.send_replace(true);
        }
    }

    /// Comes when all that this path refers to is valid, and never when that is given up.
    pub(super) fn references(&self, info: &PathInfo) -> impl Future<Output = ()> + use<> {
        let others = info.references.iter().filter(|it| **it != info.store_path);
        let brought = others.filter_map(|other| self.of.get(other));
        let waits: Vec<watch::Receiver<bool>> = brought.map(watch::Sender::subscribe).collect();
        async {
            for mut wait in waits {
                if wait.wait_for(|valid| *valid).await.is_err() {
                    std::future::pending().await
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use snowcache_core::contract::sample;
    use snowcache_nix::Compression;

    fn narinfo(name: &str, references: &[&str]) -> Narinfo {
        let others = references.iter().map(|it| sample(it, b"", &[]).info);
        let others: Vec<StorePath> = others.map(|it| it.store_path).collect();
        let info = sample(name, b"", &others.iter().collect::<Vec<_>>()).info;
        Narinfo {
            info,
            url: String::new(),
            compression: Compression::None,
            file_size_bytes: None,
        }
    }

    #[test]
    fn a_path_waits_for_those_of_its_references_that_are_brought_and_not_for_itself() {
        let brought = [
            narinfo("a", &["z"]),
            narinfo("b", &["a", "b"]),
            narinfo("c", &["a", "b", "z"]),
        ];
        let arrivals = Arrivals::of(&brought);
        let [a, b, c] = &brought;
        let comes = |it: &Narinfo| arrivals.references(&it.info).now_or_never().is_some();
        assert!(comes(a), "what is there already is not waited for");
        assert!(!comes(b) && !comes(c));
        arrivals.arrived(&a.info.store_path);
        assert!(comes(b) && !comes(c));
        let mut waiting = std::pin::pin!(arrivals.references(&c.info));
        assert!(waiting.as_mut().now_or_never().is_none());
        arrivals.arrived(&b.info.store_path);
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn what_is_given_up_never_comes() {
        let brought = [narinfo("a", &[]), narinfo("b", &["a"])];
        let arrivals = Arrivals::of(&brought);
        let waiting = arrivals.references(&brought[1].info);
        drop(arrivals);
        assert!(waiting.now_or_never().is_none());
    }
}
