//! Whether what one cache is slow to give could be had elsewhere: asked when it stalls, so that a
//! cache that is only slow, or is the only one that has something, is not given up for nothing.
//!
//! ```text
//!   work ----------- [`STALL`] without a byte --------- ...
//!                        \--> is it elsewhere?  yes: give up here     no: wait on
//! ```
//! Guarantees: nothing is given up here before somebody else has said that they have it. Never:
//! asked more than once for one wait.

use futures::future::BoxFuture;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A cache that is well sends a byte within some milliseconds, over a bad link within some 100.
/// With the question whether it is elsewhere, and the next request, it must stay below a second.
pub const STALL: Duration = Duration::from_millis(600);

/// Somebody else is asked: whether they have it, and answer.
#[derive(Clone)]
pub struct Elsewhere(Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>);

/// Somebody else has it.
#[derive(Debug)]
pub struct Stalled;

impl Elsewhere {
    /// By this question.
    pub fn new(asks: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static) -> Elsewhere {
        Elsewhere(Arc::new(asks))
    }

    /// Waits for some work; no longer than until somebody else turns out to have it.
    ///
    /// # Errors
    /// Then.
    pub async fn or<T>(
        of: Option<&Elsewhere>,
        work: impl Future<Output = T>,
    ) -> Result<T, Stalled> {
        let Some(Elsewhere(asks)) = of else {
            return Ok(work.await);
        };
        let mut work = pin!(work);
        let elsewhere = async {
            sleep(STALL).await;
            if !asks().await {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            done = &mut work => Ok(done),
            () = elsewhere => Err(Stalled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::time::Instant;

    fn answers(after_ms: u64, has_it: bool) -> Elsewhere {
        Elsewhere::new(move || {
            async move {
                sleep(Duration::from_millis(after_ms)).await;
                has_it
            }
            .boxed()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_stall_is_left_when_somebody_else_has_it_and_waited_out_when_not() {
        let slow = || sleep(Duration::from_secs(20));
        let begin = Instant::now();
        let left = Elsewhere::or(Some(&answers(50, true)), slow()).await;
        assert!(left.is_err());
        assert_eq!(begin.elapsed(), STALL + Duration::from_millis(50));
        for patient in [Some(answers(50, false)), Some(answers(30_000, true)), None] {
            assert!(Elsewhere::or(patient.as_ref(), slow()).await.is_ok());
        }
        let begin = Instant::now();
        let quick = sleep(STALL - Duration::from_millis(1));
        assert!(Elsewhere::or(Some(&answers(0, true)), quick).await.is_ok());
        assert!(begin.elapsed() < STALL);
    }
}
