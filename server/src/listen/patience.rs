//! How long a connection waits for a request's head: hyper asks for a timer for each request, and a
//! connection has one alarm for all of them.
//!
//! ```text
//!   request 1 waits until 10 s    alarm set to 10 s
//!   request 2 waits until 12 s    the alarm stays: it is not later than that
//!   10 s: woken early             alarm set to 14 s, where the wait of request 9 ends
//! ```
//! Setting and unsetting an alarm takes a lock of the runtime's and a walk in its wheel; a client
//! that asks all the time has it set once in the length of a wait. Guarantees: no wait ends before
//! its time, or later than the runtime's timers do. Never: more than one wait of
//! a connection at once.

use hyper::rt::{Sleep, Timer};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// The timer of one connection.
#[derive(Clone)]
pub struct Patience(Arc<Alarm>);

type Alarm = Mutex<Pin<Box<tokio::time::Sleep>>>;

/// A wait for one head.
struct Wait {
    alarm: Arc<Alarm>,
    until: Instant,
}

impl Patience {
    /// For a connection whose waits have this length.
    pub fn new(usual: Duration) -> Patience {
        Patience(Arc::new(Mutex::new(Box::pin(tokio::time::sleep(usual)))))
    }
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, until: Instant) -> Pin<Box<dyn Sleep>> {
        let alarm = self.0.clone();
        Box::pin(Wait { alarm, until })
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, until: Instant) {
        match sleep.as_mut().downcast_mut_pin::<Wait>() {
            Some(wait) => wait.get_mut().until = until,
            None => *sleep = self.sleep_until(until),
        }
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

impl Sleep for Wait {}

impl Wait {
    fn alarm(&self) -> MutexGuard<'_, Pin<Box<tokio::time::Sleep>>> {
        // An alarm that a panic left behind is whole.
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Future for Wait {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until.into();
        let mut alarm = self.alarm();
        if alarm.deadline() > until {
            alarm.as_mut().reset(until);
        }
        while alarm.as_mut().poll(cx).is_ready() {
            if alarm.deadline() >= until {
                return Poll::Ready(());
            }
            alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn no_wait_ends_before_its_time_and_each_ends() {
        let patience = Patience::new(WAIT);
        for _ in 0..4 {
            let mut answered = patience.sleep(WAIT);
            let early = tokio::time::timeout(WAIT / 3, &mut answered).await;
            assert!(early.is_err(), "it was not waited for");
        }
        for wait in [WAIT, WAIT / 6, WAIT] {
            let began = Instant::now();
            patience.sleep(wait).await;
            assert!(
                began.elapsed() >= wait,
                "after earlier, longer and shorter ones"
            );
        }
    }

    #[tokio::test]
    async fn a_wait_may_be_moved() {
        let patience = Patience::new(WAIT);
        let mut wait = patience.sleep(WAIT);
        assert!(tokio::time::timeout(WAIT / 2, &mut wait).await.is_err());
        let until = patience.now() + WAIT;
        patience.reset(&mut wait, until);
        wait.await;
        assert!(patience.now() >= until);
    }
}
