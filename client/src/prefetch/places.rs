//! Places among the paths that are fetched: how many come at a time.
//!
//! ```text
//!   its turn                            a place, of a little path a part of one
//!   something comes                     it keeps it
//!   nothing came for [`SILENT`]         it goes on without, and the next path begins
//!   all of it is here                   it waits for its references without
//! ```
//! Guarantees: whoever comes first gets a place first, which is what paths are begun in order for.
//! A cache that is silent about one path does not keep others waiting; they are as many as are
//! under way, at most. What was given up is not taken again: nobody who has a place waits for one.
//! To wait for the budget of a rate is to wait for a cache, so a low one is shared by more.

use crate::sources::FAILOVER;
use futures::StreamExt;
use futures::stream::unfold;
use snowcache_core::cache::{NarStream, Narinfo, WHOLE_BYTES};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Parts of a place: a path of little costs a round trip and nothing else, so four of them take the
/// place of one. 32 times 64 KiB in 20 ms are 840 Mbit/s. What does not come whole has a process of
/// the daemon to itself besides, so it takes a place.
const PARTS: u32 = 4;
/// What fills a part: a path that is longer than four of them, a MiB, takes a place.
const PART_BYTES: u64 = 256 << 10;

/// A cache that gives nothing for so long is alone, or it would have been left within [`FAILOVER`].
/// Twice that, for machines that are busy: who begins meanwhile would ask a cache that is gone.
const SILENT: Duration = FAILOVER.saturating_mul(2);

/// All of them.
pub(super) struct Places(Arc<Semaphore>);

/// Of one path, if it still has it.
pub(super) struct Place(Option<OwnedSemaphorePermit>);

impl Places {
    /// So many.
    pub(super) fn new(count: usize) -> Places {
        Places(Arc::new(Semaphore::new(count * PARTS as usize)))
    }

    /// One for this path.
    pub(super) async fn take(&self, narinfo: &Narinfo) -> Place {
        let nar_size_bytes = narinfo.info.nar_size;
        let bytes = narinfo.file_size_bytes.unwrap_or(nar_size_bytes);
        let parts = match nar_size_bytes <= WHOLE_BYTES {
            true => (bytes / PART_BYTES + 1).min(u64::from(PARTS)) as u32,
            false => PARTS,
        };
        let place = self.0.clone().acquire_many_owned(parts).await;
        Place(Some(
            place.expect("invariant: the semaphore is never closed"),
        ))
    }
}

impl Place {
    /// Waits for what a cache gives; for longer than [`SILENT`] without the place.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if self.0.is_some() {
            if let Ok(done) = timeout(SILENT, &mut work).await {
                return done;
            }
            self.0 = None;
        }
        work.await
    }

    /// A NAR that has the place until its end, or as long as it comes.
    pub(super) fn with(self, nar: NarStream) -> NarStream {
        nar.through(|chunks| {
            unfold((chunks, self), |(mut chunks, mut place)| async {
                let chunk = place.during(chunks.next()).await?;
                Some((chunk, (chunks, place)))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use snowcache_core::error::Blame;
    use snowcache_nix::NarHash;
    use tokio::sync::mpsc;
    use tokio::time::sleep;

    fn is_free(places: &Places) -> bool {
        places.0.available_permits() == PARTS as usize
    }

    async fn taken(places: &Places) -> Place {
        let whole = places.0.clone().acquire_many_owned(PARTS);
        Place(Some(whole.await.expect("open")))
    }

    #[tokio::test(start_paused = true)]
    async fn a_nar_keeps_its_place_while_it_comes_and_not_while_it_does_not() {
        let places = Places::new(1);
        let (give, take) = mpsc::unbounded_channel();
        let chunks = unfold(take, |mut take| async {
            let chunk: Bytes = take.recv().await?;
            Some((Ok(chunk), take))
        });
        let any = NarHash::from_bytes([0; 32]);
        let nar = NarStream::new(any, 1 << 20, Blame::Upstream, chunks);
        let mut nar = taken(&places).await.with(nar);
        for _ in 0..10 {
            let later = async {
                sleep(SILENT - Duration::from_millis(1)).await;
                give.send(Bytes::from_static(b"x")).expect("read");
            };
            let (chunk, ()) = tokio::join!(nar.next(), later);
            assert!(chunk.is_some_and(|it| it.is_ok()) && !is_free(&places));
        }
        // Whoever does not read does not wait for the cache.
        sleep(SILENT * 2).await;
        assert!(!is_free(&places));
        assert!(timeout(SILENT * 2, nar.next()).await.is_err());
        assert!(is_free(&places));
        // The next one has it, and both come.
        let next = taken(&places).await;
        give.send(Bytes::from_static(b"x")).expect("read");
        assert!(nar.next().await.is_some_and(|it| it.is_ok()));
        drop(next);
        assert!(is_free(&places));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_a_nar_gives_its_place_back_and_so_does_whoever_gives_it_up() {
        let places = Places::new(1);
        let empty = || {
            let any = NarHash::from_bytes([0; 32]);
            NarStream::new(any, 1, Blame::Upstream, futures::stream::empty())
        };
        let mut nar = taken(&places).await.with(empty());
        assert!(nar.next().await.is_some_and(|it| it.is_err()));
        assert!(is_free(&places));
        let nar = taken(&places).await.with(empty());
        assert!(!is_free(&places));
        drop(nar);
        assert!(is_free(&places));
        let mut place = taken(&places).await;
        place.during(sleep(SILENT / 2)).await;
        assert!(!is_free(&places));
        place.during(sleep(SILENT * 2)).await;
        assert!(is_free(&places));
    }
}
