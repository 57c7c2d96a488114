//! Connections that will be needed, made while a cache is asked what is to be fetched.
//!
//! ```text
//!   to the cache      a round trip each before anything can be asked there, over TLS three
//!   to the daemon     a process each: some ms of a processor that has nothing else to do yet
//! ```
//! Guarantees: the daemon is there. None is made where the roots are here, nor begun once the cache
//! has answered; what goes wrong with those to a cache is told whoever asks it for something.

use super::Prefetch;
use futures::future::{join, select};
use snowcache_core::cache::Cache;
use snowcache_core::error::Error;
use snowcache_nix::StoreHash;
use std::pin::pin;
use tokio::sync::watch;

/// To the cache: 8 paths are fetched at a time by default, and of little ones four in the place of
/// one. To the daemon there are half as many: the little ones share theirs.
const MOST: usize = 16;

impl Prefetch<'_> {
    /// Learns the closure of these roots, as far as a cache tells it at once.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub(super) async fn learn(&self, roots: &[StoreHash]) -> Result<(), Error> {
        let (learnt, is_learnt) = watch::channel(false);
        let learn = async {
            self.sources.learn(roots).await;
            learnt.send_replace(true);
        };
        let ((), ahead) = join(learn, self.ahead(roots, is_learnt)).await;
        ahead
    }

    async fn ahead(
        &self,
        roots: &[StoreHash],
        mut is_learnt: watch::Receiver<bool>,
    ) -> Result<(), Error> {
        if self.store.missing(roots).await?.is_empty() {
            return Ok(());
        }
        let count = self.jobs.saturating_mul(2).min(MOST);
        let learnt = is_learnt.clone();
        let to_daemon = async {
            for _ in 0..count / 2 {
                if *learnt.borrow() {
                    break;
                }
                self.store.open_ahead().await?;
            }
            Ok(())
        };
        let to_cache = async {
            let open = pin!(self.sources.open_ahead(count));
            let over = pin!(is_learnt.wait_for(|learnt| *learnt));
            drop(select(open, over).await);
        };
        join(to_cache, to_daemon).await.1
    }
}
