//! The agent: brings closures to this node as a service, so that a switch finds them there.
//!
//! ```text
//!   snowcache prefetch, status, wait, why     pins of a cache        kill -9, reboot
//!          | control socket                     | follow                 |
//!          |                                    | <-- listen: a pin moved, |
//!          v                                    v     a root came          v
//!        serve ------------ what is wanted --> jobs, on the disk --> begun again
//!                                               |
//!                                               v  one at a time, by priority and deadline
//!                                              work --> prefetch --> receipt, pin
//!                                                                      |
//!                                          rehash <-- while nothing else is done
//! ```
//! Guarantees: what was asked for and answered is done, or given up with a reason that can be
//! asked for, whoever is killed meanwhile. Only root, the agent's own user and members of the
//! group of its configuration may ask. One agent a folder.
//! Never: a switch; it only makes ready.

pub mod ask;
pub mod config;
mod follow;
pub mod jobs;
mod listen;
mod metrics;
mod peers;
pub mod rehash;
mod serve;
pub mod status;
mod work;

use crate::failure::Failure;
use crate::figures::Tally;
use crate::frame_spool;
use crate::nix_conf;
use crate::node::Node;
use crate::queue::notify;
use crate::queue::report::now_s;
use crate::rate::Rate;
use config::Config;
use jobs::{Job, Jobs, JobsError, State, Wish};
use metrics::Counts;
use rehash::Rehash;
use rustix::fs::{FlockOperation, flock};
use snowcache_nix::PublicKey;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

/// Requests that are being answered when it is told to end have so long.
const DRAIN: Duration = Duration::from_secs(2);

/// Where its control socket is when nobody says otherwise: /run/snowcache-agent/socket for root.
pub fn default_socket() -> PathBuf {
    const NAME: &str = "snowcache-agent/socket";
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run").join(NAME);
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) => PathBuf::from(folder).join(NAME),
        None => Node::default_folder().join("socket"),
    }
}

/// See the module.
pub struct Agent {
    config: Config,
    node: Node,
    rate: Rate,
    /// What is read again, and its budget.
    rehashing: Rate,
    counts: Counts,
    since_s: u64,
    held: Mutex<Held>,
    changed: watch::Sender<u64>,
    /// Held by one agent a folder.
    _reign: File,
}

struct Held {
    jobs: Jobs,
    running: Option<Running>,
    followed: BTreeMap<String, Followed>,
    rehash: Rehash,
}

/// What is being done.
struct Running {
    id: u64,
    tally: Arc<Tally>,
}

/// How a pin of a cache stands.
#[derive(Clone, Debug, Default, PartialEq)]
struct Followed {
    generation: Option<u64>,
    looked_s: u64,
    why: Option<String>,
}

impl Agent {
    /// With what was asked for before it was started.
    ///
    /// # Errors
    /// When its folder cannot be used, or another agent does.
    pub fn new(config: Config) -> Result<Agent, Failure> {
        let folder = std::path::absolute(config.state_folder());
        let folder = folder.map_err(|error| Failure::usage(format!("`state`: {error}")))?;
        let node = Node::at(folder);
        let reign = reign(&node)?;
        let jobs = Jobs::open(node.folder().join("jobs")).map_err(Failure::failed)?;
        Ok(Agent {
            rate: Rate::new(config.rate()),
            rehashing: Rate::new(config.rehash.rate()),
            counts: Counts::default(),
            since_s: now_s(),
            held: Mutex::new(Held {
                jobs,
                running: None,
                followed: BTreeMap::new(),
                rehash: Rehash::default(),
            }),
            changed: watch::Sender::new(0),
            _reign: reign,
            config,
            node,
        })
    }

    /// Serves until it is told to end by SIGTERM or SIGINT. What is under way is broken off then;
    /// the next agent goes on with it.
    ///
    /// # Errors
    /// When its sockets cannot be had, or its list of jobs cannot be written any more.
    pub async fn run(self) -> Result<(), Failure> {
        let agent = Arc::new(self);
        let cannot = |error| Failure::failed(format!("signals cannot be waited for: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
        let doors = serve::Doors::open(&agent)?;
        let guests = doors.guests();
        notify::tell("READY=1\nSTATUS=bringing closures here");
        tokio::spawn(notify::keep_watch());
        let following = follow::all(&agent);
        let ended = tokio::select! {
            worked = work::run(&agent) => worked.map_err(Failure::failed),
            served = doors.serve(&agent) => served,
            never = following => match never {},
            never = rehash::run(&agent) => match never {},
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        notify::tell("STOPPING=1");
        fs::remove_file(&agent.config.socket).ok();
        guests.leave(DRAIN).await;
        ended
    }

    /// Takes a wish: its job.
    fn wish(&self, wish: Wish, followed: Option<&str>) -> Result<Job, JobsError> {
        let mut held = self.held();
        let id = held.jobs.add(wish, followed, now_s())?;
        let job = held.jobs.get(id).cloned();
        drop(held);
        self.tell_change();
        job.ok_or(JobsError::TooMany)
    }

    /// Changes what is remembered of a job.
    fn change(&self, id: u64, how: impl FnOnce(&mut Job)) -> Result<(), JobsError> {
        let changed = self.held().jobs.change(id, how);
        self.tell_change();
        changed
    }

    /// Wants a job no more.
    fn cancel(&self, id: u64) -> Result<bool, JobsError> {
        let (pin, removed) = {
            let mut held = self.held();
            let pin = held.jobs.get(id).map(|job| job.pin.clone());
            (pin, held.jobs.remove(id))
        };
        self.tell_change();
        pin.into_iter().for_each(|pin| self.give_up_spool(&pin));
        removed
    }

    /// What has come of paths under way is of no use once no job wants its pin.
    fn give_up_spool(&self, pin: &str) {
        let wanted = |job: &Job| job.pin == pin && job.state == State::Waiting;
        if !self.held().jobs.all().any(wanted) {
            frame_spool::give_up(&self.node, pin);
        }
    }

    /// The keys of which one must have signed each path. Those of nix.conf are read anew each time:
    /// one may have been added, or taken away.
    fn trusted(&self) -> Result<Vec<PublicKey>, String> {
        let given = &self.config.fetch.trusted_public_keys;
        if given.is_empty() {
            let keys = nix_conf::trusted_public_keys();
            return keys.map_err(|failure| failure.sentence().unwrap_or_default().to_owned());
        }
        let keys = given.iter().map(|key| key.parse());
        keys.collect::<Result<_, _>>()
            .map_err(|error: snowcache_nix::KeyError| error.to_string())
    }

    fn tell_change(&self) {
        self.changed.send_modify(|number| *number += 1);
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // Each change of it is whole: one insert, remove or assignment.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn reign(node: &Node) -> Result<File, Failure> {
    let path = node.folder().join("agent.lock");
    let cannot = |error| {
        let shown = path.display();
        Failure::failed(format!(
            "{shown}: {error}; `state` of agent.toml names another folder"
        ))
    };
    fs::create_dir_all(node.folder()).map_err(cannot)?;
    let file = File::create(&path).map_err(cannot)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::failed(format!(
            "another agent serves {}; `state` of agent.toml names another folder",
            node.folder().display()
        ))),
        Err(error) => Err(cannot(error.into())),
    }
}
