//! Closed loop: each connection asks again as soon as it has its answer.
//!
//! Time and CPU are counted from when all connections stand to when the last answer is there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::ask::Ask;
use super::procs::{Used, own_cpu_seconds, used};
use super::tally::{Fate, Tally};
use super::target::Target;
use super::wire::Wire;

/// Between a broken connection and the next attempt, so that a dead server is not a busy loop.
const AFTER_A_BREAK: Duration = Duration::from_millis(5);

/// How long, over how many connections.
#[derive(Clone, Copy)]
pub struct Closed {
    pub connections: usize,
    pub until: Until,
    /// Threads of the generator.
    pub threads: usize,
    /// The server's process, to be measured meanwhile.
    pub pid: Option<u32>,
}

#[derive(Clone, Copy)]
pub enum Until {
    /// So many seconds have passed.
    Seconds(f64),
    /// So many requests were made.
    Requests(u64),
}

impl Closed {
    pub fn seconds(connections: usize, seconds: f64, pid: Option<u32>) -> Closed {
        Closed {
            connections,
            until: Until::Seconds(seconds),
            threads: 1,
            pid,
        }
    }

    /// Everything once.
    pub fn once(connections: usize, asks: &[Ask], pid: Option<u32>) -> Closed {
        Closed {
            connections: connections.min(asks.len()).max(1),
            until: Until::Requests(asks.len() as u64),
            threads: 1,
            pid,
        }
    }
}

/// What the connections of a run share.
struct Run {
    target: Target,
    asks: Arc<[Ask]>,
    next: AtomicU64,
    plan: Closed,
    connected: Barrier,
    begin: OnceLock<Begin>,
    tally: Mutex<Tally>,
}

struct Begin {
    at: Instant,
    own_cpu_seconds: f64,
    server: Option<Used>,
}

/// Asks, from the first of `asks` to the last and again, each connection the next one.
pub fn closed(target: &Target, asks: &Arc<[Ask]>, plan: Closed) -> Tally {
    assert!(!asks.is_empty(), "nothing to ask");
    let run = Arc::new(Run {
        target: target.clone(),
        asks: Arc::clone(asks),
        next: AtomicU64::new(0),
        plan,
        connected: Barrier::new(plan.threads),
        begin: OnceLock::new(),
        tally: Mutex::default(),
    });
    thread::scope(|scope| {
        for number in 0..plan.threads {
            let run = &run;
            scope.spawn(move || one_thread(run, number));
        }
    });
    let begin = run.begin.get().expect("invariant: every thread sets it");
    let mut tally = run.tally.lock().expect("no poison").clone();
    tally.seconds = begin.at.elapsed().as_secs_f64();
    tally.own_cpu_seconds = own_cpu_seconds() - begin.own_cpu_seconds;
    tally.server = begin
        .server
        .zip(plan.pid.and_then(used))
        .map(|(a, b)| b.since(&a));
    tally
}

fn one_thread(run: &Arc<Run>, number: usize) {
    let (all, threads) = (run.plan.connections, run.plan.threads);
    let connections = all / threads + usize::from(number < all % threads);
    super::block_on(async {
        let connecting: Vec<_> = (0..connections)
            .map(|_| {
                let target = run.target.clone();
                tokio::spawn(async move { target.connect().await.ok() })
            })
            .collect();
        let mut wires = Vec::new();
        for wire in connecting {
            wires.push(wire.await.expect("a connection's task"));
        }
        run.connected.wait();
        run.begin.get_or_init(|| Begin {
            at: Instant::now(),
            own_cpu_seconds: own_cpu_seconds(),
            server: run.plan.pid.and_then(used),
        });
        let tasks: Vec<_> = wires
            .into_iter()
            .map(|wire| tokio::spawn(again_and_again(Arc::clone(run), wire)))
            .collect();
        for task in tasks {
            task.await.expect("a connection's task");
        }
    });
}

async fn again_and_again(run: Arc<Run>, mut wire: Option<Wire>) {
    while let Some(ask) = run.next() {
        let begin = Instant::now();
        let outcome = match wire.as_mut() {
            Some(wire) => ask.over(wire).await,
            None => match run.target.connect().await {
                Ok(new) => ask.over(wire.insert(new)).await,
                Err(error) => Err(error),
            },
        };
        let nanoseconds = begin.elapsed().as_nanos() as u64;
        let fate = run
            .tally
            .lock()
            .expect("no poison")
            .count(&ask.what, outcome, nanoseconds);
        match fate {
            Fate::Keep => {}
            Fate::Close => wire = None,
            Fate::Broken => {
                wire = None;
                tokio::time::sleep(AFTER_A_BREAK).await;
            }
        }
    }
}

impl Run {
    fn next(&self) -> Option<&Ask> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let goes_on = match self.plan.until {
            Until::Requests(all) => number < all,
            Until::Seconds(seconds) => {
                let begin = self.begin.get().expect("invariant: set before the first");
                begin.at.elapsed().as_secs_f64() < seconds
            }
        };
        goes_on.then(|| &self.asks[(number % self.asks.len() as u64) as usize])
    }
}
