//! A job beside what is served, by command and by the clock: a scrub, a recompression.
//!
//! ```text
//!   POST api/v1/NAME --+--> one at a time --> a thread: work --> what it came to, kept and logged
//!   the clock ---------+                        '--> lines --> the client
//! ```
//! Guarantees: one at a time; a job that a client asked for ends with the client; the last line is
//! `summary` or `error`. Never: waits for a client that is slow to take progress.

use super::since_1970;
use crate::http::errors::Refusal;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Lines that wait for a client, of some 100 bytes.
const QUEUED_LINES: usize = 256;

/// Between looks whether one that was stopped has ended.
const NAP: Duration = Duration::from_millis(5);

/// What a job is called.
pub struct Name {
    /// In the API's URL, and of its thread.
    pub route: &'static str,
    /// In a sentence: "a scrub".
    pub noun: &'static str,
}

/// A job whose progress is a `P` and which comes to an `R`.
pub struct Job<P, R> {
    name: Name,
    stopping: AtomicBool,
    state: Mutex<State<P, R>>,
}

/// What is known of it since the start.
#[derive(Debug, Clone, Serialize)]
pub struct State<P, R> {
    /// How far the one under way is.
    pub running: Option<P>,
    /// What the last one that ended came to.
    pub last: Option<Last<R>>,
    /// How many have ended well.
    #[serde(skip)]
    pub ended: u64,
    /// How many ended with an error.
    #[serde(skip)]
    pub failed: u64,
}

/// One that has ended.
#[derive(Debug, Clone, Serialize)]
pub struct Last<R> {
    /// When, in seconds since 1970.
    pub unix_s: u64,
    /// Which it was.
    #[serde(flatten)]
    about: Map<String, Value>,
    /// What it came to.
    #[serde(flatten)]
    pub result: R,
}

/// Tells of a job under way.
pub struct Teller<'a, P, R> {
    job: &'a Job<P, R>,
    to: &'a Sender<String>,
}

impl<P, R> Job<P, R>
where
    P: Clone + Default + Serialize + Send + 'static,
    R: Clone + Serialize + Send + 'static,
{
    /// One that has not run yet.
    pub fn new(name: Name) -> Arc<Job<P, R>> {
        Arc::new(Job {
            name,
            stopping: AtomicBool::new(false),
            state: Mutex::new(State {
                running: None,
                last: None,
                ended: 0,
                failed: 0,
            }),
        })
    }

    /// What is known of it.
    pub fn state(&self) -> State<P, R> {
        self.lock().clone()
    }

    /// Does `work` on a thread of its own; what is said `about` it stands beside what it came to.
    /// Its lines end when it does, the last one with what it came to; when nobody takes them any
    /// more, its teller says so.
    ///
    /// # Errors
    /// 409 while another one is under way.
    pub fn start(
        self: &Arc<Self>,
        about: Map<String, Value>,
        work: impl FnOnce(&Teller<'_, P, R>) -> snowcache_depot::Result<R> + Send + 'static,
    ) -> Result<Receiver<String>, Refusal> {
        let Name { route, noun } = self.name;
        {
            let mut state = self.lock();
            if state.running.is_some() {
                let sentence =
                    format!("{noun} is under way; GET api/v1/{route} tells how far it is");
                return Err(Refusal::new(StatusCode::CONFLICT, sentence));
            }
            state.running = Some(P::default());
        }
        let (sender, lines) = mpsc::channel(QUEUED_LINES);
        let (job, span) = (self.clone(), tracing::Span::current());
        // A thread of its own: it stands back for others, which a pool's thread must not keep
        // doing.
        let thread = std::thread::Builder::new().name(route.to_owned());
        let started = thread.spawn(move || {
            let _in_span = span.entered();
            let (job, to) = (&*job, &sender);
            let line = job.end(about, work(&Teller { job, to }));
            // Nobody listens any more: the log has it too.
            sender.blocking_send(line.to_string()).unwrap_or_default();
        });
        if let Err(error) = started {
            self.lock().running = None;
            tracing::error!(%error, "{noun} could not be started");
            return Err(Refusal::internal());
        }
        Ok(lines)
    }

    /// Notes what one came to; the line that says so.
    fn end(&self, about: Map<String, Value>, result: snowcache_depot::Result<R>) -> Value {
        let mut state = self.lock();
        state.running = None;
        match result {
            Ok(result) => {
                let line = json!({ "summary": result });
                state.ended += 1;
                state.last = Some(Last {
                    unix_s: since_1970().as_secs(),
                    about,
                    result,
                });
                line
            }
            Err(error) => {
                state.failed += 1;
                tracing::error!(%error, "{} failed", self.name.noun);
                json!({ "error": error.to_string() })
            }
        }
    }

    /// Ends the one that is under way, and begins no other.
    pub fn halt(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The same; waits until it has ended.
    pub async fn stop(&self) {
        self.halt();
        while self.lock().running.is_some() {
            tokio::time::sleep(NAP).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<P, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P, R> Teller<'_, P, R>
where
    P: Clone + Default + Serialize + Send + 'static,
    R: Clone + Serialize + Send + 'static,
{
    /// It is so far; whether it is to go on. A client that is slow misses some of these.
    pub fn progress(&self, progress: &P) -> ControlFlow<()> {
        self.job.lock().running = Some(progress.clone());
        let line = json!({ "progress": progress }).to_string();
        let left = matches!(self.to.try_send(line), Err(TrySendError::Closed(_)));
        self.goes_on(!left)
    }

    /// A line that the client does not miss; whether the job is to go on.
    pub fn line(&self, line: &Value) -> ControlFlow<()> {
        let told = self.to.blocking_send(line.to_string());
        self.goes_on(told.is_ok())
    }

    fn goes_on(&self, listens: bool) -> ControlFlow<()> {
        match listens && !self.job.stopping.load(Ordering::Relaxed) {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}
