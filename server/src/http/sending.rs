//! A NAR on its way to the socket: windows of it are made ready, off the runtime, as the client
//! takes them.
//!
//! ```text
//!   parked --the socket has room--> preparing --> ready --taken--> preparing the next --> ...
//!      |        nothing to wait for --------------^
//!      '------- the client takes nothing; the kernel holds the file no more -------'
//! ```
//! Guarantees: what a client does not take holds no memory but its place in the NAR; windows of
//! all clients together are at most [`UNPACKED_WINDOWS`], and [`COPIED_WINDOWS`] beside lean ones.
//! Never: a wait for the disk on the runtime, unless the kernel drops pages between their reading
//! and their sending.

use super::App;
use super::errors::Refusal;
use crate::listen::outlet::Source;
use crate::workers::Workers;
use futures::future::BoxFuture;
use snowcache_depot::{Chunks, NarReader, Piece};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Windows of unpacked bytes at once, of half a megabyte each, or of one frame that is larger: 12
/// to 24 MiB, more than 16 processors fill while the kernel takes them.
const UNPACKED_WINDOWS: usize = 24;

/// Windows of stored frames at once that copy what is short, up to 96 KiB each: 3 MiB. Who comes
/// when all are taken has windows of some KB, at the price of more calls.
const COPIED_WINDOWS: usize = 32;

/// Bytes of a file that are looked for in the kernel's memory at once, and then sent by one call if
/// the socket has room: 32 questions of a quarter of a microsecond.
const LOOK_BYTES: u64 = 2 << 20;

/// Which bytes of a NAR are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// The stored frames.
    Encoded,
    /// The NAR.
    Raw,
}

/// Places for the windows of all clients together.
#[derive(Clone)]
pub struct Windows {
    unpacked: Arc<Semaphore>,
    copied: Arc<Semaphore>,
}

impl Default for Windows {
    fn default() -> Windows {
        Windows {
            unpacked: Arc::new(Semaphore::new(UNPACKED_WINDOWS)),
            copied: Arc::new(Semaphore::new(COPIED_WINDOWS)),
        }
    }
}

impl Windows {
    /// A place for a window that copies, if there is one.
    pub fn copied(&self) -> Option<OwnedSemaphorePermit> {
        self.copied.clone().try_acquire_owned().ok()
    }
}

/// The window that an encoding begins with, and its place.
pub struct First {
    /// What is sent.
    pub pieces: VecDeque<Piece>,
    /// None if it is a lean one.
    pub place: Option<OwnedSemaphorePermit>,
}

/// A range of a NAR that is being sent.
pub struct Sending {
    reads: Workers,
    windows: Windows,
    reader: NarReader,
    view: View,
    /// What was not yet sent.
    range: Range<u64>,
    state: State,
    /// So many of the bytes that are due were seen in the kernel's memory.
    cached: u64,
    /// They were not, and have been read since: what is gone again is waited for.
    read_again: bool,
}

