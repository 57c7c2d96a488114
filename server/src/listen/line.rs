//! The connection of an upload: whether its client has gone, asked while nobody reads from it, and
//! how much the kernel receives ahead of the upload.
//!
//! ```text
//!   an upload --watch--> Line <--its socket, once more-- Sender, at its next read
//!   who comes back and asks  --is_cut--> poll: has the other side closed?
//! ```
//! What a client sent before it died lies in the kernel until its upload has read that far; only
//! then hyper tells of the end. The kernel knows at once. And what lies there is lost when the
//! server dies, so that from a client that is near it takes little.
//!
//! Guarantees: costs a connection that nobody watches a look at two flags for each read. Never: a
//! socket held open longer than it is watched; a buffer bounded that no upload used.

use super::unsent::shortest_round_trip;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What the kernel receives of an upload before it is read; it takes twice as much, its own
/// bookkeeping included. That is what a connection begins with (net.ipv4.tcp_rmem), from where it
/// grows to 6 MiB, all of it lost when the server dies. With less the kernel would drop what the
/// client had been allowed to send, which then waits for a timeout.
const UNREAD_BYTES: usize = 64 << 10;

/// So near is a client whom 64 KiB in each round trip are enough: 64 MB/s for each stream, as much
/// as a lane compresses. Over a longer way it takes more to fill it, and the kernel sees to that.
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
            if let Err(error) = receive_little(socket) {
                tracing::debug!(%error, "an upload's socket stays as it is");
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

/// Bounds what the kernel receives before it is read, of a client that is near.
fn receive_little(socket: BorrowedFd<'_>) -> io::Result<()> {
    match shortest_round_trip(&socket)? <= NEAR {
        true => Ok(set_socket_recv_buffer_size(socket, UNREAD_BYTES)?),
        false => Ok(()),
    }
}

impl Watched {
    /// Whether nothing was read since it is watched, so that nothing is known of the client.
    pub fn is_blind(&self) -> bool {
        self.0.0.wanted.load(Ordering::Relaxed)
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
    use rustix::io::ioctl_fionread;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

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
    /// What lies unread on a connection over which much was read, when nobody reads any more.
    fn unread_behind_much(line: &Line) -> u64 {
        const MUCH_BYTES: u64 = 64 << 20;
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("there");
        let (server, _) = listener.accept().expect("accepted");
        line.show(server.as_fd());
        let its_end = client.try_clone().expect("a descriptor");
        let sending = thread::spawn(move || {
            let endless = std::io::repeat(7);
            std::io::copy(&mut endless.take(2 * MUCH_BYTES), &mut client).is_ok()
        });
        let read = std::io::copy(&mut (&server).take(MUCH_BYTES), &mut std::io::sink());
        assert_eq!(read.expect("a client that sends"), MUCH_BYTES);
        let mut seen = 0;
        loop {
            thread::sleep(Duration::from_millis(100));
            let now = ioctl_fionread(&server).expect("a socket");
            if now == seen {
                break;
            }
            seen = now;
        }
        its_end.shutdown(Shutdown::Both).expect("it is open");
        assert!(!sending.join().expect("no panic"), "it was cut off");
        seen
    }

    #[test]
    fn little_lies_unread_of_an_upload_and_nothing_else_is_held_back() {
        let (upload, other) = (Line::default(), Line::default());
        let watched = upload.watch();
        let (unread, others) = (unread_behind_much(&upload), unread_behind_much(&other));
        assert!(!watched.is_blind());
        assert!(unread <= 2 * UNREAD_BYTES as u64, "{unread} bytes");
        assert!(others > 2 * UNREAD_BYTES as u64, "{others} bytes");
    }
}
