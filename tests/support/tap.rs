//! A wire for pushes that reads along: it knows which request is under way and which record of its
//! stream, stops at an appointed place, and remembers which frames had left it, and of these which
//! the server had read when it was killed: what lies in the kernel no server can know of.

pub mod parser;
mod unread;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use parser::{Parser, Read as Seen};
use rustix::net::sockopt::set_socket_send_buffer_size;
use unread::Unread;

/// Longer than anything here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place in what a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A question below `/api/v1/` is asked, its answer does not arrive.
    Asked(&'static str),
    /// A stream has begun: its head and its first record are through.
    Begun,
    /// In the middle of a frame.
    InFrame,
    /// Behind the end of a NAR.
    NarEnded,
    /// The stream is through, its answer does not arrive.
    StreamEnded,
}

/// A write waits so long for room, so that what was written is known soon.
const WRITE_PATIENCE: Duration = Duration::from_millis(1);
/// What waits here to be sent: little, as the client's own kernel holds little of what it sends. It
/// takes twice as much, its own bookkeeping included.
const SEND_BYTES: usize = 64 << 10;
const MOMENT: Duration = Duration::from_micros(200);

/// A frame: its name, its length as it is stored, and where in all that its connection sends it
/// ends.
struct Frame {
    id: [u8; 32],
    bytes: u64,
    end: u64,
}

/// What was written to the server on a connection.
#[derive(Default)]
struct Written {
    bytes: u64,
    /// No more may be, until the connection is cut.
    halted: bool,
}

/// A stream of an upload, as far as it came here.
struct Stream {
    connection: usize,
    frames: Vec<Frame>,
    /// Not answered.
    open: bool,
    /// How many kills came before it, and whether one came in the midst of it.
    kills_before: usize,
    killed: bool,
    /// What of its connection's bytes had left when the server was killed, and what this had read.
    left: Option<u64>,
    read: u64,
}

/// What was sent again of a stream that was killed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Again {
    /// Of all that had left the sender.
    pub left: Count,
    /// Of what the server had read.
    pub read: Count,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Count {
    pub frames: usize,
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
    }
}

#[derive(Default)]
struct State {
    /// Where to stop: at which of these places, counted from 0.
    stop: Option<(Place, u64)>,
    /// The connection that is stopped.
    stopped: Option<usize>,
    /// Connections with a number below this one are cut.
    cut_below: usize,
    sockets: HashMap<usize, [TcpStream; 2]>,
    /// What was written to the server, by connection; locked while more is written.
    written: HashMap<usize, Arc<Mutex<Written>>>,
    next: usize,
    kills: usize,
    streams: Vec<Stream>,
}

/// Ends with the test's process.
pub struct Tap {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Tap {
    pub fn to(server: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::<Shared>::default();
        let tap = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // While the server is down nobody answers.
                if let Ok(server) = TcpStream::connect(server) {
                    carry(&tap, client, server);
                }
            }
        });
        Tap { address, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops at the next but `nth` of these places.
    pub fn stop_at(&self, place: Place, nth: u64) {
        let mut state = self.shared.lock();
        assert!(state.stopped.is_none(), "it is stopped already");
        state.stop = Some((place, nth));
    }

    /// Waits until the place was reached; false when `over` says that it will not be.
    pub fn is_reached(&self, mut over: impl FnMut() -> bool) -> bool {
        let begin = Instant::now();
        loop {
            {
                let state = self.shared.lock();
                let moment = Duration::from_millis(20);
                let waited = self.shared.changed.wait_timeout(state, moment);
                if waited.expect("no poison").0.stopped.is_some() {
                    return true;
                }
            }
            if over() || begin.elapsed() > PATIENCE {
                self.shared.lock().stop = None;
                return false;
            }
        }
    }

    /// Whoever is killed, it is now. A server that will be is stopped, and nothing more is sent to
    /// it: what it has read, and what has left, is then known.
    pub fn killed(&self, stopped_server: Option<SocketAddr>) {
        let mut state = self.shared.lock();
        state.kills += 1;
        let State {
            streams,
            sockets,
            written,
            ..
        } = &mut *state;
        for stream in streams.iter_mut().filter(|stream| stream.open) {
            stream.killed = true;
            if let Some(server) = stopped_server {
                let mut written = written[&stream.connection].lock().expect("no poison");
                written.halted = true;
                let to_server = sockets.get(&stream.connection).map(|[_, socket]| socket);
                let unread = to_server.and_then(|socket| unread::by(server, socket));
                let Unread { unsent, received } = unread.unwrap_or_default();
                stream.left = Some(written.bytes - unsent);
                stream.read = written.bytes - unsent - received;
            }
        }
    }

    /// Lets all connections go on.
    pub fn go_on(&self) {
        self.shared.lock().stopped = None;
        self.shared.changed.notify_all();
    }

    /// Cuts all connections that there are: nothing of them gets through any more.
    pub fn cut(&self) {
        let mut state = self.shared.lock();
        state.cut_below = state.next;
        state.stopped = None;
        for socket in state.sockets.values().flatten() {
            socket.shutdown(Shutdown::Both).ok();
        }
        for written in state.written.values() {
            written.lock().expect("no poison").halted = false;
        }
        self.shared.changed.notify_all();
    }

    /// Waits until what was sent has got through and all connections are closed.
    pub fn wait_until_closed(&self) {
        let mut state = self.shared.lock();
        let begin = Instant::now();
        while !state.sockets.is_empty() {
            assert!(begin.elapsed() < PATIENCE, "a connection stays open");
            let waited = self.shared.changed.wait_timeout(state, PATIENCE);
            state = waited.expect("no poison").0;
        }
    }

    /// What was sent again of each stream that was killed; forgets all streams.
    pub fn sent_again(&self) -> Vec<Again> {
        let mut state = self.shared.lock();
        let streams = std::mem::take(&mut state.streams);
        let killed = streams.iter().filter(|stream| stream.killed);
        let again = killed.map(|killed| {
            let frames = killed.frames.iter();
            let before: HashMap<_, _> = frames.map(|it| (it.id, it.end)).collect();
            let written = || {
                state.written[&killed.connection]
                    .lock()
                    .expect("no poison")
                    .bytes
            };
            let left = killed.left.unwrap_or_else(written);
            let later = |it: &&Stream| it.kills_before > killed.kills_before;
            let later = streams.iter().filter(later);
            let mut again = Again::default();
            for frame in later.flat_map(|stream| &stream.frames) {
                let end = before.get(&frame.id).copied();
                if end.is_some_and(|end| end <= left) {
                    again.left.add(frame.bytes);
                }
                if end.is_some_and(|end| end <= killed.read) {
                    again.read.add(frame.bytes);
                }
            }
            again
        });
        again.collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no poison")
    }

    /// Waits while this connection is stopped; false when it is cut.
    fn may_go_on(&self, connection: usize) -> bool {
        let mut state = self.lock();
        while state.stopped == Some(connection) {
            state = self.changed.wait(state).expect("no poison");
        }
        connection >= state.cut_below
    }

    /// Whether to stop behind the byte at which this was read.
    fn stops(&self, connection: usize, seen: &Seen) -> bool {
        let mut state = self.lock();
        let Some((place, nth)) = &mut state.stop else {
            return false;
        };
        if !seen.is(*place) {
            return false;
        }
        if *nth > 0 {
            *nth -= 1;
            return false;
        }
        state.stop = None;
        // Before the last byte leaves, so that no answer gets through.
        state.stopped = Some(connection);
        true
    }

    /// This ends behind so many bytes of a connection.
    fn note(&self, connection: usize, end: u64, seen: &Seen) {
        let mut state = self.lock();
        let kills_before = state.kills;
        match seen {
            Seen::Stream => state.streams.push(Stream {
                connection,
                frames: Vec::new(),
                open: true,
                kills_before,
                killed: false,
                left: None,
                read: u64::MAX,
            }),
            Seen::Frame(id, bytes) => {
                let mut streams = state.streams.iter_mut().rev();
                let stream = streams.find(|stream| stream.connection == connection);
                let (id, bytes) = (*id, *bytes);
                let frames = &mut stream.expect("a stream began").frames;
                frames.push(Frame { id, bytes, end });
            }
            _ => {}
        }
    }

    fn answered(&self, connection: usize) {
        let mut state = self.lock();
        let own = state.streams.iter_mut();
        let own = own.filter(|stream| stream.connection == connection);
        own.for_each(|stream| stream.open = false);
    }
}

