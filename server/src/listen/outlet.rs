//! Bodies whose bytes come into being when the socket has room for them.
//!
//! ```text
//!   handler --Late--> hyper: "1 MiB of a body" --> Sender: these are due from the source in front
//!                     (a slice of PLACEHOLDER)          '-- sendfile, or a write of what it has
//! ```
//! hyper takes bodies as bytes and writes them later. What it is given here are slices of one block
//! of memory that nobody reads: the `Sender` below hyper knows them by their address and puts the
//! source's bytes in their place. So a file goes out by sendfile, and an answer that nobody takes
//! holds no bytes at all.
//!
//! Guarantees: bytes go out in the order of the answers, as many as were promised; a placeholder
//! never does. Each write is compared with what is due: should hyper ever copy, split or drop such
//! a slice, the connection ends before a wrong byte is sent. Never: more than a source's own window
//! in memory.

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use snowcache_depot::Piece;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::task::{Context, Poll};

/// The longest placeholder: of a body of 1 GB hyper sees a thousand.
const PLACEHOLDER_BYTES: usize = 1 << 20;

/// Stands for bytes that are not there yet. Pages that are never touched take no memory.
static PLACEHOLDER: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; PLACEHOLDER_BYTES]));

/// Where the bytes of one answer come from.
pub trait Source: Send {
    /// What is due, and whether more is ready behind it; at least one byte until the promised
    /// length was sent.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Piece, bool)>>;

    /// So many bytes of it went out.
    fn sent(&mut self, bytes: u64);

    /// Whether others wait for the memory that this one holds.
    fn is_in_the_way(&self) -> bool;

    /// The client takes nothing: whatever can be had again is given up.
    fn park(&mut self);

    /// Whether it was parked, and nothing is being made ready since.
    fn is_parked(&self) -> bool;
}

/// An answer's bytes that are still to be sent.
pub(super) struct Due {
    pub source: Box<dyn Source>,
    /// What hyper holds placeholders for.
    pub asked: u64,
    /// What is left in all.
    pub left: u64,
}

/// What one connection is to send, shared by its bodies and its `Sender`.
#[derive(Clone, Default)]
pub struct Outlet(Arc<Mutex<VecDeque<Due>>>);

impl Outlet {
    /// An answer's body of `length` bytes out of `source`.
    pub fn body(&self, source: Box<dyn Source>, length: u64) -> Body {
        Body::new(Late {
            outlet: self.clone(),
            source: Some(source),
            length,
            left: length,
        })
    }

    pub(super) fn due(&self) -> MutexGuard<'_, VecDeque<Due>> {
        self.0
            .lock()
            .expect("invariant: no panic while the lock is held")
    }
}

/// Whether a slice that is to be written stands for other bytes.
pub(super) fn is_placeholder(slice: &IoSlice<'_>) -> bool {
    let block = PLACEHOLDER.as_ptr() as usize;
    let at = slice.as_ptr() as usize;
    at >= block && at + slice.len() <= block + PLACEHOLDER_BYTES && !slice.is_empty()
}

struct Late {
    outlet: Outlet,
    /// Gone to the outlet with the first placeholder.
    source: Option<Box<dyn Source>>,
    length: u64,
    left: u64,
}

impl HttpBody for Late {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.left == 0 {
            return Poll::Ready(None);
        }
        let asked = this.left.min(PLACEHOLDER_BYTES as u64);
        this.left -= asked;
        let mut due = this.outlet.due();
        match (this.source.take(), due.back_mut()) {
            (Some(source), _) => due.push_back(Due {
                source,
                asked,
                left: this.length,
            }),
            // Bodies are asked one after the other, so the last one is this.
            (None, Some(last)) => last.asked += asked,
            (None, None) => unreachable!("an answer leaves when it was sent, and this one was not"),
        }
        let slice = PLACEHOLDER.slice(..asked as usize);
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }
}
