//! Open loop: requests are due at a fixed rate whether or not answers come, as from a fleet that
//! does not know how busy the server is.
//!
//! Guarantees: latency is counted from when a request was due, so that a server that stalls is
//! charged for every request that had to wait (no coordinated omission). Requests that find no
//! free connection wait in a queue.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::ask::Ask;
use super::procs::{own_cpu_seconds, used};
use super::tally::{Fate, Tally};
use super::target::Target;
use super::wire::Wire;

/// Between two looks at what is due: a request is sent at most so much late. Finer steps would cost
/// the generator more than the requests.
const STEP: Duration = Duration::from_micros(100);

/// What is due when, over how many connections.
#[derive(Clone)]
pub struct Open {
    pub schedule: Schedule,
    pub connections: usize,
    pub pid: Option<u32>,
}

/// When each request is due, from the beginning.
#[derive(Clone)]
pub enum Schedule {
    /// So many each second, for so many seconds.
    Rate(f64, f64),
    /// Each at its own time, in order; the first request of the asks at the first.
    At(Arc<[Duration]>),
}

impl Schedule {
    fn count(&self) -> u64 {
        match self {
            Schedule::Rate(per_second, seconds) => (per_second * seconds) as u64,
            Schedule::At(times) => times.len() as u64,
        }
    }

    fn due(&self, number: u64) -> Duration {
        match self {
            Schedule::Rate(per_second, _) => Duration::from_secs_f64(number as f64 / per_second),
            Schedule::At(times) => times[number as usize],
        }
    }
}

struct Run {
    target: Target,
    asks: Arc<[Ask]>,
    queue: Mutex<Queue>,
    due: Notify,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Queue {
    /// The request's number and when it was due.
    waiting: VecDeque<(u64, Instant)>,
    closed: bool,
}

/// Asks as scheduled and waits for the last answer.
pub fn open(target: &Target, asks: &Arc<[Ask]>, plan: Open) -> io::Result<Tally> {
    assert!(!asks.is_empty(), "nothing to ask");
    super::block_on(async {
        let run = Arc::new(Run {
            target: target.clone(),
            asks: Arc::clone(asks),
            queue: Mutex::default(),
            due: Notify::new(),
            tally: Mutex::default(),
        });
        let mut tasks = Vec::new();
        for _ in 0..plan.connections {
            let wire = target.connect().await?;
            tasks.push(tokio::spawn(serve(Arc::clone(&run), Some(wire))));
        }
        let (own_before, before) = (own_cpu_seconds(), plan.pid.and_then(used));
        let begin = Instant::now();
        let (paced, schedule) = (Arc::clone(&run), plan.schedule.clone());
        let pacer = thread::spawn(move || pace(&paced, &schedule, begin));
        for task in tasks {
            task.await.expect("a connection's task");
        }
        pacer.join().expect("the pacer");
        let mut tally = run.tally.lock().expect("no poison").clone();
        tally.seconds = begin.elapsed().as_secs_f64();
        tally.own_cpu_seconds = own_cpu_seconds() - own_before;
        tally.server = before
            .zip(plan.pid.and_then(used))
            .map(|(a, b)| b.since(&a));
        Ok(tally)
    })
}

/// Puts what is due into the queue, until the end; on a thread of its own, which only sleeps.
fn pace(run: &Run, schedule: &Schedule, begin: Instant) {
    let (all, mut sent) = (schedule.count(), 0);
    while sent < all {
        thread::sleep(STEP);
        let (before, now) = (sent, begin.elapsed());
        let mut queue = run.queue.lock().expect("no poison");
        while sent < all && schedule.due(sent) <= now {
            queue.waiting.push_back((sent, begin + schedule.due(sent)));
            sent += 1;
        }
        drop(queue);
        (before..sent).for_each(|_| run.due.notify_one());
    }
    run.queue.lock().expect("no poison").closed = true;
    run.due.notify_waiters();
}

async fn serve(run: Arc<Run>, mut wire: Option<Wire>) {
    while let Some((number, due)) = run.next().await {
        let ask = &run.asks[(number % run.asks.len() as u64) as usize];
        let outcome = match wire.as_mut() {
            Some(wire) => ask.over(wire).await,
            None => match run.target.connect().await {
                Ok(new) => ask.over(wire.insert(new)).await,
                Err(error) => Err(error),
            },
        };
        let nanoseconds = due.elapsed().as_nanos() as u64;
        let mut tally = run.tally.lock().expect("no poison");
        if tally.count(&ask.what, outcome, nanoseconds) != Fate::Keep {
            wire = None;
        }
    }
}

impl Run {
    async fn next(&self) -> Option<(u64, Instant)> {
        loop {
            let notified = self.due.notified();
            {
                let mut queue = self.queue.lock().expect("no poison");
                if let Some(next) = queue.waiting.pop_front() {
                    return Some(next);
                }
                if queue.closed {
                    return None;
                }
            }
            notified.await;
        }
    }
}
