//! A prefetch that is handed to the agent of this node, and followed from here.
//!
//! Guarantees: the job is on the agent's disk before anything is shown of it; this command may end
//! at any moment, and the agent goes on. An agent that is restarted meanwhile is waited for.

use super::progress::{DRAW_INTERVAL, JSON_INTERVAL, Progress};
use super::{Line, Summary};
use crate::agent::ask::{Ask, AskError};
use crate::agent::jobs::{Job, State, Wish};
use crate::cli::{CacheArgs, PrefetchArgs};
use crate::command::print_json;
use crate::command::subject::Subject;
use crate::failure::Failure;
use crate::frame_spool::DEFAULT_BUDGET_BYTES;
use crate::node::Node;
use crate::rate::BytesPerSecond;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A restart of the agent takes a second; of a machine nobody follows it.
const AWAY_PATIENCE: Duration = Duration::from_secs(30);
/// What `--jobs` is when nobody says otherwise.
const DEFAULT_JOBS: u16 = 8;
/// What `--cache` is when nobody says otherwise.
const DEFAULT_CACHE: &str = "http://127.0.0.1:8420";

/// An agent that serves this node, and what it is told to ask.
pub(super) struct Agent {
    ask: Ask,
    caches: Vec<String>,
}

/// The agent that is to do it, if there is one and nothing is wanted that only happens here.
///
/// # Errors
/// When only an agent could do it, and there is none, until the deadline if there is one.
pub(super) async fn agent_for(node: &Node, args: &PrefetchArgs) -> Result<Option<Agent>, Failure> {
    let only_here = args.foreground
        || args.jobs != DEFAULT_JOBS
        || args.rate != BytesPerSecond::default()
        || args.spool != DEFAULT_BUDGET_BYTES
        || !args.trusted_public_keys.is_empty();
    if only_here {
        return Ok(None);
    }
    let ask = Ask::at(&args.agent.socket());
    let deadline = args
        .deadline
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut told = false;
    loop {
        let error = match ask.status().await {
            Ok(status) => {
                let serves_us =
                    status.state == node.folder() && status.store_socket == args.node.store_socket;
                let caches = status.caches;
                return Ok(serves_us.then_some(Agent { ask, caches }));
            }
            Err(error) => error,
        };
        match (deadline, &error) {
            // On a node that boots, whoever asks may be there before the agent.
            (Some(deadline), AskError::Away { .. }) if Instant::now() < deadline => {
                if !std::mem::replace(&mut told, true) && !args.quiet {
                    eprintln!("snowcache: waiting: {error}");
                }
                sleep(JSON_INTERVAL).await;
            }
            (Some(_), _) => return Err(error.into()),
            (None, _) if args.priority != 0 => return Err(error.into()),
            (None, _) => return Ok(None),
        }
    }
}

/// Hands it over, and waits until it is ready or given up.
pub(super) async fn over(
    agent: &Agent,
    cache: &CacheArgs,
    subjects: &[Subject],
    args: &PrefetchArgs,
) -> Result<(), Failure> {
    let named = cache.cache != DEFAULT_CACHE && !agent.caches.contains(&cache.cache);
    let from = match args.from.is_empty() && named {
        true => vec![cache.cache.clone()],
        false => args.from.clone(),
    };
    let wish = Wish {
        roots: subjects.iter().map(ToString::to_string).collect(),
        pin: args.pin.clone(),
        priority: args.priority,
        deadline_in_s: args.deadline,
        from,
    };
    let id = ask_for(&agent.ask, &wish).await?;
    let job = follow(&agent.ask, id, args).await?;
    let done = job.done.unwrap_or_default();
    let summary = Summary {
        ready: true,
        roots: job.roots,
        pin: job.pin,
        paths: done.paths,
        fetched: done.fetched,
        made: done.made,
        nar_size_bytes: done.nar_size_bytes,
        seconds: done.seconds,
    };
    summary.show(args)
}

/// The job of a wish; the same wish again is the same job.
async fn ask_for(agent: &Ask, wish: &Wish) -> Result<u64, Failure> {
    let begin = Instant::now();
    loop {
        match agent.wish(wish).await {
            Ok(shown) => return Ok(shown.job.id),
            Err(AskError::Away { .. }) if begin.elapsed() < AWAY_PATIENCE => {
                sleep(JSON_INTERVAL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn follow(agent: &Ask, id: u64, args: &PrefetchArgs) -> Result<Job, Failure> {
    let progress = Progress::new(Arc::default(), args.json, args.quiet);
    let (mut attempts, mut answered) = (0, Instant::now());
    let interval = match args.json {
        true => JSON_INTERVAL,
        false => DRAW_INTERVAL,
    };
    loop {
        let shown = match agent.job(id).await {
            Ok(Some(shown)) => shown,
            Ok(None) => return Err(Failure::failed("somebody wants it no more")),
            Err(AskError::Away { .. }) if answered.elapsed() < AWAY_PATIENCE => {
                sleep(interval).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        answered = Instant::now();
        let job = shown.job;
        let why = job.why.clone().unwrap_or_default();
        if job.attempts > attempts && job.state == State::Waiting {
            attempts = job.attempts;
            progress.clear();
            match (args.json, args.quiet) {
                (true, _) => print_json(&Line::Again { why: why.clone() })?,
                (false, true) => {}
                (false, false) => eprintln!("snowcache: trying again: {why}"),
            }
        }
        match job.state {
            State::Waiting => progress.draw(shown.progress),
            State::Ready | State::GivenUp => progress.clear(),
        }
        match job.state {
            State::Waiting => sleep(interval).await,
            State::Ready => return Ok(job),
            State::GivenUp => return Err(Failure::failed(why)),
        }
    }
}
