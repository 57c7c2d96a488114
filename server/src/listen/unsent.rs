//! How much the kernel takes of an answer before the client has room for it, and how far away that
//! client is.
//!
//! Guarantees: bytes that were written and not yet sent are bounded for each connection, whatever
//! its client does; what is on its way is bounded by the client's window alone, so that a long way
//! is filled as ever. With `unsafe`, for no safe wrapper has these options.

#![allow(unsafe_code)]

use std::io;
use std::mem::{offset_of, size_of_val};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Bytes that wait in the kernel for a client: two sends of 64 KiB, the most that a packet takes
/// before the card cuts it. Without it a client that reads nothing holds 4 MB (net.ipv4.tcp_wmem).
pub const UNSENT_BYTES: libc::c_int = 128 << 10;

/// The same for a client that takes what it gets, and has one of [`WIDE_PLACES`]: 128 KiB are sent
/// in a tenth of a millisecond, and waking up for so little costs a third of sending it.
pub const WIDE_UNSENT_BYTES: libc::c_int = 1 << 20;

/// Connections at once that are allowed so much: 64 MiB of the kernel's memory.
pub const WIDE_PLACES: usize = 64;

/// Bounds what waits on `socket`, and on the connections that it accepts, to `bytes` each.
///
/// # Errors
/// The kernel's.
pub fn limit_unsent(socket: &impl AsFd, bytes: libc::c_int) -> io::Result<()> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel reads the value's
    // own length from the address of the value, which lives until the call is over.
    let result = unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const bytes).cast(),
            size_of_val(&bytes) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The shortest time in which a packet and its acknowledgement went to the client and back, since
/// the connection was made; very long as long as there was none. (Of all of them a client that has
/// nothing to say delays some by up to 40 ms.)
///
/// # Errors
/// The kernel's, where this is no TCP connection, or one that does not tell: before Linux 4.9.
pub fn shortest_round_trip(socket: &impl AsFd) -> io::Result<Duration> {
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: every field is a number, or an array of these, for which zeros are a value.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes at most
    // `len` bytes to `info`, which has so many, and their number to `len`; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    let needed = offset_of!(libc::tcp_info, tcpi_min_rtt) + size_of_val(&info.tcpi_min_rtt);
    match result {
        0 if len as usize >= needed => Ok(Duration::from_micros(info.tcpi_min_rtt.into())),
        0 => Err(io::ErrorKind::Unsupported.into()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn an_accepted_connection_takes_little_that_nobody_reads() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        limit_unsent(&listener, UNSENT_BYTES).expect("set");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        rustix::net::sockopt::set_socket_recv_buffer_size(&client, 16 << 10).expect("set");
        let (mut server, _) = listener.accept().expect("accept");
        server.set_nonblocking(true).expect("set");
        let mut fill = || {
            let mut taken = 0;
            let full = loop {
                match server.write(&[0; 16 << 10]) {
                    Ok(bytes) => taken += bytes,
                    Err(error) => break error,
                }
            };
            assert_eq!(full.kind(), ErrorKind::WouldBlock);
            let wide = limit_unsent(&server, WIDE_UNSENT_BYTES);
            wide.expect("set");
            taken
        };
        let (narrow, more) = (fill(), fill());
        assert!(narrow < 1 << 19, "{narrow} bytes");
        assert!((1 << 19..2 << 20).contains(&more), "{more} bytes more");
    }
}
