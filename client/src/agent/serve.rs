//! The agent's doors: the control socket, HTTP/1.1 with JSON over it, and an address for
//! Prometheus.
//!
//! ```text
//!   GET    /v1/status            all that it does
//!   POST   /v1/jobs              a wish: 201 with its job
//!   GET    /v1/jobs/<number>     that job, and how far it is
//!   DELETE /v1/jobs/<number>     wanted no more
//!   GET    /v1/roots/<root>      whether a root is ready here, or why not
//!   PUT    /v1/rate              {"bytes_per_s": n}; 0: as fast as it goes
//!   GET    /metrics              for Prometheus
//! ```
//! Guarantees: whoever may not command it is answered 403 whatever they ask, before anything they
//! send is read. Every wait and every body is bounded. Never: anything but /metrics over TCP.

use super::jobs::{JobsError, Wish, hash_of};
use super::peers::Peers;
use super::status::{Shown, Status};
use super::{Agent, metrics};
use crate::failure::Failure;
use crate::node::check_pin;
use crate::rate::BytesPerSecond;
use crate::remote::Endpoint;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use snowcache_core::exposition::CONTENT_TYPE;
use snowcache_nix::StoreHash;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at a time: every process of a node that waits may have one.
const MAX_GUESTS: usize = 256;
/// A wish of 1,000 roots at 247 bytes, and slack.
const MAX_BODY_BYTES: usize = 512 << 10;
/// Who has connected says what it wants at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// After an error of accept (too many open files, say).
const REST: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// An answer that is a sentence.
struct Refusal(StatusCode, String);

/// The connections that are open.
#[derive(Clone)]
pub(super) struct Guests(Arc<Semaphore>);

impl Guests {
    /// Waits until all have left, but no longer than this.
    pub(super) async fn leave(self, patience: Duration) {
        let all = self.0.acquire_many(MAX_GUESTS as u32);
        // Who has not left by then is left.
        drop(timeout(patience, all).await);
    }
}

/// What is listened on.
pub(super) struct Doors {
    control: UnixListener,
    metrics: Option<TcpListener>,
    guests: Guests,
}

impl Doors {
    /// # Errors
    /// When an address or the socket cannot be had.
    pub(super) fn open(agent: &Agent) -> Result<Doors, Failure> {
        let socket = &agent.config.socket;
        let cannot = |error| {
            let shown = socket.display();
            Failure::failed(format!(
                "{shown}: {error}; `socket` of agent.toml names another one"
            ))
        };
        let control = listen(socket).map_err(cannot)?;
        let address = agent.config.metrics_address().map_err(Failure::usage)?;
        let metrics = address.map(|address| {
            let bound = std::net::TcpListener::bind(address).and_then(|listener| {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            });
            bound.map_err(|error| Failure::failed(format!("metrics.listen {address}: {error}")))
        });
        Ok(Doors {
            control,
            metrics: metrics.transpose()?,
            guests: Guests(Arc::new(Semaphore::new(MAX_GUESTS))),
        })
    }

    pub(super) fn guests(&self) -> Guests {
        self.guests.clone()
    }

    /// Answers for ever.
    ///
    /// # Errors
    /// Never by now.
    pub(super) async fn serve(self, agent: &Arc<Agent>) -> Result<(), Failure> {
        let peers = Peers::new(&agent.config.group);
        let control = async {
            loop {
                let place = self.guests.0.clone().acquire_owned().await;
                let Ok((stream, _)) = self.control.accept().await else {
                    sleep(REST).await;
                    continue;
                };
                let admitted = stream.peer_cred().is_ok_and(|who| peers.admits(&who));
                let (agent, refusal) = (agent.clone(), peers.refusal());
                tokio::spawn(async move {
                    let answer = move |request| {
                        let (agent, refusal) = (agent.clone(), refusal.clone());
                        async move {
                            Ok(match admitted {
                                true => control_answer(&agent, request).await,
                                false => refused(&agent, refusal),
                            })
                        }
                    };
                    converse(stream, answer).await;
                    drop(place);
                });
            }
        };
        let metrics = async {
            let Some(listener) = &self.metrics else {
                return std::future::pending().await;
            };
            loop {
                let place = self.guests.0.clone().acquire_owned().await;
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(REST).await;
                    continue;
                };
                let agent = agent.clone();
                tokio::spawn(async move {
                    let answer = move |request| {
                        let agent = agent.clone();
                        async move { Ok(metrics_answer(&agent, &request)) }
                    };
                    converse(stream, answer).await;
                    drop(place);
                });
            }
        };
        tokio::join!(control, metrics);
        Ok(())
    }
}

/// A socket that everybody may connect to: who it is is asked of each.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        fs::create_dir_all(folder)?;
    }
    // The folder's lock is ours, so nobody listens there: one that was killed left it.
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

async fn converse<S, F>(stream: S, answer: impl Fn(Request<Incoming>) -> F + Send + Sync + 'static)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<Answer, Infallible>> + Send,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let served = http.serve_connection(TokioIo::new(stream), service_fn(answer));
    drop(served.await); // who broke it off knows
}

