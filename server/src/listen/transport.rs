//! What connections are made of: streams that can also send a part of a file.
//!
//! Guarantees: where the kernel can, bytes go from the file's pages to the socket without being
//! copied; where they are encrypted they are read 64 KiB at a time. Never waits for a disk: who
//! calls has seen that the bytes are in memory.

use super::unsent::{WIDE_UNSENT_BYTES, limit_unsent};
use rustix::fs::sendfile;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use snowcache_depot::Run;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// What is read of a file to be encrypted: as much as rustls takes at once.
const COPY_BYTES: usize = 64 << 10;

/// A stream that bytes of a file can be sent over.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Sends at most `len` bytes that `run` begins with.
    fn poll_send_run(
        &mut self,
        cx: &mut Context<'_>,
        run: &Run,
        len: u64,
    ) -> Poll<io::Result<usize>>;

    /// Writes bytes that more will follow at once, so that they need not be a packet.
    fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>>;

    /// Waits until something seems to have come; where what came may lie in memory already, not.
    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Waits until a write seems to find room.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Has the kernel take [`WIDE_UNSENT_BYTES`] that are not sent yet.
    fn widen(&self) -> io::Result<()>;

    /// The socket below.
    fn socket(&self) -> BorrowedFd<'_>;
}

macro_rules! kernel_socket {
    ($socket:ty, $widen:expr) => {
        impl Transport for $socket {
            fn poll_send_run(
                &mut self,
                cx: &mut Context<'_>,
                run: &Run,
                len: u64,
            ) -> Poll<io::Result<usize>> {
                loop {
                    ready!(self.poll_write_ready(cx))?;
                    let send = || {
                        let mut offset = run.offset();
                        let len = usize::try_from(len).unwrap_or(usize::MAX);
                        Ok(sendfile(self.as_fd(), run, Some(&mut offset), len)?)
                    };
                    match self.try_io(Interest::WRITABLE, send) {
                        Err(error) if is_passing(&error) => {}
                        sent => return Poll::Ready(sent),
                    }
                }
            }

            fn poll_write_more(
                &mut self,
                cx: &mut Context<'_>,
                bufs: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                loop {
                    ready!(self.poll_write_ready(cx))?;
                    let send = || {
                        let flags = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
                        let mut nothing = SendAncillaryBuffer::default();
                        Ok(sendmsg(self.as_fd(), bufs, &mut nothing, flags)?)
                    };
                    match self.try_io(Interest::WRITABLE, send) {
                        Err(error) if is_passing(&error) => {}
                        sent => return Poll::Ready(sent),
                    }
                }
            }

            fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn widen(&self) -> io::Result<()> {
                $widen(self)
            }

            fn socket(&self) -> BorrowedFd<'_> {
                self.as_fd()
            }
        }
    };
}

kernel_socket!(TcpStream, |it| limit_unsent(it, WIDE_UNSENT_BYTES));
kernel_socket!(UnixStream, |_| Ok(()));

/// No room after all, or a signal: the next try tells.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

thread_local! {
    static COPY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Transport for TlsStream<TcpStream> {
    fn poll_send_run(
        &mut self,
        cx: &mut Context<'_>,
        run: &Run,
        len: u64,
    ) -> Poll<io::Result<usize>> {
        COPY.with_borrow_mut(|copy| {
            copy.resize(len.min(COPY_BYTES as u64) as usize, 0);
            run.read(copy)?;
            Pin::new(self).poll_write(cx, copy)
        })
    }

    fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(self).poll_write_vectored(cx, bufs)
    }

    fn poll_arrival(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_ref().0.poll_write_ready(cx)
    }

    fn widen(&self) -> io::Result<()> {
        self.get_ref().0.widen()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.get_ref().0.as_fd()
    }
}
