//! What the agent counts, for Prometheus.
//!
//! Guarantees: counts begin anew with the process, as counters of Prometheus' may. Labels come
//! from fixed lists and from the configuration. Never: a path in a label.

use super::Agent;
use super::jobs::State;
use crate::damage;
use crate::prefetch::Event;
use snowcache_core::exposition::Exposition;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) ready: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) failed_attempts: AtomicU64,
    pub(super) last_ready_s: AtomicU64,
    pub(super) refused: AtomicU64,
    /// Caches that are listened to.
    pub(super) listening: AtomicU64,
    imported_paths: AtomicU64,
    imported_bytes: AtomicU64,
    tried_again: AtomicU64,
    rehashed_bytes: AtomicU64,
}

impl Counts {
    /// Something happened.
    pub(super) fn note(&self, event: &Event<'_>) {
        match event {
            Event::Planned { .. } | Event::Careful { .. } => {}
            Event::Imported { narinfo, .. } => {
                add(&self.imported_paths, 1);
                add(&self.imported_bytes, narinfo.info.nar_size);
            }
            Event::Rehashing { nar_size_bytes, .. } => add(&self.rehashed_bytes, *nar_size_bytes),
            Event::Again { .. } => add(&self.tried_again, 1),
        }
    }
}

fn add(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

/// All of it, as text.
pub(super) fn text(agent: &Agent) -> String {
    let mut text = Exposition::default();
    let (jobs, followed, running, rehashed_s) = {
        let held = agent.held();
        let count = |state| held.jobs.all().filter(|job| job.state == state).count();
        let states = [State::Waiting, State::Ready, State::GivenUp].map(count);
        let rehashed_s = held.rehash.last.as_ref().map_or(0, |last| last.ended_s);
        (
            states,
            held.followed.clone(),
            held.running.is_some(),
            rehashed_s,
        )
    };
    text.gauge("agent_jobs", "Jobs, by how they stand.");
    for (state, count) in ["waiting", "ready", "given_up"].iter().zip(jobs) {
        text.sample(&[("state", state)], count);
    }
    text.gauge("agent_working", "1 while a closure is being brought.");
    text.sample(&[], u8::from(running));
    let counts = &agent.counts;
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    for (name, help, counter) in [
        ("ready_total", "Closures made ready.", &counts.ready),
        ("given_up_total", "Jobs given up.", &counts.given_up),
        (
            "failed_attempts_total",
            "Attempts at a job that failed.",
            &counts.failed_attempts,
        ),
        (
            "imported_paths_total",
            "Paths imported.",
            &counts.imported_paths,
        ),
        (
            "imported_nar_bytes_total",
            "NAR bytes of these.",
            &counts.imported_bytes,
        ),
        (
            "tried_again_total",
            "Paths that were tried again.",
            &counts.tried_again,
        ),
        (
            "rehashed_nar_bytes_total",
            "NAR bytes of what was here before.",
            &counts.rehashed_bytes,
        ),
        (
            "refused_total",
            "Requests of somebody who may not ask.",
            &counts.refused,
        ),
    ] {
        text.counter(&format!("agent_{name}"), help);
        text.sample(&[], read(counter));
    }
    text.counter("agent_received_bytes_total", "Bytes that came from caches.");
    text.sample(&[], agent.rate.received_bytes());
    text.gauge("agent_rate_bytes_per_second", "The budget; 0: none.");
    text.sample(&[], agent.rate.get().0);
    text.counter(
        "agent_rehash_nar_bytes_total",
        "NAR bytes that were hashed again by schedule.",
    );
    text.sample(&[], agent.rehashing.received_bytes());
    text.gauge(
        "agent_rehash_ended_timestamp_seconds",
        "When all that receipts name had been hashed again; 0: never.",
    );
    text.sample(&[], rehashed_s);
    text.gauge(
        "agent_damaged_paths",
        "Paths that were verified once and are not what they were.",
    );
    // A note that cannot be read is no sign of health.
    text.sample(&[], damage::all(&agent.node).map_or(1, |all| all.len()));
    let last = "When a closure became ready; 0: never.";
    text.gauge("agent_last_ready_timestamp_seconds", last);
    text.sample(&[], read(&counts.last_ready_s));
    let listening = "Caches that tell by events what comes and moves.";
    text.gauge("agent_listening", listening);
    text.sample(&[], read(&counts.listening));
    text.gauge(
        "agent_followed_generation",
        "The generation that a followed pin is at.",
    );
    for (name, followed) in &followed {
        text.sample(&[("pin", name)], followed.generation.unwrap_or(0));
    }
    text.gauge(
        "agent_follow_failing",
        "1 while a followed pin cannot be looked at.",
    );
    for (name, followed) in &followed {
        text.sample(&[("pin", name)], u8::from(followed.why.is_some()));
    }
    text.into_text()
}
