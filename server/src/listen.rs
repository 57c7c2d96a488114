//! Connections: accepted, bounded in number and in patience, and ended gracefully.
//!
//! ```text
//!   bind --> accept --[place]--> hyper http1 --> the router
//!                                  '-- stalled writes, slow heads: closed
//!   SIGTERM: stop accepting --> let requests end, shutdown_grace_s --> close
//! ```

mod io;

use crate::config::Http;
use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use io::WriteTimeout;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that hyper buffers of one connection: what it reads at a time, so what an upload queues is
/// a small multiple.
const CONNECTION_BUFFER_BYTES: usize = 256 << 10;

/// After a failed accept (no descriptors left, say) the next one waits this long, so that the loop
/// does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bound {
    /// An address and port, the real one if 0 was asked for.
    Tcp(SocketAddr),
    /// A socket in the filesystem.
    Unix(PathBuf),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Tcp(address) => write!(f, "http://{address}"),
            Bound::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub enum Peer {
    /// By TCP.
    Tcp(SocketAddr),
    /// By the socket in the filesystem.
    Unix,
}

impl Peer {
    /// Whether nobody between there and here can listen in.
    pub fn is_local(&self) -> bool {
        match self {
            Peer::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Peer::Unix => true,
        }
    }
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A bound socket.
pub struct Listener {
    socket: Socket,
    bound: Bound,
}

impl Listener {
    /// Binds `listen`: `ADDRESS:PORT` or `unix:PATH`. A socket file left behind is replaced.
    ///
    /// # Errors
    /// What the system says.
    pub async fn bind(listen: &str) -> std::io::Result<Listener> {
        if let Some(path) = listen.strip_prefix("unix:") {
            let path = PathBuf::from(path);
            remove_stale_socket(&path)?;
            let socket = Socket::Unix(UnixListener::bind(&path)?);
            return Ok(Listener {
                socket,
                bound: Bound::Unix(path),
            });
        }
        let listener = TcpListener::bind(listen).await?;
        let bound = Bound::Tcp(listener.local_addr()?);
        Ok(Listener {
            socket: Socket::Tcp(listener),
            bound,
        })
    }

    /// Where it is bound.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    async fn accept(&self) -> std::io::Result<(Connection, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Small answers leave at once; large ones fill their packets anyway.
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), Peer::Tcp(address)))
            }
            Socket::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Peer::Unix))
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type Connection = Box<dyn Stream>;

fn remove_stale_socket(path: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Ready at SIGTERM or SIGINT, which from now on do not end the process themselves.
///
/// # Errors
/// When the handlers cannot be set up.
pub fn stop_signals() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    })
}

/// Serves `router` on `listener` until `stop` is ready, then lets what is under way end.
pub async fn serve(
    listener: Listener,
    router: Router,
    http: &Http,
    stop: impl Future<Output = ()>,
) {
    let places = Arc::new(Semaphore::new(http.max_connections));
    let graceful = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            let place = place.expect("invariant: the semaphore is never closed");
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut stop => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let stream = WriteTimeout::new(stream, http.write_timeout());
                spawn(stream, peer, router.clone(), http, &graceful, place);
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(http.shutdown_grace(), graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests still under way after shutdown_grace_s were cut off");
    }
}

fn spawn(
    stream: WriteTimeout<Connection>,
    peer: Peer,
    router: Router,
    http: &Http,
    graceful: &GracefulShutdown,
    place: OwnedSemaphorePermit,
) {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        hyper::service::Service::call(&TowerToHyperService::new(router.clone()), request)
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(http.header_timeout())
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let connection = graceful.watch(connection);
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
        drop(place);
    });
}
