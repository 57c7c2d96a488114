//! Closures fetched as clients do it: nix-cache-info, then narinfos breadth first, each as soon as
//! something is known to refer to it, and the NARs; over a pool of connections for each client.
//!
//! Guarantees: every narinfo is parsed and must be about the path that was asked for; every NAR has
//! the length that its narinfo says. Never: unpacks or hashes (`verify` does).

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Notify;

use super::ask::{Ask, Expect, Verdict};
use super::catalog::{Item, get};
use super::procs::{own_cpu_seconds, used};
use super::tally::{Fate, Tally};
use super::target::Target;
use super::wire::Wire;

/// Who fetches what.
#[derive(Clone)]
pub struct Walk {
    pub clients: usize,
    /// Closures that each client fetches, one after the other.
    pub closures_each: usize,
    /// Connections of a client: nix opens up to 25.
    pub connections: usize,
    /// Hash parts; clients take them in turn.
    pub roots: Vec<String>,
    pub pid: Option<u32>,
}

/// What came of it.
pub struct Walked {
    /// Of all requests.
    pub tally: Tally,
    /// How long each closure took, in seconds.
    pub closures: Vec<f64>,
}

/// One client's closure.
struct Client {
    target: Target,
    work: Mutex<Work>,
    more: Notify,
    tally: Arc<Mutex<Tally>>,
}

#[derive(Default)]
struct Work {
    narinfos: VecDeque<String>,
    nars: VecDeque<Item>,
    seen: BTreeSet<String>,
    under_way: usize,
}

enum Job {
    Narinfo(String),
    Nar(Item),
}

/// All clients at once.
pub fn walk(target: &Target, plan: &Walk) -> Walked {
    let tally: Arc<Mutex<Tally>> = Arc::default();
    let (own_before, before) = (own_cpu_seconds(), plan.pid.and_then(used));
    let begin = Instant::now();
    let closures = super::block_on(async {
        let clients: Vec<_> = (0..plan.clients)
            .map(|number| tokio::spawn(client(target.clone(), plan.clone(), number, tally.clone())))
            .collect();
        let mut closures = Vec::new();
        for client in clients {
            closures.extend(client.await.expect("a client's task"));
        }
        closures
    });
    let mut tally = tally.lock().expect("no poison").clone();
    tally.seconds = begin.elapsed().as_secs_f64();
    tally.own_cpu_seconds = own_cpu_seconds() - own_before;
    tally.server = before
        .zip(plan.pid.and_then(used))
        .map(|(a, b)| b.since(&a));
    Walked { tally, closures }
}

async fn client(target: Target, plan: Walk, number: usize, tally: Arc<Mutex<Tally>>) -> Vec<f64> {
    let mut closures = Vec::new();
    for turn in 0..plan.closures_each {
        let root = &plan.roots[(number + turn) % plan.roots.len()];
        let begin = Instant::now();
        let outcome = closure(&target, root, plan.connections, &tally).await;
        match outcome {
            Ok(()) => closures.push(begin.elapsed().as_secs_f64()),
            Err(error) => tally
                .lock()
                .expect("no poison")
                .broken(format!("{root}: {error}")),
        }
    }
    closures
}

async fn closure(
    target: &Target,
    root: &str,
    connections: usize,
    tally: &Arc<Mutex<Tally>>,
) -> io::Result<()> {
    let mut wire = target.connect().await?;
    let (status, _) = get(target, &mut wire, "nix-cache-info").await?;
    if status != 200 {
        return Err(io::Error::other(format!("nix-cache-info: {status}")));
    }
    let client = Arc::new(Client {
        target: target.clone(),
        work: Mutex::new(Work {
            narinfos: VecDeque::from([root.to_owned()]),
            seen: BTreeSet::from([root.to_owned()]),
            ..Work::default()
        }),
        more: Notify::new(),
        tally: Arc::clone(tally),
    });
    let mut wires = vec![Some(wire)];
    wires.resize_with(connections, || None);
    let workers = wires
        .into_iter()
        .map(|wire| tokio::spawn(Arc::clone(&client).serve(wire)));
    for worker in workers.collect::<Vec<_>>() {
        worker.await.expect("a connection's task");
    }
    Ok(())
}

impl Client {
    async fn serve(self: Arc<Client>, mut wire: Option<Wire>) {
        while let Some(job) = self.next().await {
            let (ask, mut narinfo) = match &job {
                Job::Narinfo(hash) => {
                    let path = format!("{hash}.narinfo");
                    (
                        Ask::get(&self.target, &path, Expect::status(200)),
                        Some(Vec::new()),
                    )
                }
                Job::Nar(item) => {
                    let expect = Expect::length(item.body_bytes());
                    (Ask::get(&self.target, &item.url, expect), None)
                }
            };
            let begin = Instant::now();
            let outcome = async {
                if wire.is_none() {
                    wire = Some(self.target.connect().await?);
                }
                let wire = wire.as_mut().expect("invariant: just made");
                ask.keeping(wire, narinfo.as_mut()).await
            };
            let outcome = outcome.await;
            let nanoseconds = begin.elapsed().as_nanos() as u64;
            let right = matches!(outcome, Ok((Verdict::Right(_), _)));
            let fate = self
                .tally
                .lock()
                .expect("no poison")
                .count(&ask.what, outcome, nanoseconds);
            if fate != Fate::Keep {
                wire = None;
            }
            let found = narinfo
                .filter(|_| right)
                .map(|narinfo| Item::parse(&narinfo));
            self.done(&job, found);
        }
    }

    /// The next job, or nothing when all is done.
    async fn next(&self) -> Option<Job> {
        loop {
            let more = self.more.notified();
            {
                let mut work = self.work.lock().expect("no poison");
                let job = work.narinfos.pop_front().map(Job::Narinfo);
                let job = job.or_else(|| work.nars.pop_front().map(Job::Nar));
                if job.is_some() {
                    work.under_way += 1;
                    return job;
                }
                if work.under_way == 0 {
                    self.more.notify_waiters();
                    return None;
                }
            }
            more.await;
        }
    }

    fn done(&self, job: &Job, found: Option<Result<Item, String>>) {
        let mut work = self.work.lock().expect("no poison");
        work.under_way -= 1;
        match (job, found) {
            (Job::Narinfo(hash), Some(Ok(item))) if item.hash == *hash => {
                for reference in &item.references {
                    if work.seen.insert(reference.clone()) {
                        work.narinfos.push_back(reference.clone());
                    }
                }
                work.nars.push_back(item);
            }
            (Job::Narinfo(hash), Some(found)) => {
                let why = found.map_or_else(|why| why, |item| format!("is about {}", item.hash));
                let complaint = format!("{hash}.narinfo: {why}");
                self.tally.lock().expect("no poison").wrong(complaint);
            }
            _ => {}
        }
        drop(work);
        self.more.notify_waiters();
    }
}