enum State {
    Parked,
    Preparing(BoxFuture<'static, Result<Ready, Refusal>>),
    Ready(Ready),
}

struct Ready {
    /// Where unpacking goes on. What is sent as stored is looked up once more for each window: a
    /// block of a layout is 20 KB, a look-up some microseconds for 8 MB.
    chunks: Option<Box<Chunks>>,
    pieces: VecDeque<Piece>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Sending {
    /// Makes the first window ready, unless it is `first`.
    ///
    /// # Errors
    /// What cannot be read.
    pub async fn start(
        app: &App,
        reader: &NarReader,
        view: View,
        range: Range<u64>,
        first: Option<First>,
    ) -> Result<Sending, Refusal> {
        let mut sending = Sending {
            reads: app.reads.clone(),
            windows: app.windows.clone(),
            reader: reader.clone(),
            view,
            range,
            state: State::Parked,
            cached: 0,
            read_again: false,
        };
        let ready = match first {
            Some(First { pieces, place }) => Ready {
                chunks: None,
                pieces,
                _place: place,
            },
            None => match sending.at_once() {
                Some(ready) => ready,
                None => sending.prepare(sending.chunks()).await?,
            },
        };
        sending.state = State::Ready(ready);
        Ok(sending)
    }

    fn chunks(&self) -> Box<Chunks> {
        Box::new(match self.view {
            View::Encoded => self.reader.encoded(self.range.clone()),
            View::Raw => self.reader.raw(self.range.clone()),
        })
    }

    /// The next window, where it is stored frames and takes no wait.
    fn at_once(&self) -> Option<Ready> {
        if self.view == View::Raw || self.read_again {
            return None;
        }
        let place = self.windows.copied();
        let mut chunks = self.reader.encoded(self.range.clone());
        if place.is_none() {
            chunks = chunks.lean();
        }
        let pieces = chunks.window_at_once();
        (!pieces.is_empty()).then_some(Ready {
            chunks: None,
            pieces,
            _place: place,
        })
    }

    /// What makes the next window ready; it may wait for the disk.
    fn next(&self, chunks: Option<Box<Chunks>>) -> State {
        if let Some(chunks) = chunks {
            return State::Preparing(self.prepare(chunks));
        }
        if let Some(ready) = self.at_once() {
            return State::Ready(ready);
        }
        let chunks = match self.read_again {
            true => Box::new(self.chunks().afresh()),
            false => self.chunks(),
        };
        State::Preparing(self.prepare(chunks))
    }

    fn prepare(&self, mut chunks: Box<Chunks>) -> BoxFuture<'static, Result<Ready, Refusal>> {
        let (reads, windows, view) = (self.reads.clone(), self.windows.clone(), self.view);
        Box::pin(async move {
            let place = match view {
                View::Encoded => windows.copied(),
                View::Raw => windows.unpacked.acquire_owned().await.ok(),
            };
            if view == View::Encoded && place.is_none() {
                *chunks = chunks.lean();
            }
            let window = move || -> Result<_, snowcache_depot::Error> {
                let pieces = chunks.window()?;
                Ok((chunks, pieces))
            };
            let (chunks, pieces) = reads.run(window).await?;
            Ok(Ready {
                chunks: (view == View::Raw).then_some(chunks),
                pieces,
                _place: place,
            })
        })
    }

    /// How much of the run that is due can be sent without waiting; nothing if it must be read
    /// first.
    fn look(&mut self, run: &snowcache_depot::Run) -> u64 {
        if self.cached == 0 {
            self.cached = run.cached_len(LOOK_BYTES);
        }
        if self.cached == 0 && self.read_again {
            self.cached = LOOK_BYTES;
        }
        self.cached
    }
}

impl Source for Sending {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Piece, bool)>> {
        loop {
            match std::mem::replace(&mut self.state, State::Parked) {
                State::Parked => self.state = self.next(None),
                State::Preparing(mut preparing) => match preparing.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.state = State::Preparing(preparing);
                        return Poll::Pending;
                    }
                    Poll::Ready(Ok(ready)) if ready.pieces.is_empty() => {
                        return Poll::Ready(Err(cut_off("it ends before its length")));
                    }
                    Poll::Ready(Ok(ready)) => self.state = State::Ready(ready),
                    Poll::Ready(Err(refusal)) => {
                        return Poll::Ready(Err(cut_off(refusal.sentence())));
                    }
                },
                State::Ready(ready) => {
                    let Some(piece) = ready.pieces.front().cloned() else {
                        self.state = self.next(ready.chunks);
                        continue;
                    };
                    let more = ready.pieces.len() > 1;
                    let piece = match piece {
                        Piece::Run(run) => match self.look(&run) {
                            0 => {
                                self.read_again = true;
                                continue;
                            }
                            cached => Piece::Run(run.first(cached)),
                        },
                        bytes => bytes,
                    };
                    self.state = State::Ready(ready);
                    return Poll::Ready(Ok((piece, more)));
                }
            }
        }
    }

    fn sent(&mut self, bytes: u64) {
        if bytes == 0 {
            return;
        }
        self.range.start += bytes;
        self.cached = self.cached.saturating_sub(bytes);
        self.read_again = false;
        if let State::Ready(ready) = &mut self.state
            && let Some(piece) = ready.pieces.front_mut()
        {
            piece.advance(bytes);
            if piece.is_empty() {
                ready.pieces.pop_front();
                self.cached = 0;
            }
        }
    }

    fn is_in_the_way(&self) -> bool {
        self.view == View::Raw && self.windows.unpacked.available_permits() == 0
    }

    fn park(&mut self) {
        if matches!(self.state, State::Ready(_)) {
            self.state = State::Parked;
            self.cached = 0;
        }
    }

    fn is_parked(&self) -> bool {
        matches!(self.state, State::Parked)
    }
}

/// The status line is gone: what is left is to end short of Content-Length, which clients notice.
fn cut_off(why: &str) -> io::Error {
    tracing::error!(why, "a body was cut off");
    io::Error::other("cut off")
}
