//! A wire for pushes that reads along: it knows which request is under way and which record of its
//! stream, stops at an appointed place, and remembers which frames got through.

pub mod parser;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use parser::{Parser, Read as Seen};

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

/// A frame that got through: its name, and its length as it is stored.
type Frame = ([u8; 32], u64);

/// A stream of an upload, as far as it got through.
struct Stream {
    connection: usize,
    frames: Vec<Frame>,
    /// Not answered.
    open: bool,
    /// How many kills came before it, and whether one came in the midst of it.
    kills_before: usize,
    killed: bool,
}

/// What was sent again of a stream that was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Again {
    pub frames: usize,
    pub bytes: u64,
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

    /// Whoever is killed, it is now.
    pub fn killed(&self) {
        let mut state = self.shared.lock();
        state.kills += 1;
        let open = state.streams.iter_mut().filter(|stream| stream.open);
        open.for_each(|stream| stream.killed = true);
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
        let streams = std::mem::take(&mut self.shared.lock().streams);
        let killed = streams.iter().filter(|stream| stream.killed);
        let again = killed.map(|killed| {
            let through: HashMap<_, _> = killed.frames.iter().copied().collect();
            let later = |it: &&Stream| it.kills_before > killed.kills_before;
            let later = streams.iter().filter(later);
            let frames = later.flat_map(|stream| &stream.frames);
            let mut again = Again::default();
            for (_, bytes) in frames.filter(|(id, _)| through.contains_key(id)) {
                again.frames += 1;
                again.bytes += bytes;
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

    fn note(&self, connection: usize, seen: &Seen) {
        let mut state = self.lock();
        let kills_before = state.kills;
        match seen {
            Seen::Stream => state.streams.push(Stream {
                connection,
                frames: Vec::new(),
                open: true,
                kills_before,
                killed: false,
            }),
            Seen::Frame(id, bytes) => {
                let mut streams = state.streams.iter_mut().rev();
                let stream = streams.find(|stream| stream.connection == connection);
                stream.expect("a stream began").frames.push((*id, *bytes));
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
    let connection = {
        let mut state = shared.lock();
        let connection = state.next;
        state.next += 1;
        let both = [again(&client), again(&server)];
        state.sockets.insert(connection, both);
        connection
    };
    let (from_client, to_server) = (again(&client), again(&server));
    let (forth, back) = (Arc::clone(shared), Arc::clone(shared));
    let way_there = thread::spawn(move || carry_forth(&forth, connection, from_client, to_server));
    thread::spawn(move || {
        carry_back(&back, connection, server, client);
        way_there.join().expect("the way there");
        back.lock().sockets.remove(&connection);
        back.changed.notify_all();
    });
}

fn carry_forth(shared: &Shared, connection: usize, mut from: TcpStream, mut to: TcpStream) {
    let (mut buffer, mut parser) = (vec![0; 64 << 10], Parser::default());
    'reading: while let Ok(len @ 1..) = from.read(&mut buffer) {
        let (mut sent, mut through) = (0, Vec::new());
        for (at, byte) in buffer[..len].iter().enumerate() {
            for seen in parser.take(*byte) {
                let stops = shared.stops(connection, &seen);
                through.push(seen);
                if !stops {
                    continue;
                }
                let written = to.write_all(&buffer[sent..=at]).is_ok();
                sent = at + 1;
                if written {
                    through
                        .drain(..)
                        .for_each(|it| shared.note(connection, &it));
                }
                shared.changed.notify_all();
                if !shared.may_go_on(connection) {
                    break 'reading;
                }
            }
        }
        if to.write_all(&buffer[sent..len]).is_err() {
            break;
        }
        through.iter().for_each(|it| shared.note(connection, it));
    }
    // What comes from a client that is gone ends here; the server says no more to it either.
    to.shutdown(Shutdown::Both).ok();
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
