//! Events of caches: a pin that moves is looked at, and a job whose root was in no cache is tried
//! again when the root comes, at once rather than when its wait is over.
//!
//! ```text
//!   pins followed in a cache, roots that are absent --> one stream of it: GET api/v1/events
//!   pin-moved  --> follow looks at it          path-ready --> the job is tried again
//!   another pin or root, the stream ends --> asked anew; what has happened since is told at once
//! ```
//! Guarantees: nothing depends on it: whoever is not told looks by interval, as ever. A cache is
//! asked again after a random wait that grows from [`FIRST_WAIT_S`] to [`LONGEST_WAIT_S`] while its
//! streams end early, and every [`UNKNOWN`] where it tells nothing. Never: said twice of a cache
//! that something is wrong with it (its pins and narinfos say so already).

use super::Agent;
use super::config::Follow;
use super::jobs::{Job, State, hash_of};
use super::work::{fraction, longest_wait_s};
use crate::remote::{Told, Wanted};
use futures::future::join_all;
use snowcache_core::events::MAX_WANTED;
use snowcache_nix::StoreHash;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep};

/// After a stream that ended, or was refused.
const FIRST_WAIT_S: u64 = 1;
/// The longest, when it happens again and again.
const LONGEST_WAIT_S: u64 = 60;
/// A stream that lasted so long was a good one: the next wait is the first again.
const STEADY: Duration = Duration::from_secs(60);
/// A cache that has no events may be a server that is upgraded one day.
const UNKNOWN: Duration = Duration::from_secs(600);
/// What is wanted may change several times in a row; asked is then.
const SETTLED: Duration = Duration::from_millis(200);

/// How a stream ended.
enum Ended {
    /// The cache has no events.
    Unknown,
    /// In whatever way.
    Early,
    /// Something else is wanted now.
    Outdated,
}

/// Listens to all caches, for ever; `moved` has one for each that is followed.
pub(super) async fn all(agent: &Agent, moved: &[Notify]) {
    let config = &agent.config;
    let followed = config.follow.iter().map(|it| it.cache.as_str());
    let ours = config.fetch.caches.iter().map(String::as_str);
    let caches: BTreeSet<&str> = followed.chain(ours).collect();
    join_all(caches.into_iter().map(|cache| one(agent, cache, moved))).await;
}

async fn one(agent: &Agent, cache: &str, moved: &[Notify]) {
    let mut changed = agent.changed.subscribe();
    let mut failures = 0;
    loop {
        changed.borrow_and_update();
        let wanted = wanted(agent, cache);
        if wanted == Wanted::default() {
            changed.changed().await.ok();
            continue;
        }
        let begin = Instant::now();
        let ended = tokio::select! {
            ended = hear(agent, cache, &wanted, moved) => ended,
            () = outdated(agent, cache, &wanted, &mut changed) => Ended::Outdated,
        };
        if begin.elapsed() >= STEADY {
            failures = 0;
        }
        let wait = match ended {
            Ended::Outdated => SETTLED,
            Ended::Unknown => UNKNOWN.mul_f64(0.5 + fraction()),
            Ended::Early => {
                let longest_s = longest_wait_s(failures, FIRST_WAIT_S, LONGEST_WAIT_S);
                failures += 1;
                Duration::from_secs(longest_s).mul_f64(0.5 + fraction() / 2.0)
            }
        };
        sleep(wait).await;
    }
}

/// What is to be told of this cache; what is too much for one stream is looked at by interval.
fn wanted(agent: &Agent, cache: &str) -> Wanted {
    let pins = agent.config.follow.iter().filter(|it| it.cache == cache);
    let pins: BTreeSet<String> = pins.map(|it| it.pin.clone()).take(MAX_WANTED).collect();
    let held = agent.held();
    let absent = held
        .jobs
        .all()
        .filter(|job| job.state == State::Waiting && job.was_absent && asks(agent, job, cache));
    let roots = absent.flat_map(|job| &job.roots);
    let roots = roots.filter_map(|root| hash_of(root).parse().ok());
    let paths: BTreeSet<StoreHash> = roots.take(MAX_WANTED - pins.len()).collect();
    Wanted { pins, paths }
}

/// Whether the job's roots are asked for in this cache.
fn asks(agent: &Agent, job: &Job, cache: &str) -> bool {
    let caches = match job.from.is_empty() {
        true => &agent.config.fetch.caches,
        false => &job.from,
    };
    caches.iter().any(|it| it == cache)
}

async fn outdated(agent: &Agent, cache: &str, before: &Wanted, changed: &mut watch::Receiver<u64>) {
    while wanted(agent, cache) == *before {
        changed.changed().await.ok();
    }
}

async fn hear(agent: &Agent, cache: &str, wanted: &Wanted, moved: &[Notify]) -> Ended {
    let Ok(remote) = agent.config.connect(cache) else {
        return Ended::Early;
    };
    let mut listening = match remote.listen(wanted).await {
        Ok(Some(listening)) => listening,
        Ok(None) => return Ended::Unknown,
        Err(_) => return Ended::Early,
    };
    let _counted = Counted::new(agent);
    while let Ok(Some(told)) = listening.next().await {
        match told {
            Told::Moved { name, generation } => {
                let follow = agent.config.follow.iter().zip(moved);
                let follow = follow.filter(|(it, _)| it.cache == cache && it.pin == name);
                let unknown = follow.filter(|(it, _)| !is_known(agent, it, generation));
                unknown.for_each(|(_, moved)| moved.notify_one());
            }
            Told::Ready(paths) => {
                let came = |job: &Job| asks(agent, job, cache) && has_any(job, &paths);
                agent.held().jobs.came(came);
                agent.tell_change();
            }
        }
    }
    Ended::Early
}

fn is_known(agent: &Agent, follow: &Follow, generation: u64) -> bool {
    let held = agent.held();
    let known = held.followed.get(&follow.name);
    known.is_some_and(|it| it.generation == Some(generation))
}

fn has_any(job: &Job, paths: &[StoreHash]) -> bool {
    paths.iter().any(|path| job.has_root(&path.to_string()))
}

/// A stream, as long as it lasts.
struct Counted<'a>(&'a Agent);

impl<'a> Counted<'a> {
    fn new(agent: &'a Agent) -> Counted<'a> {
        agent.counts.listening.fetch_add(1, Ordering::Relaxed);
        Counted(agent)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.counts.listening.fetch_sub(1, Ordering::Relaxed);
    }
}
