//! Sockets to listen on: by address, in the filesystem, or passed by systemd.
//!
//! Guarantees: `[::]` takes IPv4 too, unless `0.0.0.0` at the same port is listened on besides; a
//! socket file left behind is replaced, and has its permissions before anybody can connect. Never:
//! removes a file that is no socket, or one that somebody listens at.

use super::tls::Certificates;
use super::unsent::{UNSENT_BYTES, limit_unsent};
use super::{Bound, Peer};
use crate::config::bind::SYSTEMD;
use listenfd::ListenFd;
use rustix::net::sockopt::set_ipv6_v6only;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

/// Connections that the kernel holds until one is accepted, some 2 KB each; it takes no more than
/// net.core.somaxconn, which is this by default.
const BACKLOG: u32 = 4096;

/// What of the configuration sockets are made by.
pub struct Binding<'a> {
    /// `listen`, or `metrics.listen`
    pub addresses: &'a [String],
    /// For sockets in the filesystem.
    pub unix_mode: u32,
    /// With which TCP speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
}

/// Sockets that systemd passed to this process.
pub struct Passed {
    sockets: ListenFd,
    are_used: bool,
}

impl Passed {
    /// Takes them, so that no child of ours has them. Call it before there are threads.
    pub fn take() -> Passed {
        Passed {
            sockets: ListenFd::from_env(),
            are_used: false,
        }
    }

    /// There are none.
    pub fn none() -> Passed {
        Passed {
            sockets: ListenFd::empty(),
            are_used: false,
        }
    }

    /// Says so when nobody wanted them: clients would wait at them for ever.
    pub fn warn_if_idle(&self) {
        let passed = self.sockets.len();
        if passed > 0 && !self.are_used {
            tracing::warn!(
                passed,
                "sockets of systemd are not served: listen lacks \"systemd\""
            );
        }
    }

    fn listeners(&mut self, tls: Option<&Arc<Certificates>>) -> io::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        self.are_used = true;
        for number in 0..self.sockets.len() {
            let unix = match self.sockets.take_tcp_listener(number) {
                Ok(Some(tcp)) => {
                    tcp.set_nonblocking(true)?;
                    listeners.push(Listener::tcp(TcpListener::from_std(tcp)?, tls.cloned())?);
                    continue;
                }
                Ok(None) => continue,
                Err(_) => self.sockets.take_unix_listener(number)?,
            };
            if let Some(unix) = unix {
                unix.set_nonblocking(true)?;
                let path = unix.local_addr()?.as_pathname().map(Path::to_owned);
                listeners.push(Listener {
                    socket: Socket::Unix(UnixListener::from_std(unix)?),
                    bound: Bound::Unix(path.unwrap_or_default()),
                });
            }
        }
        match listeners.is_empty() {
            true => Err(io::Error::other(
                "systemd passed no sockets (LISTEN_FDS): start snowcached by a .socket unit",
            )),
            false => Ok(listeners),
        }
    }
}

/// A socket that did not come about.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; give --listen a free ADDRESS:PORT or unix:PATH")]
pub struct BindError {
    address: String,
    #[source]
    source: io::Error,
}

enum Socket {
    Tcp(TcpListener, Option<Arc<Certificates>>),
    Unix(UnixListener),
}

/// A bound socket.
pub struct Listener {
    socket: Socket,
    bound: Bound,
}

/// A connection just accepted.
pub enum Accepted {
    /// To be spoken to as it is.
    Plain(TcpStream, Peer),
    /// To be encrypted.
    Tls(TcpStream, Peer, Arc<Certificates>),
    /// By the socket in the filesystem.
    Unix(UnixStream),
}

impl Listener {
    /// Binds all addresses of `binding`.
    ///
    /// # Errors
    /// The first one that cannot be had.
    pub async fn bind(
        binding: &Binding<'_>,
        passed: &mut Passed,
    ) -> Result<Vec<Listener>, BindError> {
        let mut listeners = Vec::new();
        for address in binding.addresses {
            let bound = match address.strip_prefix("unix:") {
                Some(path) => Listener::unix(Path::new(path), binding.unix_mode).map(|it| vec![it]),
                None if address == SYSTEMD => passed.listeners(binding.certificates.as_ref()),
                None => Listener::at(address, binding).await.map(|it| vec![it]),
            };
            let failed = |source| BindError {
                address: address.clone(),
                source,
            };
            listeners.extend(bound.map_err(failed)?);
        }
        Ok(listeners)
    }

    async fn at(address: &str, binding: &Binding<'_>) -> io::Result<Listener> {
        let mut failed = io::Error::other("no such address");
        for found in tokio::net::lookup_host(address).await? {
            match bind_tcp(found, binding.addresses) {
                Ok(listener) => return Listener::tcp(listener, binding.certificates.clone()),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    fn tcp(listener: TcpListener, tls: Option<Arc<Certificates>>) -> io::Result<Listener> {
        let address = listener.local_addr()?;
        limit_unsent(&listener, UNSENT_BYTES)?;
        let bound = match tls {
            Some(_) => Bound::Tls(address),
            None => Bound::Tcp(address),
        };
        let socket = Socket::Tcp(listener, tls);
        Ok(Listener { socket, bound })
    }

    fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
        match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            // Left behind by somebody who has died: nobody accepts there.
            Ok(it) if it.file_type().is_socket() && BlockingStream::connect(path).is_err() => {}
            Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        }
        // Bound under another name, so that nobody finds it before it has its permissions.
        let mut new = PathBuf::from(path).into_os_string();
        new.push(".new");
        if std::fs::symlink_metadata(&new).is_ok_and(|it| it.file_type().is_socket()) {
            std::fs::remove_file(&new)?;
        }
        let socket = UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&new, path)?;
        Ok(Listener {
            socket: Socket::Unix(socket),
            bound: Bound::Unix(path.to_owned()),
        })
    }

    /// Where it is bound.
    pub fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Socket::Tcp(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                // Small answers leave at once; large ones fill their packets anyway.
                stream.set_nodelay(true)?;
                Ok(match tls {
                    None => Accepted::Plain(stream, Peer::Tcp(address)),
                    Some(tls) => Accepted::Tls(stream, Peer::Tls(address), tls.clone()),
                })
            }
            Socket::Unix(listener) => Ok(Accepted::Unix(listener.accept().await?.0)),
        }
    }
}

fn bind_tcp(address: SocketAddr, all: &[String]) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            let alone = !all.contains(&format!("0.0.0.0:{}", address.port()));
            set_ipv6_v6only(&socket, !(alone && address.ip().is_unspecified()))?;
            socket
        }
    };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
