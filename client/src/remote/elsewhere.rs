//! Whether what one cache is slow to give could be had elsewhere: asked when it stalls, so that a
//! cache that is only slow, or is the only one that has something, is not given up for nothing.
//!
//! ```text
//!   work --- [`DOUBT`] without a byte ------ [`STALL`] ------- ...
//!               \--> is it elsewhere? -- yes: give up here     no: wait on
//! ```
//! Guarantees: nothing is given up here before somebody else has said that they have it, and not
//! before [`STALL`]. Never: asked more than once for one wait.

use futures::future::BoxFuture;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// What a cache may be silent before somebody else is asked, too. Far caches take 100 to 200 ms for
/// a round trip, new connections three of them; a question more is all that it costs.
pub const DOUBT: Duration = Duration::from_millis(300);

/// A cache that is well sends a byte within some milliseconds, over a bad link within some 100; the
/// kernel sends again what was lost after 200 and 600.
pub const STALL: Duration = Duration::from_millis(600);

/// Somebody else.
#[derive(Clone)]
pub struct Elsewhere {
    has_it: Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>,
    left: Arc<dyn Fn() + Send + Sync>,
}

/// Somebody else has it.
#[derive(Debug)]
pub struct Stalled;

impl Elsewhere {
    /// Who is asked whether they have it, and answer; `left` is told when that is why something was
    /// given up.
    pub fn new(
        has_it: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static,
        left: impl Fn() + Send + Sync + 'static,
    ) -> Elsewhere {
        Elsewhere {
            has_it: Arc::new(has_it),
            left: Arc::new(left),
        }
    }

    /// Waits for some work; no longer than until somebody else turns out to have it.
    ///
    /// # Errors
    /// Then.
    pub async fn or<T>(
        of: Option<&Elsewhere>,
        work: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let Some(other) = of else {
            return Ok(work.await);
        };
        let mut work = pin!(work);
        let elsewhere = async {
            let stalled = sleep(STALL);
            sleep(DOUBT).await;
            if !(other.has_it)().await {
                std::future::pending::<()>().await;
            }
            stalled.await;
        };
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            () = elsewhere => {
                (other.left)();
                Err(Stalled)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use std::sync::atomic::{AtomicU32, Ordering};
    use tokio::time::Instant;

    /// Somebody who answers so, and how often something was left for them.
    fn answers(after_ms: u64, has_it: bool) -> (Elsewhere, Arc<AtomicU32>) {
        let left: Arc<AtomicU32> = Arc::default();
        let count = left.clone();
        let other = Elsewhere::new(
            move || {
                async move {
                    sleep(Duration::from_millis(after_ms)).await;
                    has_it
                }
                .boxed()
            },
            move || {
                count.fetch_add(1, Ordering::Relaxed);
            },
        );
        (other, left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_left_when_somebody_else_has_it_and_waited_out_when_not() {
        let slow = || sleep(Duration::from_secs(20));
        for (after_ms, took) in [
            (50, STALL),
            (300, STALL),
            (400, DOUBT + Duration::from_millis(400)),
        ] {
            let (other, left) = answers(after_ms, true);
            let begin = Instant::now();
            assert!(Elsewhere::or(Some(&other), slow()).await.is_err());
            assert_eq!(begin.elapsed(), took);
            assert_eq!(left.load(Ordering::Relaxed), 1);
        }
        for (after_ms, has_it) in [(50, false), (30_000, true)] {
            let (other, left) = answers(after_ms, has_it);
            assert!(Elsewhere::or(Some(&other), slow()).await.is_ok());
            assert_eq!(left.load(Ordering::Relaxed), 0);
        }
        assert!(Elsewhere::or(None, slow()).await.is_ok());
        let begin = Instant::now();
        let quick = sleep(STALL - Duration::from_millis(1));
        let (other, left) = answers(0, true);
        assert!(Elsewhere::or(Some(&other), quick).await.is_ok());
        assert!(begin.elapsed() < STALL);
        assert_eq!(left.load(Ordering::Relaxed), 0);
    }
}
