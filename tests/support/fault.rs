//! A wire to a server that can be made to fail in the ways of networks and of caches that are not
//! what they say, at any moment, and to heal.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// What the wire does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It passes everything on.
    Good = 0,
    /// A byte of every piece that comes from the server is another one.
    Lies = 1,
    /// Nothing passes, and nobody is told.
    Stalls = 2,
    /// Every connection ends at once, new ones as well.
    Gone = 3,
}

/// See the module. Ends with the test's process.
#[derive(Clone)]
pub struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    mode: AtomicU8,
    /// Connections of earlier ones have been cut.
    epoch: AtomicU64,
    passed_bytes: AtomicU64,
}

impl Wire {
    pub fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared: Arc<Shared> = Arc::default();
        let wire = Wire {
            address,
            shared: shared.clone(),
        };
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                connect(near, server, &shared);
            }
        });
        wire
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Ends every connection that there is; new ones are well.
    pub fn cut(&self) {
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// In both directions.
    pub fn passed_bytes(&self) -> u64 {
        self.shared.passed_bytes.load(Ordering::SeqCst)
    }
}

fn connect(near: TcpStream, server: SocketAddr, shared: &Arc<Shared>) {
    if shared.is(Mode::Gone) {
        return;
    }
    let Ok(far) = TcpStream::connect(server) else {
        return;
    };
    let epoch = shared.epoch.load(Ordering::SeqCst);
    let (near2, far2) = match (near.try_clone(), far.try_clone()) {
        (Ok(near), Ok(far)) => (near, far),
        _ => return,
    };
    for (from, to, is_answer) in [(near, far, false), (far2, near2, true)] {
        let shared = shared.clone();
        thread::spawn(move || pump(from, to, is_answer, epoch, &shared));
    }
}

/// How often a connection that nothing passes through looks whether it has been cut.
const LOOK: Duration = Duration::from_millis(5);

fn pump(mut from: TcpStream, mut to: TcpStream, is_answer: bool, epoch: u64, shared: &Shared) {
    let mut chunk = [0; 16 << 10];
    from.set_read_timeout(Some(LOOK)).expect("a timeout");
    let over = || shared.is(Mode::Gone) || shared.epoch.load(Ordering::SeqCst) != epoch;
    loop {
        let count = match from.read(&mut chunk) {
            Ok(0) => {
                to.shutdown(Shutdown::Write).ok();
                return;
            }
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && !over() => continue,
            Err(_) => break,
        };
        while shared.is(Mode::Stalls) && !over() {
            thread::sleep(LOOK);
        }
        if over() {
            break;
        }
        if is_answer && shared.is(Mode::Lies) {
            chunk[count / 2] ^= 1;
        }
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
        shared
            .passed_bytes
            .fetch_add(count as u64, Ordering::SeqCst);
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

impl Shared {
    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }
}
