//! Connections: to a TCP port, perhaps through a proxy, or to a socket in the file system whatever
//! the URL's host says.
//!
//! ```text
//!   $http_proxy, $https_proxy, $all_proxy    what curl, and so Nix, goes by; http:// ones
//!   $no_proxy                                for whom not; * for nobody
//!   http   the proxy is asked for the whole URL      https   a tunnel through it (CONNECT)
//! ```
//! Guarantees: a connection is there within [`CONNECT_TIMEOUT`] or the attempt fails; the kernel
//! holds at most [`UNSENT_BYTES`] of a TCP connection that it has not sent. Never: a proxy between
//! us and a socket.

use super::error::innermost;
use http::uri::Scheme;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tower_service::Service;

/// Three SYN retransmissions (1 + 2 + 4 s) and some: more does not help.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What this machine's kernel takes before it can send it. It goes on sending when its process is
/// dead, up to 4 MB (net.ipv4.tcp_wmem), while whoever comes back asks what has arrived. What is on
/// its way is not bounded by it.
pub const UNSENT_BYTES: u32 = 128 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections.
#[derive(Clone, Debug)]
pub enum Connector {
    /// To the host of the URL, or to its proxy.
    Tcp(HttpConnector, Arc<Matcher>),
    /// To this socket.
    Unix(PathBuf),
}

impl Connector {
    /// To a socket if one is given.
    pub fn new(socket: Option<PathBuf>) -> Connector {
        match socket {
            Some(path) => Connector::Unix(path),
            None => {
                let mut tcp = HttpConnector::new();
                // TLS is put around it: see `tls`.
                tcp.enforce_http(false);
                tcp.set_nodelay(true);
                tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
                Connector::Tcp(tcp, Arc::new(proxies()))
            }
        }
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Connector::Tcp(tcp, _) => tcp.poll_ready(cx).map_err(Into::into),
            Connector::Unix(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Connector::Tcp(tcp, proxies) => match proxies.intercept(&uri) {
                None => {
                    let connecting = tcp.call(uri);
                    Box::pin(async move { Ok(Stream::Tcp(unsent(connecting.await?)?)) })
                }
                Some(proxy) => Box::pin(through(proxy, tcp.clone(), uri)),
            },
            Connector::Unix(path) => {
                let path = path.clone();
                Box::pin(
                    async move { Ok(Stream::Unix(TokioIo::new(UnixStream::connect(path).await?))) },
                )
            }
        }
    }
}

/// The same, of which little waits unsent.
fn unsent(stream: TokioIo<TcpStream>) -> io::Result<TokioIo<TcpStream>> {
    SockRef::from(stream.inner()).set_tcp_notsent_lowat(UNSENT_BYTES)?;
    Ok(stream)
}

async fn through(proxy: Intercept, mut tcp: HttpConnector, uri: Uri) -> Result<Stream, BoxError> {
    let address = proxy.uri().clone();
    if address.scheme() != Some(&Scheme::HTTP) {
        return Err(format!("{address} is no http:// proxy, and no other is known here").into());
    }
    // Whose fault it is decides what to do; the password is not in the address.
    let why = |error: BoxError| {
        let why = innermost(error.as_ref());
        BoxError::from(format!("{why}, through the proxy {address}"))
    };
    if uri.scheme() == Some(&Scheme::HTTP) {
        let stream = tcp.call(address.clone()).await;
        let stream = stream.map_err(|error| why(error.into()))?;
        return Ok(Stream::Proxied(unsent(stream)?));
    }
    let mut tunnel = Tunnel::new(address.clone(), tcp);
    if let Some(authorization) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(authorization.clone());
    }
    match timeout(CONNECT_TIMEOUT, tunnel.call(uri)).await {
        Ok(stream) => {
            let stream = stream.map_err(|error| why(error.into()))?;
            Ok(Stream::Tcp(unsent(stream)?))
        }
        Err(_) => Err(why(io::Error::from(io::ErrorKind::TimedOut).into())),
    }
}

/// Those of the environment. (A `*` in $no_proxy is everybody; the matcher takes it for all names,
/// and not for addresses.)
fn proxies() -> Matcher {
    let is_for_nobody = ["no_proxy", "NO_PROXY"].iter().any(|name| {
        let except = std::env::var(name).unwrap_or_default();
        except.split(',').any(|host| host.trim() == "*")
    });
    match is_for_nobody {
        true => Matcher::builder().build(),
        false => Matcher::from_env(),
    }
}

/// What a proxy that is asked for an http URL must be told to let us through.
pub fn proxy_authorization(uri: &Uri) -> Option<HeaderValue> {
    let is_plain = uri.scheme() == Some(&Scheme::HTTP);
    let proxy = is_plain.then(proxies)?.intercept(uri)?;
    proxy.basic_auth().cloned()
}

/// A connection of either sort.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TokioIo<TcpStream>),
    /// Over TCP to a proxy that is asked for the whole URL.
    Proxied(TokioIo<TcpStream>),
    /// Over a socket in the file system.
    Unix(TokioIo<UnixStream>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(matches!(self, Stream::Proxied(_)))
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) | Stream::Proxied(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Stream::Unix(unix) => Pin::new(unix).poll_read(cx, buf),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(tcp) | Stream::Proxied(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Stream::Unix(unix) => Pin::new(unix).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) | Stream::Proxied(tcp) => Pin::new(tcp).poll_flush(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(tcp) | Stream::Proxied(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Stream::Unix(unix) => Pin::new(unix).poll_shutdown(cx),
        }
    }
}
