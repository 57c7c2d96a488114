//! The depot blocks; the server does not. Blocking calls run on threads of their own, a bounded
//! number at a time.
//!
//! Guarantees: at most `max_at_once` calls of one pool run at once; further ones wait in order.
//! Never: a thread held while a client is slow to take what was read.

use crate::http::errors::Refusal;
use axum::http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A pool of places for blocking work.
#[derive(Debug, Clone)]
pub struct Workers {
    places: Arc<Semaphore>,
    max_at_once: usize,
}

impl Workers {
    /// A pool of `max_at_once` places.
    pub fn new(max_at_once: usize) -> Workers {
        Workers {
            places: Arc::new(Semaphore::new(max_at_once)),
            max_at_once,
        }
    }

    /// How many places there are.
    pub fn places(&self) -> usize {
        self.max_at_once
    }

    /// How many of them are taken.
    pub fn busy(&self) -> usize {
        self.max_at_once
            .saturating_sub(self.places.available_permits())
    }

    /// Waits for a place, however long: the wait is bounded by the calls before it.
    pub async fn place(&self) -> OwnedSemaphorePermit {
        let place = self.places.clone().acquire_owned().await;
        place.expect("invariant: the semaphore is never closed")
    }

    /// Waits at most `wait` for a place.
    ///
    /// # Errors
    /// 503 with `Retry-After`, upon which a nix waits and comes again.
    pub async fn place_within(&self, wait: Duration) -> Result<OwnedSemaphorePermit, Refusal> {
        tokio::time::timeout(wait, self.place()).await.map_err(|_| {
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many uploads at once; try again in a while",
            )
            .retry()
        })
    }

    /// Runs `work` in a place of this pool.
    ///
    /// # Errors
    /// What `work` says, or 500 if it panicked.
    pub async fn run<T, E>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, Refusal>
    where
        T: Send + 'static,
        E: Into<Refusal> + Send + 'static,
    {
        let place = self.place().await;
        in_place(place, work).await
    }
}

/// Runs `work` on a thread for blocking calls, giving up `place` when it ends - not when the caller
/// stops waiting.
pub async fn in_place<T, E>(
    place: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal>
where
    T: Send + 'static,
    E: Into<Refusal> + Send + 'static,
{
    let span = tracing::Span::current();
    let work = move || {
        let _in_span = span.entered();
        let result = work();
        drop(place);
        result
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => {
            tracing::error!(%error, "a blocking call panicked");
            Err(Refusal::internal())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn no_more_than_the_allowed_number_run_at_once() {
        let workers = Workers::new(2);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..8).map(|_| {
            let (running, most) = (running.clone(), most.clone());
            workers.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                running.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, Refusal>(())
            })
        });
        for result in futures::future::join_all(tasks).await {
            result.expect("ran");
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_full_pool_answers_503_after_the_wait() {
        let workers = Workers::new(1);
        let _held = workers.place().await;
        let refused = workers
            .place_within(Duration::from_millis(10))
            .await
            .expect_err("full");
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_frees_its_place() {
        let workers = Workers::new(1);
        let refused = workers
            .run(|| -> Result<(), Refusal> { panic!("in a test") })
            .await;
        assert_eq!(
            refused.expect_err("panicked").status(),
            StatusCode::INTERNAL_SERVER_ERROR
        );
        workers
            .run(|| Ok::<_, Refusal>(()))
            .await
            .expect("the place is free");
    }
}
