//! The connection of an upload: whether its client has gone, asked while nobody reads from it, and
//! whether it is near.
//!
//! ```text
//!   an upload --watch--> Line <--its socket, once more-- Sender, at its next read
//!   who comes back and asks  --is_cut--> poll: has the other side closed?
//! ```
//! What a client sent before it died lies in the kernel until its upload has read that far; only
//! then hyper tells of the end. The kernel knows at once, and how far away the client is.
//!
//! Guarantees: costs a connection that nobody watches a look at two flags for each read. Never: a
//! socket held open longer than it is watched.

use super::unsent::shortest_round_trip;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::AddressFamily;
use rustix::net::sockopt::socket_domain;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// So near is a client that loses little by waiting for each frame to be taken: of some 150 KB,
/// which a lane compresses in 2 ms or more. Over a longer way more has to be under way.
const NEAR: Duration = Duration::from_millis(1);

/// Shared by a connection's requests and its `Sender`.
#[derive(Clone, Debug, Default)]
pub struct Line(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Somebody watches.
    watched: AtomicBool,
    /// And has no socket yet.
    wanted: AtomicBool,
    /// The client is, as far as was seen when the socket was shown.
    near: AtomicBool,
    socket: Mutex<Option<OwnedFd>>,
}

/// Watches until it is dropped.
#[derive(Debug)]
pub struct Watched(Line);

impl Line {
    /// Has the connection's next read show its socket.
    pub fn watch(&self) -> Watched {
        self.0.wanted.store(true, Ordering::Relaxed);
        self.0.watched.store(true, Ordering::Relaxed);
        Watched(self.clone())
    }

    /// Whether somebody watches: an upload is under way.
    pub(crate) fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed)
    }

    /// Gives whoever watches a second handle of the socket, and has its kernel receive little.
    /// Without a free descriptor nobody sees anything, which costs sending again what was on its
    /// way.
    pub(crate) fn show(&self, socket: BorrowedFd<'_>) {
        if self.0.wanted.load(Ordering::Relaxed) && self.0.wanted.swap(false, Ordering::Relaxed) {
            match is_near(socket) {
                Ok(near) => self.0.near.store(near, Ordering::Relaxed),
                Err(error) => tracing::debug!(%error, "nobody knows how far an upload's client is"),
            }
            match socket.try_clone_to_owned() {
                Ok(again) => *self.socket() = Some(again),
                Err(error) => tracing::debug!(%error, "an upload cannot be watched"),
            }
        }
    }

    fn socket(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        let socket = self.0.socket.lock();
        socket.expect("invariant: no panic while the lock is held")
    }
}

/// Whether the other end is on this machine, or no further away than [`NEAR`].
fn is_near(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(socket_domain(socket)? == AddressFamily::UNIX || shortest_round_trip(&socket)? <= NEAR)
}

impl Watched {
    /// Whether nothing was read since it is watched, so that nothing is known of the client.
    pub fn is_blind(&self) -> bool {
        self.0.0.wanted.load(Ordering::Relaxed)
    }

    /// Whether the client is near; false as long as that is not known.
    pub fn is_near(&self) -> bool {
        self.0.0.near.load(Ordering::Relaxed)
    }

    /// Whether the client has closed its side, or is gone; false as long as that is not known.
    pub fn is_cut(&self) -> bool {
        let socket = self.0.socket();
        let Some(socket) = socket.as_ref() else {
            return false;
        };
        let mut asked = [PollFd::new(socket, PollFlags::RDHUP)];
        let at_once = Timespec::default();
        match poll(&mut asked, Some(&at_once)).map_err(io::Error::from) {
            Ok(said) => said > 0,
            Err(error) => {
                tracing::debug!(%error, "a socket cannot be asked");
                false
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.0.wanted.store(false, Ordering::Relaxed);
        self.0.0.watched.store(false, Ordering::Relaxed);
        *self.0.socket() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn who_has_gone_is_seen_behind_what_nobody_has_read() {
        let (mut client, server) = UnixStream::pair().expect("a pair");
        let line = Line::default();
        line.show(server.as_fd());
        let watched = line.watch();
        assert!(watched.is_blind() && !watched.is_cut());
        line.show(server.as_fd());
        assert!(!watched.is_blind());
        client.write_all(b"not read").expect("there is room");
        assert!(!watched.is_cut());
        drop(client);
        assert!(watched.is_cut());
        assert!(line.is_watched());
        drop(watched);
        assert!(
            !line.is_watched() && line.socket().is_none(),
            "nobody watches"
        );
        assert!(!line.watch().is_cut());
    }
    #[test]
    fn near_is_who_is_on_this_machine_and_nobody_of_whom_nothing_is_known() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("there");
        let (tcp, _) = listener.accept().expect("accepted");
        let (other, unix) = UnixStream::pair().expect("a pair");
        let strange = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let sockets = [
            (tcp.as_fd(), true),
            (unix.as_fd(), true),
            (strange.as_fd(), false),
        ];
        for (socket, is_near) in sockets {
            let line = Line::default();
            let watched = line.watch();
            assert!(!watched.is_near(), "nothing was read");
            line.show(socket);
            assert_eq!(watched.is_near(), is_near);
        }
        drop((client, other));
    }
}
