//! P9: the same from far away: 20 ms for a round trip, and a link of 100 Mbit/s or 1 Gbit/s.
//!
//! ```text
//!   snowcached <--socket in the file system--> a proxy that holds all it carries for 10 ms
//!                                                ^--- lo, made slow by tc's tbf ---> the node
//! ```
//! All in a network namespace of its own, which takes root: this program starts itself again there.
//! A connection that is made costs a round trip, too; how TCP finds its speed is not part of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::support::harness::nix::Nix;
use super::support::harness::server::Snowcached;
use super::{middle, node, prefetch, push, rounds, timed};

/// The row inside the namespace.
pub const INSIDE: &str = "P9-inside";

const ONE_WAY: Duration = Duration::from_millis(10);
/// Rate, and what may go at once: what the kernel's clock lets pass between two looks.
const LINKS: [(&str, f64, &str); 2] = [("100mbit", 100e6, "128k"), ("1gbit", 1e9, "512k")];
/// Read at a time, and how many of these are held on the way: 20 ms of 1 Gbit/s are 2.5 MB.
const PIECE_BYTES: usize = 64 << 10;
const PIECES: usize = 64;

/// Starts this program again where it may shape its own network; says so where it may not.
pub fn row() {
    let this = std::env::current_exe().expect("this program");
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let ended = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", script])
        .arg(this)
        .args(std::env::args().skip(1))
        .env("SNOWCACHE_BENCH_ONLY", INSIDE)
        .status();
    if !ended.is_ok_and(|status| status.success()) {
        println!("P9 is not measured: it takes root, ip and tc (iproute2) to make a slow network");
    }
}

/// The row.
pub fn inside([before, after]: [&str; 2]) {
    let folder = super::support::harness::folder_on_disk();
    let socket = folder.path().join("socket");
    let listen = format!("unix:{}", socket.display());
    let server = Snowcached::start_with(
        super::support::harness::folder_on_disk(),
        "warn",
        &["--listen", &listen],
    );
    push(&server, &[before, after]);
    let trusted = server.public_key();
    let far = Far::before(socket);
    println!(
        "| nix | link | cold s | own wire s | near s | of the larger | rebuild s | stock s | x |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for nix in Nix::both() {
        for (rate, bits_per_s, burst) in LINKS {
            let (mut colds, mut rebuilds) = (Vec::new(), Vec::new());
            for _ in 0..rounds() {
                let cold = |url: &str| {
                    let (node, user, _daemon) = node(&nix, &trusted, "");
                    timed(&node, &user, &nix, &prefetch(before, url)).as_secs_f64()
                };
                let rebuild = |script: &dyn Fn(&str) -> String| {
                    let (node, user, _daemon) = node(&nix, &trusted, &far.url());
                    node.sh(&user, &nix, &prefetch(before, &server.url())).ok();
                    slow(Some((rate, burst)));
                    let took = timed(&node, &user, &nix, &script(after)).as_secs_f64();
                    slow(None);
                    took
                };
                let near = cold(&server.url());
                slow(Some((rate, burst)));
                let carried = far.carried();
                let away = cold(&far.url());
                slow(None);
                let wire = (far.carried() - carried) as f64 * 8.0 / bits_per_s;
                let ours = rebuild(&|top| prefetch(top, &far.url()));
                let stock = rebuild(&|top| format!("NIX_REMOTE=daemon nix-store --realise {top}"));
                let (of_larger, times) = (away / wire.max(near), stock / ours);
                println!(
                    "| {} | {rate} | {away:.2} | {wire:.2} | {near:.2} | {of_larger:.2} | \
                     {ours:.2} | {stock:.2} | {times:.1} |",
                    nix.version
                );
                colds.push(of_larger);
                rebuilds.push(times);
            }
            println!(
                "{} at {rate}: {} of the larger of wire and near, rebuild {} times as fast",
                nix.version,
                middle(colds),
                middle(rebuilds)
            );
        }
    }
}

/// Makes this namespace's lo slow, or as it was.
fn slow(link: Option<(&str, &str)>) {
    let mut command = Command::new("tc");
    match link {
        Some((rate, burst)) => command
            .args(["qdisc", "replace", "dev", "lo", "root", "tbf"])
            .args(["rate", rate, "burst", burst, "latency", "100ms"]),
        None => command.args(["qdisc", "del", "dev", "lo", "root"]),
    };
    assert!(
        command.status().is_ok_and(|it| it.success()),
        "tc shapes lo"
    );
}

/// A proxy that holds what it carries for a while, both ways.
struct Far {
    address: SocketAddr,
    carried: Arc<AtomicU64>,
}

impl Far {
    fn before(socket: PathBuf) -> Far {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let carried = Arc::<AtomicU64>::default();
        let counter = carried.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Some([client, server]) = both(client, &socket) else {
                    continue;
                };
                // The first request comes after the connection was made.
                carry(client.0, server.1, 3 * ONE_WAY, counter.clone());
                carry(server.0, client.1, ONE_WAY, counter.clone());
            }
        });
        Far { address, carried }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }
}

/// Where one end reads, and writes until it says that it has ended.
type End = (Box<dyn Read + Send>, Box<dyn Ending + Send>);

/// What can be written to until its end is told.
trait Ending: Write {
    fn end(&self);
}

impl Ending for TcpStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).ok();
    }
}

impl Ending for UnixStream {
    fn end(&self) {
        self.shutdown(Shutdown::Write).ok();
    }
}

fn both(client: TcpStream, socket: &Path) -> Option<[End; 2]> {
    client.set_nodelay(true).ok()?;
    let server = UnixStream::connect(socket).ok()?;
    let (reads_client, reads_server) = (client.try_clone().ok()?, server.try_clone().ok()?);
    Some([
        (Box::new(reads_client), Box::new(client)),
        (Box::new(reads_server), Box::new(server)),
    ])
}

/// Carries one direction, each piece `ONE_WAY` after it came, the first `first` after.
fn carry(
    mut from: Box<dyn Read + Send>,
    to: Box<dyn Ending + Send>,
    first: Duration,
    count: Arc<AtomicU64>,
) {
    let (sender, held): (SyncSender<(Instant, Vec<u8>)>, _) = sync_channel(PIECES);
    thread::spawn(move || deliver(&held, to));
    thread::spawn(move || {
        let (mut buffer, mut delay) = (vec![0; PIECE_BYTES], first);
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            count.fetch_add(len as u64, Ordering::Relaxed);
            let due = Instant::now() + delay;
            delay = ONE_WAY;
            if sender.send((due, buffer[..len].to_vec())).is_err() {
                break;
            }
        }
    });
}

fn deliver(held: &Receiver<(Instant, Vec<u8>)>, mut to: Box<dyn Ending + Send>) {
    while let Ok((due, piece)) = held.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            return;
        }
    }
    to.end();
}
