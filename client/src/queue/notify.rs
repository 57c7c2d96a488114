//! What systemd is told of a service: that it works, at what, and that it lives (sd_notify(3)).
//!
//! Guarantees: without systemd nothing happens. Never: fails because nobody listens.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Tells it.
pub fn tell(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        eprintln!("snowcache: systemd could not be told {state:?}: {error}");
    }
}

/// How often it wants to hear that we live: at half of what it waits.
pub fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let patience_us = number("WATCHDOG_USEC").filter(|us| ours && *us > 0)?;
    Some(Duration::from_micros(patience_us) / 2)
}

/// Tells systemd that we live, while our threads get around to it. Ends only where nobody asks.
pub async fn keep_watch() {
    let Some(patience) = watchdog() else {
        return;
    };
    loop {
        tell("WATCHDOG=1");
        tokio::time::sleep(patience).await;
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    let sent = UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    match sent == state.len() {
        true => Ok(()),
        false => Err(io::ErrorKind::WriteZero.into()),
    }
}
