//! A stream whose writes do not wait for ever: a client that takes nothing for too long loses its
//! connection, and with it its place, its buffers and whatever the answer kept open.

use super::transport::Transport;
use snowcache_depot::Run;
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// `S`, with a limit on how long one write may find no room.
pub struct WriteTimeout<S> {
    stream: S,
    limit: Duration,
    /// Runs while a write waits.
    deadline: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<S> WriteTimeout<S> {
    /// Limits the wait of each write of `stream`.
    pub fn new(stream: S, limit: Duration) -> WriteTimeout<S> {
        WriteTimeout {
            stream,
            limit,
            deadline: Box::pin(sleep(limit)),
            waiting: false,
        }
    }

    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if write.is_ready() {
            self.waiting = false;
            return write;
        }
        if !self.waiting {
            self.waiting = true;
            self.deadline.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes none of its answer",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bounded(cx, write)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bounded(cx, write)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flush = Pin::new(&mut self.stream).poll_flush(cx);
        self.bounded(cx, flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bounded(cx, shutdown)
    }
}

impl<S: Transport> Transport for WriteTimeout<S> {
    fn poll_send_run(
        &mut self,
        cx: &mut Context<'_>,
        run: &Run,
        len: u64,
    ) -> Poll<io::Result<usize>> {
        let sent = self.stream.poll_send_run(cx, run, len);
        self.bounded(cx, sent)
    }

    fn poll_write_more(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let write = self.stream.poll_write_more(cx, bufs);
        self.bounded(cx, write)
    }

    fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_arrival(cx)
    }

    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let room = self.stream.poll_room(cx);
        self.bounded(cx, room)
    }

    fn widen(&self) -> io::Result<()> {
        self.stream.widen()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        self.stream.socket()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_connection() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut server = WriteTimeout::new(server, Duration::from_millis(20));
        server.write_all(&[0; 16]).await.expect("there is room");
        let stalled = server.write_all(&[0; 16]).await.expect_err("there is none");
        assert_eq!(stalled.kind(), io::ErrorKind::TimedOut);
        let mut taken = [0; 16];
        client
            .read_exact(&mut taken)
            .await
            .expect("it takes them at last");
    }

    #[tokio::test]
    async fn a_slow_client_that_takes_something_keeps_it() {
        let (server, mut client) = tokio::io::duplex(16);
        let mut server = WriteTimeout::new(server, Duration::from_millis(200));
        let reader = tokio::spawn(async move {
            let mut taken = Vec::new();
            let mut some = [0; 8];
            while let Ok(1..) = client.read(&mut some).await {
                taken.extend(some);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            taken.len()
        });
        server.write_all(&[0; 256]).await.expect("in the end");
        drop(server);
        assert_eq!(reader.await.expect("read"), 256);
    }
}
