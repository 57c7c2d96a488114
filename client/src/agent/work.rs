//! The work: one job after the other, the most urgent first, each as often as it takes.
//!
//! Guarantees: what fails is tried again after a wait that grows and is random, until the job's
//! time is over; then it is given up, with why. One with a higher priority breaks off what is
//! under way, which loses less than a MiB of each path that was on its way, and nothing else.
//! Everything that was held for an attempt is let go of when it ends; what came is kept by roots.
//! Never: two jobs at a time, which would share the node's disk and the budget.

use super::jobs::{Done, Job, JobsError, State, hash_of};
use super::{Agent, Running};
use crate::figures::Tally;
use crate::frame_spool::FrameSpool;
use crate::nix_conf;
use crate::prefetch::{Event, Prefetch, Ready};
use crate::preflight;
use crate::queue::notify;
use crate::queue::report::now_s;
use crate::remote::Remote;
use crate::sources::Sources;
use crate::store::Store;
use snowcache_core::error::Kind;
use snowcache_nix::StoreHash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often it is looked whether something more urgent may be tried again.
const LOOK: Duration = Duration::from_secs(1);

/// Why an attempt came to nothing.
struct Failed {
    /// It may pass by itself.
    passing: bool,
    /// Something was in none of the caches.
    absent: bool,
    why: String,
}

/// Works for ever.
///
/// # Errors
/// When the list of jobs cannot be written: nothing that is done could be remembered.
pub(super) async fn run(agent: &Arc<Agent>) -> Result<(), JobsError> {
    let mut changed = agent.changed.subscribe();
    loop {
        changed.borrow_and_update();
        let (next, wait) = {
            let held = agent.held();
            let now = agent.now();
            (held.jobs.next(now).cloned(), held.jobs.wait(now))
        };
        match next {
            Some(job) => attempt(agent, &job).await?,
            None => {
                let change = changed.changed();
                // Whether it is a change or the end of the wait, it is looked at anew.
                drop(timeout(wait.unwrap_or(Duration::MAX), change).await);
            }
        }
    }
}

async fn attempt(agent: &Arc<Agent>, job: &Job) -> Result<(), JobsError> {
    let begin = agent.now();
    agent.held().jobs.begun(job.id);
    notify::tell(&format!("STATUS=bringing {}", job.roots.join(" ")));
    let result = tokio::select! {
        result = bring(agent, job) => Some(result),
        () = overtaken(agent, job.id) => None,
        failed = overdue(job) => Some(Err(failed)),
    };
    agent.held().running = None;
    notify::tell("STATUS=waiting for something to do");
    let noted = match result {
        Some(Ok(ready)) => succeeded(agent, job, &ready, begin.elapsed()),
        Some(Err(failed)) => went_wrong(agent, job, failed),
        None => Ok(()),
    };
    agent.give_up_spool(&job.pin);
    noted
}

async fn bring(agent: &Arc<Agent>, job: &Job) -> Result<Ready, Failed> {
    let store = Store::at(agent.config.store_socket.clone());
    let tally = Arc::new(Tally::new(store.imported_bytes()));
    let running = Running {
        id: job.id,
        tally: tally.clone(),
    };
    agent.held().running = Some(running);
    let roots = job.roots.iter().map(|root| hash_of(root).parse());
    let roots: Vec<StoreHash> = roots
        .collect::<Result<_, _>>()
        .map_err(|error: snowcache_nix::Base32Error| Failed::for_good(error))?;
    let spool = FrameSpool::of(&agent.node, &job.pin, agent.config.fetch.spool_bytes);
    let sources = sources(agent, job, &spool)?;
    let on = |event: Event<'_>| {
        agent.counts.note(&event);
        tally.note(&event);
        match event {
            Event::Again { error } => eprintln!("snowcache: trying again: {error}"),
            Event::Careful { why } => eprintln!("snowcache: careful: {why}"),
            _ => {}
        }
    };
    let prefetch = Prefetch {
        sources: &sources,
        store: &store,
        node: &agent.node,
        spool: &spool,
        pin: &job.pin,
        jobs: usize::from(agent.config.fetch.jobs),
        on: &on,
    };
    let ready = prefetch.run(&roots).await;
    ready.map_err(|error| Failed {
        passing: error.kind() == Kind::Unavailable,
        absent: error.kind() == Kind::Missing,
        why: error.to_string(),
    })
}

