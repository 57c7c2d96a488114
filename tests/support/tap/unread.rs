//! What of a connection's bytes the server has not read, and what of these had not even left: they
//! wait in one kernel or the other.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel tells of its sockets page by page, and may leave one out when others come and go
/// meanwhile. A connection that is over is missing so often.
const LOOKS: usize = 20;
/// What one has received it tells the other within 200 ms (TCP_DELACK_MAX); until then it lies in
/// both.
const TOLD_WITHIN: Duration = Duration::from_millis(250);

/// Bytes that were written to a socket and nobody has read.
#[derive(Clone, Copy, Default)]
pub struct Unread {
    /// Waiting to be sent.
    pub unsent: u64,
    /// Waiting to be read.
    pub received: u64,
}

/// Of `socket`, which leads to a server of this machine that reads nothing now; None where there is
/// no such connection any more.
pub fn by(server: SocketAddr, socket: &TcpStream) -> Option<Unread> {
    let own = socket.local_addr().ok()?.port();
    let look = || {
        // What the one has not sent, or not been told of, and what the other has and nobody read.
        let looks = (0..LOOKS).map(|_| {
            let unsent = waiting(own, server.port())?.0;
            Some((unsent, waiting(server.port(), own)?.1))
        });
        looks.flatten().next()
    };
    let mut seen = look()?;
    let mut since = Instant::now();
    while seen.0 > 0 && since.elapsed() < TOLD_WITHIN {
        thread::sleep(Duration::from_millis(5));
        let now = look()?;
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    // What had been sent has been told of by now, so that all that waits has not.
    let (unsent, received) = seen;
    Some(Unread { unsent, received })
}

/// The queues of the socket at port `at` that leads to port `to`: to be sent, to be read. proc(5),
/// /proc/net/tcp: addresses, state and queues are hexadecimal.
fn waiting(at: u16, to: u16) -> Option<(u64, u64)> {
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port = |address: &str| address.rsplit(':').next().map(str::to_owned);
    let (at, to) = (Some(format!("{at:04X}")), Some(format!("{to:04X}")));
    let found = table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends = (port(fields.next()?), port(fields.next()?));
        let (_state, queues) = (fields.next()?, fields.next()?);
        (ends == (at.clone(), to.clone())).then(|| queues.to_owned())
    });
    let number = |text| u64::from_str_radix(text, 16).expect("a number");
    let found = found?;
    let (sent, read) = found.split_once(':')?;
    Some((number(sent), number(read)))
}
