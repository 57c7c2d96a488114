//! What the agent says of itself, as whoever asks reads it.

use super::Agent;
use super::jobs::{Job, State, hash_of};
use super::rehash::Rehash;
use crate::damage::{self, Damage};
use crate::figures::Figures;
use crate::queue::report::now_s;
use crate::rate::BytesPerSecond;
use crate::show;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// All of it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Status {
    /// Its version.
    pub version: String,
    /// Since when it runs, in seconds since 1970.
    pub since_s: u64,
    /// The node's folder that it serves.
    pub state: PathBuf,
    /// The nix-daemon that it works through.
    pub store_socket: PathBuf,
    /// The caches that it asks.
    pub caches: Vec<String>,
    /// Bytes that it may receive a second; 0: as fast as it goes.
    pub rate_bytes_per_s: u64,
    /// Bytes that it has received since it runs.
    pub received_bytes: u64,
    /// The pins that it follows.
    pub follow: Vec<Following>,
    /// The jobs, the oldest first.
    pub jobs: Vec<Shown>,
    /// How what is here is hashed again.
    pub rehash: Rehash,
    /// What is not what it was.
    pub damaged: Vec<Damage>,
}

/// A pin that is followed.
#[derive(Debug, Deserialize, Serialize)]
pub struct Following {
    /// Its name in the cache.
    pub pin: String,
    /// The cache.
    pub cache: String,
    /// The node's own pin.
    #[serde(rename = "as")]
    pub name: String,
    /// The generation that it was at.
    pub generation: Option<u64>,
    /// When it was looked at last, in seconds since 1970; 0: not yet.
    pub looked_s: u64,
    /// Why it could not be.
    pub why: Option<String>,
}

/// A job, and how far it is.
#[derive(Debug, Deserialize, Serialize)]
pub struct Shown {
    /// The job.
    #[serde(flatten)]
    pub job: Job,
    /// Whether it is being done now.
    pub running: bool,
    /// How far it is, while it is being done.
    pub progress: Option<Figures>,
    /// When it is tried again.
    pub next_try_in_s: Option<f64>,
}

/// How a root stands on this node.
#[derive(Debug, Deserialize, Serialize)]
pub struct Standing {
    /// Whether it would pass the gate.
    pub ready: bool,
    /// Why not.
    pub why: Option<String>,
    /// The last job about it.
    pub job: Option<Shown>,
}

impl Status {
    pub(super) fn of(agent: &Agent) -> Status {
        let config = &agent.config;
        let jobs = agent.held().jobs.all().cloned().collect::<Vec<Job>>();
        let jobs = jobs.into_iter().map(|job| Shown::of(agent, job)).collect();
        let held = agent.held();
        let follow = config.follow.iter().map(|it| {
            let known = held.followed.get(&it.name).cloned().unwrap_or_default();
            Following {
                pin: it.pin.clone(),
                cache: it.cache.clone(),
                name: it.name.clone(),
                generation: known.generation,
                looked_s: known.looked_s,
                why: known.why,
            }
        });
        let damaged = damage::all(&agent.node).unwrap_or_default();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            since_s: agent.since_s,
            state: agent.node.folder().to_owned(),
            store_socket: config.store_socket.clone(),
            caches: config.fetch.caches.clone(),
            rate_bytes_per_s: agent.rate.get().0,
            received_bytes: agent.rate.received_bytes(),
            follow: follow.collect(),
            jobs,
            rehash: held.rehash.clone(),
            damaged: damaged.into_values().collect(),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let up = show::span(Duration::from_secs(now_s().saturating_sub(self.since_s)));
        let (got, rate) = (
            show::size(self.received_bytes),
            BytesPerSecond(self.rate_bytes_per_s),
        );
        let mut text = format!("up       {up}; {got} received; rate {rate}\n");
        for cache in &self.caches {
            text += &format!("cache    {cache}\n");
        }
        for follow in &self.follow {
            text += &follow.line();
        }
        text += &format!("rehash   {}\n", self.rehash.line());
        for damage in &self.damaged {
            let (path, when) = (&damage.path, show::time(damage.found_s));
            let what = &damage.what;
            text += &format!("DAMAGED  {path}, found {when}: {what}\n");
        }
        if self.jobs.is_empty() {
            text += "no jobs: `snowcache prefetch ROOT` makes one\n";
        }
        self.jobs.iter().for_each(|job| text += &job.text());
        text
    }
}

