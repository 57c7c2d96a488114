//! A body on the blocking side of its queue: read like a file, except that a broken connection is
//! no end of file.

use bytes::{Buf, Bytes, BytesMut};
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use thiserror::Error;
use tokio::sync::mpsc;

/// What travels through the queue.
#[derive(Debug)]
pub enum Message {
    /// The next bytes, at least one.
    Bytes(Bytes),
    /// The body's end, as the client meant it.
    End,
}

/// Why the input ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Stop {
    /// The queue closed without [`Message::End`].
    #[error("cut short")]
    CutShort,
    /// More came than is allowed.
    #[error("too large")]
    TooLarge,
}

/// The body.
pub struct Received<'a> {
    queued: mpsc::Receiver<Message>,
    current: Bytes,
    ended: bool,
    received_bytes: &'a Cell<u64>,
    limit_bytes: u64,
}

impl<'a> Received<'a> {
    /// Reads from `queued`, counting into `received_bytes`, which must not exceed `limit_bytes`.
    pub fn new(
        queued: mpsc::Receiver<Message>,
        received_bytes: &'a Cell<u64>,
        limit_bytes: u64,
    ) -> Received<'a> {
        Received {
            queued,
            current: Bytes::new(),
            ended: false,
            received_bytes,
            limit_bytes,
        }
    }

    /// The first `wanted` bytes, or as many as there are, without taking them.
    pub fn head(&mut self, wanted: usize) -> io::Result<Bytes> {
        let mut head = BytesMut::new();
        while head.len() < wanted {
            let bytes = self.fill_buf()?;
            if bytes.is_empty() {
                break;
            }
            head.extend_from_slice(bytes);
            self.current = Bytes::new();
        }
        self.current = head.freeze();
        Ok(self.current.slice(..wanted.min(self.current.len())))
    }

    fn receive(&mut self) -> io::Result<()> {
        match self.queued.blocking_recv() {
            Some(Message::Bytes(bytes)) => {
                let received = self.received_bytes.get() + bytes.len() as u64;
                if received > self.limit_bytes {
                    return Err(io::Error::other(Stop::TooLarge));
                }
                self.received_bytes.set(received);
                self.current = bytes;
            }
            Some(Message::End) => self.ended = true,
            None => return Err(io::Error::other(Stop::CutShort)),
        }
        Ok(())
    }
}

impl BufRead for Received<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            self.receive()?;
        }
        Ok(&self.current)
    }

    fn consume(&mut self, read: usize) {
        self.current.advance(read);
    }
}

impl Read for Received<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let read = bytes.len().min(into.len());
        into[..read].copy_from_slice(&bytes[..read]);
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(messages: Vec<Message>, counted: &Cell<u64>) -> Received<'_> {
        let (queue, queued) = mpsc::channel(messages.len().max(1));
        for message in messages {
            queue.try_send(message).expect("room");
        }
        Received::new(queued, counted, 10)
    }

    fn bytes(text: &'static str) -> Message {
        Message::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn the_head_is_looked_at_and_read_again() {
        let counted = Cell::new(0);
        let mut input = received(
            vec![bytes("a"), bytes("bcd"), bytes("ef"), Message::End],
            &counted,
        );
        assert_eq!(&input.head(3).expect("there")[..], b"abc");
        let mut text = String::new();
        input.read_to_string(&mut text).expect("whole");
        assert_eq!((text.as_str(), counted.get()), ("abcdef", 6));
    }

    #[test]
    fn a_broken_connection_is_no_end() {
        let counted = Cell::new(0);
        let mut input = received(vec![bytes("abc")], &counted);
        let error = input.read_to_end(&mut Vec::new()).expect_err("cut short");
        let stop = error.get_ref().and_then(|stop| stop.downcast_ref::<Stop>());
        assert_eq!(stop, Some(&Stop::CutShort));
    }

    #[test]
    fn a_body_over_the_limit_is_stopped() {
        let counted = Cell::new(0);
        let mut input = received(
            vec![bytes("abcdefgh"), bytes("ijk"), Message::End],
            &counted,
        );
        let error = input.read_to_end(&mut Vec::new()).expect_err("too large");
        let stop = error.get_ref().and_then(|stop| stop.downcast_ref::<Stop>());
        assert_eq!(stop, Some(&Stop::TooLarge));
    }
}