fn sources(agent: &Agent, job: &Job, spool: &FrameSpool) -> Result<Sources, Failed> {
    let config = &agent.config;
    let urls = match job.from.is_empty() {
        true => &config.fetch.caches,
        false => &job.from,
    };
    let remotes = urls.iter().map(|url| config.connect(url));
    let remotes = remotes.map(|it| it.map(|it: Remote| it.at_rate(agent.rate.clone())));
    let remotes = remotes.map(|it| it.map(|it| it.spooled(spool.clone())));
    let remotes: Vec<Remote> = remotes
        .collect::<Result<_, _>>()
        .map_err(Failed::for_good)?;
    let keys = agent.trusted().map_err(Failed::for_good)?;
    nix_conf::check_trusted(&keys).map_err(Failed::for_good)?;
    Ok(Sources::new(remotes, keys))
}

impl Failed {
    fn for_good(why: impl ToString) -> Failed {
        Failed {
            passing: false,
            absent: false,
            why: why.to_string(),
        }
    }
}

fn succeeded(agent: &Agent, job: &Job, ready: &Ready, took: Duration) -> Result<(), JobsError> {
    agent.counts.ready.fetch_add(1, Ordering::Relaxed);
    agent.counts.last_ready_s.store(now_s(), Ordering::Relaxed);
    let roots: Vec<String> = ready.roots.iter().map(|root| root.absolute()).collect();
    eprintln!("snowcache: ready: {}", roots.join(" "));
    for careful in roots.iter().filter_map(|root| preflight::careful(root)) {
        eprintln!("snowcache: careful: {careful}");
    }
    let done = Done {
        paths: ready.closure.len(),
        fetched: ready.fetched,
        made: ready.made,
        nar_size_bytes: ready.nar_size_bytes,
        seconds: took.as_secs_f64(),
    };
    agent.change(job.id, |job| {
        job.done = Some(done);
        // As they are called: somebody may have asked by hash.
        job.roots = roots;
        (job.state, job.since_s, job.why) = (State::Ready, now_s(), None);
    })
}

fn went_wrong(agent: &Agent, job: &Job, failed: Failed) -> Result<(), JobsError> {
    agent.counts.failed_attempts.fetch_add(1, Ordering::Relaxed);
    let retry = &agent.config.retry;
    let (now, ends) = (now_s(), job.ends_s(failed.passing, retry.patience_s));
    let left_s = ends.map(|ends_s| ends_s.saturating_sub(now));
    if left_s == Some(0) {
        agent.counts.given_up.fetch_add(1, Ordering::Relaxed);
        eprintln!(
            "snowcache: given up: {}: {}",
            job.roots.join(" "),
            failed.why
        );
        return agent.change(job.id, |job| {
            job.attempts += 1;
            (job.state, job.since_s, job.why) = (State::GivenUp, now, Some(failed.why));
        });
    }
    let longest_s = longest_wait_s(job.attempts, retry.first_wait_s, retry.longest_wait_s);
    let longest = Duration::from_secs(longest_s.min(left_s.unwrap_or(u64::MAX)));
    let wait = longest.mul_f64(fraction());
    eprintln!(
        "snowcache: {}; again in {:.1} s",
        failed.why,
        wait.as_secs_f64()
    );
    let not_before = agent.now() + wait;
    agent.change(job.id, |job| {
        job.attempts += 1;
        job.why = Some(failed.why);
        job.not_before = Some(not_before);
        job.was_absent |= failed.absent;
    })
}

/// The first, and twice as long after each attempt.
pub(super) fn longest_wait_s(attempts: u32, first_s: u64, longest_s: u64) -> u64 {
    let factor = 1_u64.checked_shl(attempts).unwrap_or(u64::MAX);
    first_s.saturating_mul(factor).min(longest_s)
}

/// Anything from 0 to 1; without randomness the longest wait is a safe one.
pub(super) fn fraction() -> f64 {
    getrandom::u64().unwrap_or(u64::MAX) as f64 / u64::MAX as f64
}

/// Ends when the job is not wanted any more, or something more urgent can be done.
async fn overtaken(agent: &Agent, id: u64) {
    let mut changed = agent.changed.subscribe();
    loop {
        if agent.held().jobs.is_overtaken(id, agent.now()) {
            return;
        }
        drop(timeout(LOOK, changed.changed()).await);
    }
}

/// Ends with the job's time, if it has an end.
async fn overdue(job: &Job) -> Failed {
    match job.deadline_s {
        None => std::future::pending().await,
        Some(deadline_s) => {
            sleep(Duration::from_secs(deadline_s.saturating_sub(now_s()))).await;
            let before = job.why.as_ref().map(|why| format!("; before: {why}"));
            let before = before.unwrap_or_default();
            Failed {
                passing: true,
                absent: false,
                why: format!("its time was over while it was fetched{before}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_end() {
        let waits = [0, 1, 2, 5, 64, 1000].map(|attempts| longest_wait_s(attempts, 2, 60));
        assert_eq!(waits, [2, 4, 8, 60, 60, 60]);
    }
}