impl Following {
    fn line(&self) -> String {
        let (pin, cache) = (&self.pin, &self.cache);
        let stands = match (&self.why, self.generation) {
            (Some(why), _) => why.clone(),
            (None, Some(number)) => format!("generation {number}"),
            (None, None) => "not looked at yet".to_owned(),
        };
        format!("follow   {pin} of {cache} as {}: {stands}\n", self.name)
    }
}

impl Shown {
    pub(super) fn of(agent: &Agent, job: Job) -> Shown {
        let held = agent.held();
        let running = held.running.as_ref().filter(|it| it.id == job.id);
        let now = agent.now();
        let wait = job.not_before.filter(|_| running.is_none());
        let wait = wait.map(|time| time.saturating_duration_since(now).as_secs_f64());
        Shown {
            running: running.is_some(),
            progress: running.and_then(|it| it.tally.figures()),
            next_try_in_s: wait.filter(|_| job.state == State::Waiting),
            job,
        }
    }

    /// How it stands, on a line.
    pub fn stands(&self) -> String {
        let job = &self.job;
        let why = job.why.as_deref().unwrap_or_default();
        let tries = match job.attempts {
            0 => String::new(),
            1 => format!("; tried once in vain: {why}"),
            count => format!("; tried {count} times in vain: {why}"),
        };
        match (job.state, self.running, &self.progress, self.next_try_in_s) {
            (State::Ready, ..) => format!("ready since {}", show::time(job.since_s)),
            (State::GivenUp, ..) => format!("given up {}: {why}", show::time(job.since_s)),
            (_, true, Some(figures), _) => format!("{}{tries}", figures.line()),
            (_, true, None, _) => format!("asking the caches{tries}"),
            (_, false, _, Some(wait)) => format!("again in {wait:.0} s{tries}"),
            (_, false, _, None) => format!("waits for its turn{tries}"),
        }
    }

    fn text(&self) -> String {
        let job = &self.job;
        let mut terms = format!("pin {}", job.pin);
        if job.priority != 0 {
            terms += &format!(", priority {}", job.priority);
        }
        if let Some(deadline_s) = job.deadline_s.filter(|_| job.state == State::Waiting) {
            terms += &format!(", until {}", show::time(deadline_s));
        }
        let roots = job.roots.join(" ");
        format!("{roots}\n         {terms}: {}\n", self.stands())
    }
}

impl Agent {
    /// How the root with this hash part stands: the gate is asked.
    pub(super) async fn standing(&self, root: &str) -> Standing {
        let hash = hash_of(root).to_owned();
        let job = self.held().jobs.about(&hash).cloned();
        let job = job.map(|job| Shown::of(self, job));
        let why = self.gate(root, &hash).await.err();
        Standing {
            ready: why.is_none(),
            why,
            job,
        }
    }

    async fn gate(&self, root: &str, hash: &str) -> Result<(), String> {
        let named = snowcache_nix::StorePath::from_absolute(root).ok();
        let known = self.node.receipts_of().unwrap_or_default();
        let known = known.into_iter().find(|it| it.hash().to_string() == hash);
        let never = || format!("{root} was never made ready on this node");
        let root = named.or(known).ok_or_else(never)?;
        let store = crate::store::Store::at(self.config.store_socket.clone());
        let keys = self.trusted()?;
        let ready = crate::why::ready(&self.node, &store, &root, &keys).await;
        let said = |failure: crate::Failure| failure.sentence().unwrap_or_default().to_owned();
        ready.map(drop).map_err(said)
    }
}