fn refused(agent: &Agent, refusal: String) -> Answer {
    agent.counts.refused.fetch_add(1, Ordering::Relaxed);
    said(StatusCode::FORBIDDEN, refusal)
}

fn metrics_answer(agent: &Agent, request: &Request<Incoming>) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => measured(agent),
        _ => said(StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()),
    }
}

fn measured(agent: &Agent) -> Answer {
    let mut answer = Response::new(Full::from(metrics::text(agent)));
    let text = header::HeaderValue::from_static(CONTENT_TYPE);
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer
}

async fn control_answer(agent: &Agent, request: Request<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let result = match (request.method().clone(), path.as_str()) {
        (Method::GET, "/v1/status") => Ok(json(StatusCode::OK, &Status::of(agent))),
        (Method::GET, "/metrics") => Ok(measured(agent)),
        (Method::POST, "/v1/jobs") => add(agent, request).await,
        (Method::PUT, "/v1/rate") => set_rate(agent, request).await,
        (method, path) => match (method, path.strip_prefix("/v1/jobs/")) {
            (Method::GET, Some(id)) => job(agent, id),
            (Method::DELETE, Some(id)) => cancel(agent, id),
            (Method::GET, None) => match path.strip_prefix("/v1/roots/") {
                Some(root) => Ok(json(StatusCode::OK, &agent.standing(root).await)),
                None => Err(unknown(path)),
            },
            _ => Err(unknown(path)),
        },
    };
    result.unwrap_or_else(|Refusal(status, sentence)| said(status, sentence))
}

async fn add(agent: &Agent, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let wish: Wish = body(request).await?;
    let wrong = |problem: String| Refusal(StatusCode::BAD_REQUEST, problem + "\n");
    if wish.roots.is_empty() {
        return Err(wrong("`roots` names no path".to_owned()));
    }
    for root in &wish.roots {
        if hash_of(root).parse::<StoreHash>().is_err() {
            let problem = "is neither a store path nor the hash part of one";
            return Err(wrong(format!("`roots`: {root} {problem}")));
        }
    }
    check_pin(&wish.pin).map_err(|problem| wrong(format!("`pin`: {problem}")))?;
    for url in &wish.from {
        let url = url.parse::<Endpoint>();
        url.map_err(|error| wrong(format!("`from`: {error}")))?;
    }
    let job = agent.wish(wish, None).map_err(|error| not_taken(&error))?;
    Ok(json(StatusCode::CREATED, &Shown::of(agent, job)))
}

fn job(agent: &Agent, id: &str) -> Result<Answer, Refusal> {
    let job = agent.held().jobs.get(number(id)?).cloned();
    let job = job.ok_or_else(|| no_job(id))?;
    Ok(json(StatusCode::OK, &Shown::of(agent, job)))
}

fn cancel(agent: &Agent, id: &str) -> Result<Answer, Refusal> {
    match agent
        .cancel(number(id)?)
        .map_err(|error| not_taken(&error))?
    {
        true => Ok(said(StatusCode::OK, "wanted no more\n".to_owned())),
        false => Err(no_job(id)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRate {
    bytes_per_s: u64,
}

async fn set_rate(agent: &Agent, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let rate: NewRate = body(request).await?;
    agent.rate.set(BytesPerSecond(rate.bytes_per_s));
    let now = agent.rate.get();
    eprintln!("snowcache: the rate is {now} now");
    Ok(said(StatusCode::OK, format!("{now}\n")))
}

async fn body<T: for<'a> Deserialize<'a>>(request: Request<Incoming>) -> Result<T, Refusal> {
    let body = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    let body = timeout(HEAD_TIMEOUT, body).await;
    let late = "the body did not come in time\n".to_owned();
    let body = body.map_err(|_| Refusal(StatusCode::REQUEST_TIMEOUT, late))?;
    let body = body.map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("the body: {error}\n")))
}

fn number(id: &str) -> Result<u64, Refusal> {
    id.parse().map_err(|_| no_job(id))
}

fn no_job(id: &str) -> Refusal {
    let sentence = format!("there is no job {id}; GET /v1/status names all\n");
    Refusal(StatusCode::NOT_FOUND, sentence)
}

fn unknown(path: &str) -> Refusal {
    let sentence = format!("{path} is nothing here; try GET /v1/status\n");
    Refusal(StatusCode::NOT_FOUND, sentence)
}

fn not_taken(error: &JobsError) -> Refusal {
    let status = match error {
        JobsError::TooMany => StatusCode::TOO_MANY_REQUESTS,
        JobsError::Folder { .. } => StatusCode::INSUFFICIENT_STORAGE,
    };
    Refusal(status, format!("{error}\n"))
}

fn said(status: StatusCode, sentence: String) -> Answer {
    let mut answer = Response::new(Full::from(sentence));
    *answer.status_mut() = status;
    answer
}

fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let text = serde_json::to_vec(value).unwrap_or_default();
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}
