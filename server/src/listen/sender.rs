//! The stream that hyper writes to: where it writes placeholders, the bytes they stand for go out.
//!
//! Guarantees: see [`outlet`](super::outlet). A client that takes nothing for [`PARK_AFTER`] makes
//! its source give up what it holds, and one whose memory others wait for at once. The first bytes
//! of a connection are read in its turn.

use super::io::WriteTimeout;
use super::line::Line;
use super::outlet::{Outlet, is_placeholder};
use super::transport::Transport;
use crate::turns::Turns;
use snowcache_depot::Piece;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// A client that reads at all takes something within this time over any network, or waits for a
/// lost packet; making ready again what it left costs a millisecond.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// A client that makes room within this time takes what it gets: 1 MB/s and more.
const FAST: Duration = Duration::from_millis(100);

/// What is read at a time from a connection on which an upload is under way: what was read and is
/// not yet written is lost when the process dies, and three such pieces are on the way there. A
/// frame has some 100 KB and takes a millisecond to check, a read 20 us.
const READ_OF_UPLOAD_BYTES: u64 = 32 << 10;

/// A head and a narinfo behind it are copied in 20 ns, and the kernel takes half a microsecond
/// longer for a list of slices (writev) than for one (send).
const JOINED_BYTES: usize = 4 << 10;

/// `S`, with what its outlet owes in place of placeholders.
pub struct Sender<S> {
    stream: WriteTimeout<S>,
    outlet: Outlet,
    line: Line,
    patience: Patience,
    width: Width,
    entry: Entry,
}

/// How far a connection is whose first bytes are to be read.
enum Entry {
    /// Nothing has come.
    Outside(Turns),
    /// Something has, and others are before it.
    InLine(Pin<Box<dyn Future<Output = ()> + Send>>),
    Inside,
}

