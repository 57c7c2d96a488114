//! Connections that only cost: heads that never end, readers that do not read, keep-alive that is
//! never used again. They are held open while something else is measured.

use std::fs;
use std::io;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;

use tokio::sync::oneshot;

use super::target::Target;
use super::wire::Wire;

/// What the connections do before they go still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Send half of a request's head.
    Heads,
    /// Ask for something big and read 1 KB of it.
    Readers,
    /// Ask for something small, read it, and stay.
    Idle,
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        match text {
            "heads" => Ok(Kind::Heads),
            "readers" => Ok(Kind::Readers),
            "idle" => Ok(Kind::Idle),
            _ => Err(format!("`{text}` is none of heads, readers, idle")),
        }
    }
}

/// Connections that are held until this is dropped.
pub struct Held {
    /// How many stand.
    pub count: usize,
    /// Why the others do not.
    pub complaint: Option<String>,
    release: Option<oneshot::Sender<()>>,
    holder: Option<thread::JoinHandle<()>>,
}

/// A stalled reader's receive buffer: what it takes on its own side is no cost of the server's.
const RECEIVE_BYTES: u32 = 16 << 10;
/// Descriptors that a process needs besides.
const SPARE_DESCRIPTORS: usize = 200;

impl Held {
    /// So many, about `path` (something big for readers, something small for the idle).
    pub fn hold(target: &Target, kind: Kind, count: usize, path: &str) -> Held {
        let (target, path) = (target.clone(), path.to_owned());
        let (ready, readiness) = mpsc::channel();
        let (release, released) = oneshot::channel();
        let holder = thread::spawn(move || {
            super::block_on(async {
                let (mut wires, mut complaint) = (Vec::with_capacity(count), None);
                for _ in 0..count {
                    match one(&target, kind, &path).await {
                        Ok(wire) => wires.push(wire),
                        Err(error) => {
                            complaint = Some(error.to_string());
                            break;
                        }
                    }
                }
                ready.send((wires.len(), complaint)).ok();
                released.await.ok();
            });
        });
        let (count, complaint) = readiness.recv().expect("the holder's thread");
        Held {
            count,
            complaint,
            release: Some(release),
            holder: Some(holder),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release.send(()).ok();
        }
        if let Some(holder) = self.holder.take() {
            holder.join().ok();
        }
    }
}

async fn one(target: &Target, kind: Kind, path: &str) -> io::Result<Wire> {
    let mut wire = target.connect_with(Some(RECEIVE_BYTES)).await?;
    let request = target.request("GET", path, "");
    match kind {
        Kind::Heads => wire.send(&request[..request.len() / 2]).await?,
        Kind::Readers => {
            wire.send(&request).await?;
            if wire.sip(1024).await? == 0 {
                return Err(io::Error::other("closed at once"));
            }
        }
        Kind::Idle => {
            wire.send(&request).await?;
            wire.receive(false, |_| {}).await?;
        }
    }
    Ok(wire)
}

/// As many connections as this process (and a server that it starts) may have at once.
pub fn most_connections() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    usize::saturating_sub(soft.unwrap_or(1024), SPARE_DESCRIPTORS)
}

/// What the kernel holds for all TCP sockets of this machine, both ends of a loopback connection
/// among them, in KiB.
pub fn kernel_tcp_kib() -> u64 {
    let stat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = stat.lines().find(|line| line.starts_with("TCP:"));
    let pages = line.and_then(|line| line.split_whitespace().last()?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64 / 1024
}
