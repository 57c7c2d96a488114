//! A wire to a server that can be made to fail in the ways of networks and of caches that are not
//! what they say, at any moment, and to heal.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

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
    asked: Mutex<Vec<Asked>>,
    fuse: Mutex<Fuse>,
}

/// A request that came along a wire.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its first line.
    pub line: String,
    /// When the first bytes of its answer passed.
    pub answered: Option<Instant>,
}

/// What makes a wire fail by itself.
#[derive(Default)]
struct Fuse {
    /// What requests, how many of them pass before, the bytes of the answer, and then.
    at: Option<(String, usize, u64, Mode)>,
    /// The request has come: what may pass in all, and then.
    lit: Option<(u64, Mode)>,
    blown: Option<Instant>,
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

    /// Becomes so once a request with this in its first line came and so many bytes passed after
    /// it; with none, that request does not pass.
    pub fn fail_at(&self, request: &str, after_bytes: u64, mode: Mode) {
        self.shared.fuse().at = Some((request.to_owned(), 0, after_bytes, mode));
    }

    /// Lets so many of these requests pass, and stalls at the next; healed by `set`.
    pub fn stall_after(&self, count: usize, request: &str) {
        let mut fuse = self.shared.fuse();
        fuse.blown = None;
        fuse.at = Some((request.to_owned(), count, 0, Mode::Stalls));
    }

    /// Waits until it has failed by itself.
    #[track_caller]
    pub fn wait_until_failed(&self) {
        let begin = Instant::now();
        while self.failed().is_none() {
            assert!(begin.elapsed() < PATIENCE, "that is never asked for");
            thread::sleep(LOOK);
        }
    }

    /// When that was.
    pub fn failed(&self) -> Option<Instant> {
        self.shared.fuse().blown
    }

    /// Waits until whoever is at its near end has read all that passed. (proc(5), /proc/net/tcp:
    /// ports and queues are hexadecimal.)
    #[track_caller]
    pub fn wait_until_read(&self) {
        let port = format!(":{:04X}", self.address.port());
        let unread = || -> u64 {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
            let queues = table.lines().skip(1).filter_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (to_send, to_read) = fields[4].split_once(':')?;
                let is_here = fields[1].ends_with(&port);
                let queue = if is_here { to_send } else { to_read };
                (is_here || fields[2].ends_with(&port)).then_some(queue)
            });
            let numbers = queues.map(|queue| u64::from_str_radix(queue, 16).expect("a number"));
            numbers.sum()
        };
        let (begin, mut read) = (Instant::now(), 0);
        // The kernel may leave a socket out when others come and go meanwhile.
        while read < 20 {
            assert!(
                begin.elapsed() < PATIENCE,
                "{} bytes are not read",
                unread()
            );
            read = if unread() == 0 { read + 1 } else { 0 };
            thread::sleep(LOOK);
        }
    }

    /// What was asked for along it so far, whether it passed or not.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no poison").clone()
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
    // The number of the request that is answered now.
    let asked: Arc<Mutex<Option<usize>>> = Arc::default();
    let (near2, far2) = match (near.try_clone(), far.try_clone()) {
        (Ok(near), Ok(far)) => (near, far),
        _ => return,
    };
    for (from, to, is_answer) in [(near, far, false), (far2, near2, true)] {
        let (shared, asked) = (shared.clone(), asked.clone());
        let way = Way {
            is_answer,
            epoch,
            asked,
        };
        thread::spawn(move || pump(from, to, &way, &shared));
    }
}

/// One direction of a connection.
struct Way {
    is_answer: bool,
    epoch: u64,
    asked: Arc<Mutex<Option<usize>>>,
}

/// Longer than anything should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often a connection that nothing passes through looks whether it has been cut.
const LOOK: Duration = Duration::from_millis(5);

fn pump(mut from: TcpStream, mut to: TcpStream, way: &Way, shared: &Shared) {
    let mut chunk = [0; 16 << 10];
    from.set_read_timeout(Some(LOOK)).expect("a timeout");
    let over = || shared.is(Mode::Gone) || shared.epoch.load(Ordering::SeqCst) != way.epoch;
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
        match way.is_answer {
            false => shared.note_request(&chunk[..count], way),
            true => shared.burn(),
        }
        while shared.is(Mode::Stalls) && !over() {
            thread::sleep(LOOK);
        }
        if over() {
            break;
        }
        if way.is_answer {
            shared.note_answer(way);
            if shared.is(Mode::Lies) {
                chunk[count / 2] ^= 1;
            }
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

    fn fuse(&self) -> std::sync::MutexGuard<'_, Fuse> {
        self.fuse.lock().expect("no poison")
    }

    fn note_request(&self, chunk: &[u8], way: &Way) {
        let line = chunk.split(|byte| *byte == b'\r').next();
        let line = String::from_utf8_lossy(line.unwrap_or_default());
        if !line.ends_with(" HTTP/1.1") {
            return;
        }
        let mut asked = self.asked.lock().expect("no poison");
        let number = asked.len();
        asked.push(Asked {
            line: line.clone().into_owned(),
            answered: None,
        });
        drop(asked);
        *way.asked.lock().expect("no poison") = Some(number);
        let mut fuse = self.fuse();
        let is_it = |at: &mut (String, usize, u64, Mode)| {
            let counts = line.contains(&*at.0);
            let is_it = counts && at.1 == 0;
            at.1 -= usize::from(counts && !is_it);
            is_it
        };
        if let Some((.., after_bytes, mode)) = fuse.at.take_if(is_it) {
            let passed = self.passed_bytes.load(Ordering::SeqCst);
            fuse.lit = Some((passed + after_bytes, mode));
        }
        drop(fuse);
        self.burn();
    }

    fn note_answer(&self, way: &Way) {
        let number = way.asked.lock().expect("no poison").take();
        if let Some(number) = number {
            let mut asked = self.asked.lock().expect("no poison");
            asked[number].answered = Some(Instant::now());
        }
    }

    /// Fails if as much has passed as may.
    fn burn(&self) {
        let mut fuse = self.fuse();
        let passed = self.passed_bytes.load(Ordering::SeqCst);
        if let Some((_, mode)) = fuse.lit.take_if(|(most, _)| passed >= *most) {
            self.mode.store(mode as u8, Ordering::SeqCst);
            fuse.blown = Some(Instant::now());
        }
    }
}
