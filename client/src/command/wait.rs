//! `snowcache wait`: until a closure is ready on this node.
//!
//! Guarantees: ends with 0 only when the agent has just found the receipt good. What it waits for
//! is said once, and again when that changes.

use super::subject;
use crate::agent::ask::{Ask, AskError};
use crate::agent::jobs::State;
use crate::agent::status::Standing;
use crate::cli::WaitArgs;
use crate::failure::Failure;
use snowcache_nix::STORE_DIR;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between two looks, at first; then twice as long each time.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A look takes the agent some milliseconds, more for a large closure.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

pub(super) async fn run(args: &WaitArgs) -> Result<(), Failure> {
    let subject = subject::parse_whole(&args.root)?;
    let root = subject.to_string();
    let root = root.trim_start_matches(STORE_DIR).trim_start_matches('/');
    let agent = Ask::at(&args.agent.socket());
    let deadline = args
        .timeout
        .map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (mut wait, mut told) = (FIRST_WAIT, String::new());
    loop {
        let standing = agent.standing(root).await;
        let why = match &standing {
            Ok(standing) if standing.ready => return Ok(()),
            Ok(standing) => match why_not(standing) {
                Why::NotYet(why) => why,
                Why::Never(why) => return Err(Failure::failed(format!("{subject}: {why}"))),
            },
            Err(error) => error.to_string(),
        };
        if !args.quiet && told != why {
            eprintln!("snowcache: waiting for {subject}: {why}");
            told.clone_from(&why);
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(match standing {
                Err(error @ AskError::Away { .. }) => error.into(),
                _ => Failure::failed(format!("{subject} is not ready in time: {why}")),
            });
        }
        sleep(wait.min(left.unwrap_or(wait))).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

enum Why {
    NotYet(String),
    Never(String),
}

fn why_not(standing: &Standing) -> Why {
    let why = standing.why.clone().unwrap_or_default();
    match &standing.job {
        None => Why::NotYet(why),
        Some(shown) => match shown.job.state {
            State::GivenUp => Why::Never(shown.stands()),
            // It was, and is not any more: somebody may ask for it again.
            State::Ready => Why::NotYet(why),
            State::Waiting => Why::NotYet(match &shown.job.why {
                Some(why) => why.clone(),
                None => "it is being brought".to_owned(),
            }),
        },
    }
}
