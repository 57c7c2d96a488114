//! Connections: accepted, bounded in number and in patience, and ended gracefully.
//!
//! ```text
//!   bind --> accept --[place]--> (TLS) --[turn]--> hyper http1 --> metered --[turn]--> the router
//!                                            '-- stalled writes, slow heads: closed
//!   SIGTERM: /readyz 503 --drain_delay_s--> stop accepting --> let requests end, shutdown_grace_s
//!            --> close
//! ```
//! Guarantees: what is spoken over a plain TCP connection is driven over its own type, with no box
//! in between.

mod io;
pub mod line;
pub mod outlet;
mod patience;
mod sender;
mod signals;
mod socket;
pub mod tls;
mod transport;
mod unsent;
mod validity;

pub use signals::{reload_signal, stop_signals};
pub use socket::{BindError, Binding, Listener, Passed};

use crate::config::Http;
use crate::http::doors::Doors;
use crate::http::front::Front;
use crate::metrics::Metrics;
use crate::turns::Turns;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::future::{Either, ready};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use io::WriteTimeout;
use line::Line;
use outlet::Outlet;
use patience::Patience;
use sender::{Sender, Width};
use socket::Accepted;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use transport::Transport;
use unsent::WIDE_PLACES;

/// Bytes that hyper buffers of one connection: what it reads at a time, so what an upload queues is
/// a small multiple.
const CONNECTION_BUFFER_BYTES: usize = 256 << 10;

/// After a failed accept (no descriptors left, say) the next one waits this long, so that the loop
/// does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Connections accepted before the runtime looks for what else is ready: at some 10 us each.
const ACCEPTED_AT_ONCE: usize = 16;

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// An address and port, the real one if 0 was asked for.
    Tcp(SocketAddr),
    /// The same, encrypted.
    Tls(SocketAddr),
    /// A socket in the filesystem.
    Unix(PathBuf),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Tcp(address) => write!(f, "http://{address}"),
            Bound::Tls(address) => write!(f, "https://{address}"),
            Bound::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// By TCP.
    Tcp(SocketAddr),
    /// By TCP, encrypted.
    Tls(SocketAddr),
    /// By the socket in the filesystem.
    Unix,
}

impl Peer {
    /// Whether nobody between there and here can listen in.
    pub fn is_private(&self) -> bool {
        match self {
            Peer::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Peer::Tls(_) | Peer::Unix => true,
        }
    }
}

/// What connections are served with.
#[derive(Clone)]
pub struct Service {
    router: Router,
    /// What it answers needs no router.
    front: Option<Front>,
    /// To the named caches.
    doors: Option<Arc<Doors>>,
    /// Connections served at once, of all sockets together.
    places: Arc<Semaphore>,
    /// For those that the kernel may take more of.
    wide: Arc<Semaphore>,
    /// For those that come, and those that ask for much.
    turns: Turns,
    http: Http,
    metrics: Arc<Metrics>,
}

/// Sockets that are being served; dropped, they are no more, and nothing is waited for.
pub struct Serving {
    accepting: JoinSet<()>,
    /// Accepting ends when it is dropped.
    stop: watch::Sender<()>,
    graceful: Arc<GracefulShutdown>,
    grace: Duration,
}

impl Serving {
    /// Accepts no more, and lets what is under way end; not all of it when `hurry` is ready.
    pub async fn end(mut self, hurry: impl Future<Output = ()>) {
        drop(self.stop);
        while self.accepting.join_next().await.is_some() {}
        let graceful = Arc::into_inner(self.graceful);
        let graceful = graceful.expect("invariant: who accepts has ended");
        tokio::select! {
            biased;
            ended = tokio::time::timeout(self.grace, graceful.shutdown()) => if ended.is_err() {
                tracing::warn!("requests still under way after shutdown_grace_s were cut off");
            },
            () = hurry => tracing::warn!("told twice to stop: requests under way were cut off"),
        }
    }
}

impl Service {
    /// Serves `router` within the limits of `http`.
    pub fn new(router: Router, http: &Http, metrics: &Arc<Metrics>, turns: &Turns) -> Service {
        Service {
            router,
            front: None,
            doors: None,
            places: Arc::new(Semaphore::new(http.max_connections)),
            wide: Arc::new(Semaphore::new(WIDE_PLACES)),
            turns: turns.clone(),
            http: http.clone(),
            metrics: metrics.clone(),
        }
    }

