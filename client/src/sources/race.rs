//! Asking several caches for one thing: the next one is asked when those before have failed, or
//! have been silent for [`DOUBT`].
//!
//! ```text
//!   first   ----------------------------X         it was silent: let it rest
//!   second        DOUBT >-----------> has it      the answer
//!   third                                         is not asked
//! ```
//! Guarantees: the first answer wins, and whoever is asked for nothing any more is dropped. Never:
//! all of them asked at once.

use crate::remote::DOUBT;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use snowcache_core::error::Error;
use tokio::time::sleep;

/// What came of it.
pub(super) struct Raced<T> {
    /// Who had it first.
    pub won: Option<(usize, T)>,
    /// Who failed, and how.
    pub failed: Vec<(usize, Error)>,
    /// Who was asked before the winner and had not answered by then.
    pub silent: Vec<usize>,
}

/// Asks these, in this order.
pub(super) async fn race<'a, T>(
    order: &[usize],
    ask: impl Fn(usize) -> BoxFuture<'a, Result<Option<T>, Error>>,
) -> Raced<T> {
    let mut raced = Raced {
        won: None,
        failed: Vec::new(),
        silent: Vec::new(),
    };
    let mut next = order.iter().copied();
    let mut asked = FuturesUnordered::new();
    loop {
        if let Some(cache) = next.next() {
            let answer = ask(cache);
            raced.silent.push(cache);
            asked.push(async move { (cache, answer.await) });
        } else if asked.is_empty() {
            return raced;
        }
        // Until somebody else is to be asked.
        loop {
            let hedge = async {
                match next.len() {
                    0 => std::future::pending().await,
                    _ => sleep(DOUBT).await,
                }
            };
            tokio::select! {
                biased;
                Some((cache, answer)) = asked.next() => {
                    raced.silent.retain(|it| *it != cache);
                    match answer {
                        Ok(Some(found)) => {
                            raced.won = Some((cache, found));
                            return raced;
                        }
                        Ok(None) => {}
                        Err(error) => raced.failed.push((cache, error)),
                    }
                    if next.len() > 0 || asked.is_empty() {
                        break;
                    }
                }
                () = hedge => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use snowcache_core::error::{Blame, Kind};
    use std::sync::Mutex;
    use std::time::Duration;
    use tokio::time::Instant;

    /// (after so many ms, what it says: Some(true) has it, Some(false) has it not, None fails)
    type Says = (u64, Option<bool>);

    async fn raced(caches: &[Says]) -> (Raced<usize>, Vec<(usize, u64)>, u64) {
        let (begin, asked) = (Instant::now(), Mutex::new(Vec::new()));
        let order: Vec<usize> = (0..caches.len()).collect();
        let since = || begin.elapsed().as_millis() as u64;
        let raced = race(&order, |cache| {
            asked.lock().expect("no poison").push((cache, since()));
            let (after_ms, says) = caches[cache];
            async move {
                sleep(Duration::from_millis(after_ms)).await;
                let gone = || Error::new(Kind::Unavailable, Blame::Upstream, "gone");
                says.map(|has_it| has_it.then_some(cache)).ok_or_else(gone)
            }
            .boxed()
        })
        .await;
        let took = since();
        (raced, asked.into_inner().expect("no poison"), took)
    }

    fn winner(raced: &Raced<usize>) -> Option<usize> {
        raced.won.as_ref().map(|(cache, _)| *cache)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_that_is_well_is_the_only_one_asked() {
        let (result, asked, _) = raced(&[(100, Some(true)), (0, Some(true))]).await;
        assert_eq!((winner(&result), asked.len()), (Some(0), 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_costs_a_moment_and_is_named() {
        let caches = [(60_000, Some(true)), (50, Some(true)), (0, Some(true))];
        let (result, asked, took) = raced(&caches).await;
        assert_eq!((winner(&result), took), (Some(1), 350));
        assert_eq!(asked, [(0, 0), (1, 300)]);
        assert_eq!(result.silent, [0]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_fails_or_has_it_not_costs_nothing() {
        let caches = [(5, None), (5, Some(false)), (5, Some(true))];
        let (result, asked, took) = raced(&caches).await;
        assert_eq!((winner(&result), took), (Some(2), 15));
        assert_eq!((asked.len(), result.failed.len()), (3, 1));
        assert!(result.silent.is_empty());
        // What the first had to say late still counts.
        let (result, _, took) = raced(&[(400, Some(true)), (50, Some(false))]).await;
        assert_eq!((winner(&result), took), (Some(0), 400));
        let (result, ..) = raced(&[(400, Some(false)), (50, None)]).await;
        assert_eq!((winner(&result), result.failed.len()), (None, 1));
        let (result, ..) = raced(&[]).await;
        assert_eq!(winner(&result), None);
    }
}