impl Entry {
    fn poll<S: Transport>(
        &mut self,
        stream: &mut WriteTimeout<S>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self {
                Entry::Outside(turns) => {
                    ready!(stream.poll_arrival(cx))?;
                    let turns = turns.clone();
                    *self = Entry::InLine(Box::pin(async move { turns.take().await }));
                }
                Entry::InLine(turn) => {
                    ready!(turn.as_mut().poll(cx));
                    *self = Entry::Inside;
                }
                Entry::Inside => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// How much the kernel may take ahead of a client: more once the client was seen to make room soon,
/// if a place is left; then as long as the connection lasts, since what the kernel has taken cannot
/// be given up.
pub struct Width {
    places: Arc<Semaphore>,
    place: Option<OwnedSemaphorePermit>,
    full_since: Option<Instant>,
}

impl Width {
    /// Narrow; `places` are those of all connections together.
    pub fn new(places: Arc<Semaphore>) -> Width {
        Width {
            places,
            place: None,
            full_since: None,
        }
    }

    fn is_full(&mut self) {
        if self.place.is_none() && self.full_since.is_none() {
            self.full_since = Some(Instant::now());
        }
    }

    fn has_room(&mut self, stream: &impl Transport) -> io::Result<()> {
        let waited = self.full_since.take();
        if waited.is_none_or(|since| since.elapsed() > FAST) {
            return Ok(());
        }
        self.place = self.places.clone().try_acquire_owned().ok();
        match self.place {
            Some(_) => stream.widen(),
            None => Ok(()),
        }
    }
}

/// How long a client has been taking nothing.
#[derive(Default)]
struct Patience {
    end: Option<Pin<Box<Sleep>>>,
    runs: bool,
}

impl Patience {
    /// Whether it is over; the task is woken when it will be.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let end = self.end.get_or_insert_with(|| Box::pin(sleep(PARK_AFTER)));
        if !std::mem::replace(&mut self.runs, true) {
            end.as_mut().reset(Instant::now() + PARK_AFTER);
        }
        end.as_mut().poll(cx).is_ready()
    }
}

impl<S: Transport> Sender<S> {
    /// Of a connection whose bodies are told `outlet`.
    pub fn new(stream: WriteTimeout<S>, outlet: Outlet, width: Width) -> Sender<S> {
        Sender {
            stream,
            outlet,
            line: Line::default(),
            patience: Patience::default(),
            width,
            entry: Entry::Inside,
        }
    }

    /// The same, read from when it has its turn.
    pub fn entering(self, turns: Turns) -> Sender<S> {
        Sender {
            entry: Entry::Outside(turns),
            ..self
        }
    }

    /// The same, watched by whoever watches `line`.
    pub fn on(self, line: Line) -> Sender<S> {
        Sender { line, ..self }
    }

    fn write(&mut self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Sender {
            stream,
            outlet,
            patience,
            width,
            ..
        } = self;
        let mut dues = outlet.due();
        let asked: u64 = dues.iter().map(|due| due.asked).sum();
        let late = bufs.iter().filter(|buf| is_placeholder(buf));
        if asked != late.map(|buf| buf.len() as u64).sum::<u64>() {
            return Poll::Ready(Err(io::Error::other(
                "what is written is not what is due: placeholders were copied or lost",
            )));
        }
        let plain = bufs.iter().position(is_placeholder);
        let (Some(plain), Some(due)) = (plain, dues.front_mut()) else {
            return joined(stream, cx, bufs);
        };
        let plain = &bufs[..plain];
        if plain.is_empty() && due.source.is_parked() {
            ready!(stream.poll_room(cx))?;
        }
        let next = match due.source.poll_next(cx) {
            Poll::Ready(next) => Some(next?),
            Poll::Pending => {
                patience.runs = false;
                if plain.is_empty() {
                    return Poll::Pending;
                }
                None
            }
        };
        let Poll::Ready(written) = send(stream, cx, plain, next, due.asked) else {
            let gives_up = due.source.is_in_the_way() || patience.is_over(cx);
            if gives_up && !due.source.is_parked() {
                due.source.park();
            }
            width.is_full();
            return Poll::Pending;
        };
        let written = written?;
        width.has_room(stream)?;
        patience.runs = false;
        let before: usize = plain.iter().map(|buf| buf.len()).sum();
        let late = written.saturating_sub(before) as u64;
        due.source.sent(late);
        due.asked -= late;
        due.left -= late;
        if due.left == 0 {
            dues.pop_front();
        }
        Poll::Ready(Ok(written))
    }
}

thread_local! {
    static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes these, as one where they are short.
fn joined<S: Transport>(
    stream: &mut WriteTimeout<S>,
    cx: &mut Context<'_>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    if bufs.iter().map(|buf| buf.len()).sum::<usize>() > JOINED_BYTES {
        return Pin::new(stream).poll_write_vectored(cx, bufs);
    }
    JOINED.with_borrow_mut(|joined| {
        joined.clear();
        bufs.iter().for_each(|buf| joined.extend_from_slice(buf));
        Pin::new(stream).poll_write(cx, joined)
    })
}

/// Writes `plain`, and of what comes behind it at most `asked` bytes.
fn send<S: Transport>(
    stream: &mut WriteTimeout<S>,
    cx: &mut Context<'_>,
    plain: &[IoSlice<'_>],
    next: Option<(Piece, bool)>,
    asked: u64,
) -> Poll<io::Result<usize>> {
    match next {
        Some((Piece::Run(run), _)) if plain.is_empty() => {
            match ready!(stream.poll_send_run(cx, &run, asked.min(run.len()))) {
                Ok(0) => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                sent => Poll::Ready(sent),
            }
        }
        Some((Piece::Bytes(bytes), more)) => {
            let bytes = &bytes[..bytes
                .len()
                .min(usize::try_from(asked).unwrap_or(usize::MAX))];
            let mut bufs = plain.to_vec();
            bufs.push(IoSlice::new(bytes));
            match more {
                true => stream.poll_write_more(cx, &bufs),
                false => Pin::new(stream).poll_write_vectored(cx, &bufs),
            }
        }
        _ => stream.poll_write_more(cx, plain),
    }
}

impl<S: Transport> AsyncRead for Sender<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.entry.poll(&mut this.stream, cx))?;
        self.line.show(self.stream.socket());
        match self.line.is_watched() {
            false => Pin::new(&mut self.stream).poll_read(cx, buf),
            true => {
                let mut little = (&mut self.stream).take(READ_OF_UPLOAD_BYTES);
                Pin::new(&mut little).poll_read(cx, buf)
            }
        }
    }
}

impl<S: Transport> AsyncWrite for Sender<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        // Otherwise hyper would copy the placeholders.
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn who_makes_room_soon_is_wide_as_long_as_there_are_places() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let stream = TcpStream::connect(address).await.expect("connect");
        let places = Arc::new(Semaphore::new(1));
        let width = || Width::new(places.clone());
        let (mut never_full, mut slow) = (width(), width());
        never_full.has_room(&stream).expect("set");
        slow.is_full();
        slow.full_since = slow.full_since.map(|since| since - 2 * FAST);
        slow.has_room(&stream).expect("set");
        assert!(never_full.place.is_none() && slow.place.is_none());
        let (mut fast, mut late) = (width(), width());
        for width in [&mut fast, &mut late] {
            width.is_full();
            width.has_room(&stream).expect("set");
        }
        assert!(fast.place.is_some() && late.place.is_none());
        drop(fast);
        late.is_full();
        late.has_room(&stream).expect("set");
        assert!(late.place.is_some(), "a connection ended");
    }
}