/// Carries a connection, on two threads.
fn carry(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    let again = |socket: &TcpStream| socket.try_clone().expect("a descriptor");
    server.set_write_timeout(Some(WRITE_PATIENCE)).expect("set");
    set_socket_send_buffer_size(&server, SEND_BYTES).expect("set");
    let written = Arc::<Mutex<Written>>::default();
    let connection = {
        let mut state = shared.lock();
        let connection = state.next;
        state.next += 1;
        let both = [again(&client), again(&server)];
        state.sockets.insert(connection, both);
        state.written.insert(connection, Arc::clone(&written));
        connection
    };
    let (from, forth, back) = (again(&client), Arc::clone(shared), Arc::clone(shared));
    let to = Counted {
        socket: again(&server),
        written,
    };
    let way_there = thread::spawn(move || carry_forth(&forth, connection, from, to));
    thread::spawn(move || {
        carry_back(&back, connection, server, client);
        way_there.join().expect("the way there");
        back.lock().sockets.remove(&connection);
        back.changed.notify_all();
    });
}

/// A socket to the server.
struct Counted {
    socket: TcpStream,
    written: Arc<Mutex<Written>>,
}

impl Counted {
    /// False when the connection is no more.
    fn write_all(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let mut written = self.written.lock().expect("no poison");
            if written.halted {
                drop(written);
                thread::sleep(MOMENT);
                continue;
            }
            match self.socket.write(bytes) {
                Ok(0) => return false,
                Ok(len) => {
                    written.bytes += len as u64;
                    bytes = &bytes[len..];
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    drop(written);
                    thread::sleep(MOMENT); // others may want to know how much it is
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }
}

fn carry_forth(shared: &Shared, connection: usize, mut from: TcpStream, mut to: Counted) {
    let (mut buffer, mut parser) = (vec![0; 64 << 10], Parser::default());
    let mut before = 0;
    'reading: while let Ok(len @ 1..) = from.read(&mut buffer) {
        let mut sent = 0;
        for (at, byte) in buffer[..len].iter().enumerate() {
            for seen in parser.take(*byte) {
                let stops = shared.stops(connection, &seen);
                shared.note(connection, before + at as u64 + 1, &seen);
                if !stops {
                    continue;
                }
                to.write_all(&buffer[sent..=at]);
                sent = at + 1;
                shared.changed.notify_all();
                if !shared.may_go_on(connection) {
                    break 'reading;
                }
            }
        }
        if !to.write_all(&buffer[sent..len]) {
            break;
        }
        before += len as u64;
    }
    // What comes from a client that is gone ends here; the server says no more to it either.
    to.socket.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}

fn carry_back(shared: &Shared, connection: usize, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if !shared.may_go_on(connection) || to.write_all(&buffer[..len]).is_err() {
            break;
        }
        shared.answered(connection);
    }
    to.shutdown(Shutdown::Both).ok();
    from.shutdown(Shutdown::Both).ok();
}