    /// Has `front` asked before the router, and what is for a named cache by its own of `doors`.
    pub fn behind(self, front: Front, doors: Doors) -> Service {
        Service {
            front: Some(front),
            doors: Some(Arc::new(doors)),
            ..self
        }
    }

    /// Begins to accept on all of `listeners`.
    pub fn on(&self, listeners: Vec<Listener>) -> Serving {
        let (stop, stopped) = watch::channel(());
        let graceful = Arc::new(GracefulShutdown::new());
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let (service, graceful) = (self.clone(), graceful.clone());
            accepting.spawn(service.accept(listener, graceful, stopped.clone()));
        }
        Serving {
            accepting,
            stop,
            graceful,
            grace: self.http.shutdown_grace(),
        }
    }

    async fn accept(
        self,
        listener: Listener,
        graceful: Arc<GracefulShutdown>,
        mut stopped: watch::Receiver<()>,
    ) {
        for number in 1_usize.. {
            if number % ACCEPTED_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            let next = async {
                let place = self.places.clone().acquire_owned().await;
                let place = place.expect("invariant: the semaphore is never closed");
                (listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                biased;
                _ = stopped.changed() => return,
                next = next => next,
            };
            match accepted {
                Ok(accepted) => {
                    let (service, watcher) = (self.clone(), graceful.watcher());
                    tokio::spawn(service.serve(accepted, watcher, place));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    async fn serve(self, accepted: Accepted, watcher: Watcher, place: OwnedSemaphorePermit) {
        let _connected = self.metrics.http.connected();
        match accepted {
            Accepted::Plain(stream, peer) => self.speak(stream, peer, watcher).await,
            Accepted::Unix(stream) => self.speak(stream, Peer::Unix, watcher).await,
            Accepted::Tls(stream, peer, certificates) => {
                self.turns.take().await;
                match certificates.accept(stream).await {
                    Ok(stream) => self.speak(stream, peer, watcher).await,
                    Err(error) => {
                        self.metrics.http.handshake_failed();
                        tracing::debug!(%error, ?peer, "a TLS handshake failed");
                    }
                }
            }
        }
        drop(place);
    }

    async fn speak<S>(&self, stream: S, peer: Peer, watcher: Watcher)
    where
        S: Transport + Send + 'static,
    {
        let (outlet, line) = (Outlet::default(), Line::default());
        let stream = WriteTimeout::new(stream, self.http.write_timeout());
        let stream = Sender::new(stream, outlet.clone(), Width::new(self.wide.clone()));
        let stream = stream.on(line.clone()).entering(self.turns.clone());
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| {
            let began = Instant::now();
            let door = self.doors.as_ref().and_then(|it| it.of(&mut request));
            let (front, router) = match &door {
                Some(door) => (Some(&door.front), &door.router),
                None => (self.front.as_ref(), &self.router),
            };
            let at_once = front.and_then(|front| front.answer(&peer, &mut request));
            let (method, path) = (request.method(), request.uri().path());
            if let Some(answer) = at_once {
                self.metrics.at_once(method, path, &answer, began);
                return Either::Left(ready(Ok::<_, Infallible>(self.finished(answer))));
            }
            let meter = self.metrics.meter(method, path, began);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(outlet.clone());
            request.extensions_mut().insert(line.clone());
            let router = TowerToHyperService::new(router.clone());
            // In a box, so that what is answered at once has no more to carry about.
            Either::Right(Box::pin(async move {
                if meter.asks_much() {
                    self.turns.take().await;
                }
                let answer = hyper::service::Service::call(&router, request).await?;
                Ok(self.finished(meter.answered(answer)))
            }))
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(Patience::new(self.http.header_timeout()))
            .header_read_timeout(self.http.header_timeout())
            .max_buf_size(CONNECTION_BUFFER_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!(%error, "a connection ended early");
        }
    }

    /// The answer, the connection's last one where the server is about to end.
    fn finished(&self, mut answer: Response) -> Response {
        if self.metrics.is_draining() {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(header::CONNECTION, close);
        }
        answer
    }
}
