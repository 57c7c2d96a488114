//! Pins of caches, followed: what they point to is wanted here.
//!
//! Guarantees: a pin that moves is noticed within one and a half of its interval while its cache
//! answers, and within [`SPREAD`] and a round trip where it tells of events (see `listen`); what it
//! pointed to before is wanted no more, unless it is ready. Looks of many nodes drift apart: each
//! wait is random. Never: anything let go of because a cache does not answer, or says that there is
//! no such pin.

use super::config::Follow;
use super::jobs::{State, Wish, hash_of};
use super::listen;
use super::work::fraction;
use super::{Agent, Followed};
use crate::queue::report::now_s;
use crate::remote::Pin;
use futures::future::{join, join_all};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Of a move all nodes hear at once; they look within this.
const SPREAD: Duration = Duration::from_millis(250);

/// Follows all of them, for ever.
pub(super) async fn all(agent: &Arc<Agent>) -> Infallible {
    let follow = &agent.config.follow;
    let moved: Vec<Notify> = follow.iter().map(|_| Notify::new()).collect();
    let each = follow.iter().zip(&moved);
    let each = each.map(|(it, moved)| one(agent, it, moved));
    join(join_all(each), listen::all(agent, &moved)).await;
    std::future::pending().await
}

async fn one(agent: &Agent, follow: &Follow, moved: &Notify) {
    loop {
        let looked = look(agent, follow).await;
        let why = looked.as_ref().err().cloned();
        {
            let mut held = agent.held();
            let known = held.followed.entry(follow.name.clone()).or_default();
            if let Some(why) = &why
                && known.why.as_ref() != Some(why)
            {
                eprintln!("snowcache: following {}: {why}", follow.pin);
            }
            *known = Followed {
                generation: looked.ok().or(known.generation),
                looked_s: now_s(),
                why,
            };
        }
        let interval = Duration::from_secs(follow.interval_s);
        tokio::select! {
            () = sleep(interval.mul_f64(0.5 + fraction())) => {},
            () = moved.notified() => sleep(SPREAD.mul_f64(fraction())).await,
        }
    }
}

/// Looks where it points to: the number of its generation.
async fn look(agent: &Agent, follow: &Follow) -> Result<u64, String> {
    let remote = agent.config.connect(&follow.cache)?;
    let pin = remote.pin(&follow.pin).await;
    let pin = pin.map_err(|error| error.to_string())?;
    let absent = || format!("there is no pin {} in {}", follow.pin, follow.cache);
    let pin = pin.ok_or_else(absent)?;
    let roots = roots_of(&pin).ok_or("its current generation has no roots")?;
    want(agent, follow, roots).map_err(|error| error.to_string())?;
    Ok(pin.current)
}

fn roots_of(pin: &Pin) -> Option<Vec<String>> {
    let current = pin.generations.iter().find(|it| it.number == pin.current);
    let roots = current?.roots.iter();
    let roots: Vec<String> = roots.map(|root| format!("/nix/store/{root}")).collect();
    (!roots.is_empty()).then_some(roots)
}

/// Wants these roots, and nothing else for this pin any more.
fn want(agent: &Agent, follow: &Follow, roots: Vec<String>) -> Result<(), super::JobsError> {
    let hashes = |roots: &[String]| -> Vec<String> {
        roots.iter().map(|root| hash_of(root).to_owned()).collect()
    };
    let wanted = hashes(&roots);
    let (last, others) = {
        let held = agent.held();
        let ours = held.jobs.all().filter(|job| {
            job.followed.as_deref() == Some(follow.pin.as_str()) && job.pin == follow.name
        });
        let ours: Vec<_> = ours.cloned().collect();
        let others = ours
            .iter()
            .filter(|job| job.state == State::Waiting && hashes(&job.roots) != wanted);
        let others: Vec<u64> = others.map(|job| job.id).collect();
        (ours.last().cloned(), others)
    };
    for id in others {
        agent.cancel(id)?;
    }
    // Somebody may have let go of what was ready.
    let pinned = agent.node.pins().unwrap_or_default();
    let pinned = pinned.get(&follow.name).map(|roots| {
        let roots = roots.iter().map(|root| root.hash().to_string());
        roots.collect::<Vec<_>>()
    });
    let is_pinned = |hash: &String| pinned.as_ref().is_some_and(|all| all.contains(hash));
    let known = last.is_some_and(|job| {
        let there = job.state == State::Waiting || wanted.iter().all(is_pinned);
        hashes(&job.roots) == wanted && there
    });
    if known {
        return Ok(());
    }
    let ours = &agent.config.fetch.caches;
    let from = match ours.contains(&follow.cache) {
        true => Vec::new(),
        false => [std::slice::from_ref(&follow.cache), ours].concat(),
    };
    let wish = Wish {
        roots,
        pin: follow.name.clone(),
        priority: follow.priority,
        deadline_in_s: None,
        from,
    };
    agent.wish(wish, Some(&follow.pin)).map(drop)
}
