//! Turns at the runtime: who asks for much waits in a line of its own, so that a burst of them does
//! not stand before those who ask for little.
//!
//! ```text
//!   a narinfo, a NAR, a probe                       --> served as its bytes come
//!   a new connection's first bytes, --> the line --TURNS a round--> served
//!   any other request
//! ```
//! The runtime serves what is ready in the order in which it became so. When thousands of nodes ask
//! for a plan at the same moment, a narinfo would be behind all of them; this way it is behind one
//! round. A round ends when the runtime has served what it had and looked for what is ready since.
//!
//! Guarantees: in order; at most [`TURNS`] are let in between two rounds. Nobody holds a turn while
//! waiting for a client, a disk or another thread. Whoever waits has a connection's place, so that
//! `http.max_connections` bounds the line. Never: refuses.

use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// Let in at a time: a plan that is there takes 0.1 ms with all that its connection does, so that a
/// narinfo waits for half a millisecond of them; a round takes 1 us by itself.
const TURNS: usize = 4;

/// Shared by all who wait.
#[derive(Clone)]
pub struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Turns {
        Turns(Arc::new(Semaphore::new(TURNS)))
    }
}

impl Turns {
    /// Waits for a turn. It is the next one's when the runtime has been round.
    pub async fn take(&self) {
        let turn = self.0.clone().acquire_owned().await;
        let turn = turn.expect("invariant: the semaphore is never closed");
        tokio::spawn(async move {
            yield_now().await;
            drop(turn);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const MANY: usize = 100;

    #[tokio::test]
    async fn a_burst_is_let_in_in_order_and_somebody_else_comes_between() {
        let (turns, order) = (Turns::default(), Arc::new(Mutex::new(Vec::new())));
        let served = Arc::new(AtomicUsize::new(0));
        let burst = (0..MANY).map(|number| {
            let (turns, order, served) = (turns.clone(), order.clone(), served.clone());
            tokio::spawn(async move {
                turns.take().await;
                order.lock().expect("no panic").push(number);
                served.fetch_add(1, Ordering::Relaxed);
            })
        });
        let burst: Vec<_> = burst.collect();
        let mut most = 0;
        while served.load(Ordering::Relaxed) < MANY {
            let before = served.load(Ordering::Relaxed);
            yield_now().await;
            most = most.max(served.load(Ordering::Relaxed) - before);
        }
        assert!(most <= TURNS, "{most} came between");
        for one in burst {
            one.await.expect("no panic");
        }
        let order = order.lock().expect("no panic");
        assert_eq!(*order, (0..MANY).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn who_goes_away_leaves_the_line_to_the_others() {
        let turns = Turns::default();
        let waits = (0..MANY).map(|_| {
            let turns = turns.clone();
            tokio::spawn(async move { turns.take().await })
        });
        let waits: Vec<_> = waits.collect();
        waits.iter().step_by(2).for_each(|wait| wait.abort());
        for wait in waits.into_iter().skip(1).step_by(2) {
            wait.await.expect("its turn came");
        }
        turns.take().await;
    }
}
