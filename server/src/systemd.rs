//! What systemd is told: that the server is ready, what it does, that it lives.
//!
//! ```text
//!   $NOTIFY_SOCKET <-- READY=1 when every socket listens
//!                  <-- WATCHDOG=1 at half of $WATCHDOG_USEC, while runtime and depot answer
//!                  <-- RELOADING=1, READY=1 around a reload;  STOPPING=1 at SIGTERM
//! ```
//! The protocol of sd_notify(3). Guarantees: without systemd nothing happens. Never: fails a start
//! because nobody listens.

use rustix::time::{ClockId, clock_gettime};
use snowcache_depot::Depot;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Every socket listens.
pub fn ready() {
    notify("READY=1\nSTATUS=serving");
}

/// New requests are no longer wanted.
pub fn stopping() {
    notify("STOPPING=1\nSTATUS=requests under way may end");
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    let now = clock_gettime(ClockId::Monotonic);
    let now_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"));
}

/// Says that the server lives as often as systemd wants it, while it does, for ever.
pub async fn keep_watch(depot: Depot) {
    let Some(patience) = watchdog() else {
        return;
    };
    loop {
        let depot = depot.clone();
        let answer = tokio::task::spawn_blocking(move || depot.vitals());
        match tokio::time::timeout(patience, answer).await {
            Ok(Ok(Ok(_))) => notify("WATCHDOG=1"),
            Ok(Ok(Err(error))) => tracing::error!(%error, "the depot does not answer"),
            Ok(Err(error)) => tracing::error!(%error, "asking the depot panicked"),
            Err(_) => tracing::error!("the depot does not answer; systemd will restart the server"),
        }
        tokio::time::sleep(patience).await;
    }
}

/// Half of what systemd waits, so that one late answer is no reason to restart.
fn watchdog() -> Option<Duration> {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
    let patience_us = number("WATCHDOG_USEC").filter(|us| ours && *us > 0)?;
    Some(Duration::from_micros(patience_us) / 2)
}

fn notify(state: &str) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, "systemd could not be told {state:?}");
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
