//! One HTTP/1.1 connection of a load generator: requests go out as prepared bytes, answers are
//! framed, counted and handed on in pieces.
//!
//! Guarantees: a body shorter than declared is an error, never an answer. Never: decodes a body,
//! follows a redirect, or allocates for an answer.

use std::io::{self, ErrorKind};

use memchr::{memchr, memmem};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// One read of a NAR; stays in the second-level cache.
const BUFFER_BYTES: usize = 128 << 10;

/// What a connection runs over: TCP, TLS, a unix socket.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection.
pub struct Wire {
    stream: Box<dyn Duplex>,
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

/// What was answered, without the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Of the body as it came (a chunked one without its frame).
    pub body_bytes: u64,
    /// The server will ask no more on this connection.
    pub closes: bool,
}

enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

struct Head {
    status: u16,
    framing: Framing,
    closes: bool,
}

impl Wire {
    pub fn over(stream: impl Duplex + 'static) -> Wire {
        Wire {
            stream: Box::new(stream),
            buffer: vec![0; BUFFER_BYTES].into(),
            begin: 0,
            end: 0,
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next answer; each piece of its body is given to `take`.
    pub async fn receive(
        &mut self,
        bodiless: bool,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Answer> {
        let head = loop {
            let head = self.head().await?;
            if head.status >= 200 {
                break head;
            }
        };
        let bodiless = bodiless || matches!(head.status, 204 | 304);
        let body_bytes = match head.framing {
            _ if bodiless => 0,
            Framing::Length(length) => self.exactly(length, &mut take).await?,
            Framing::Chunked => self.chunks(&mut take).await?,
            Framing::UntilClose => self.rest(&mut take).await?,
        };
        Ok(Answer {
            status: head.status,
            body_bytes,
            closes: head.closes,
        })
    }

    /// Some bytes as they come, and no more; for readers that are slow on purpose.
    pub async fn sip(&mut self, most: usize) -> io::Result<usize> {
        if self.begin < self.end {
            let length = most.min(self.end - self.begin);
            self.begin += length;
            return Ok(length);
        }
        let most = most.min(self.buffer.len());
        self.stream.read(&mut self.buffer[..most]).await
    }

    async fn head(&mut self) -> io::Result<Head> {
        loop {
            let unread = &self.buffer[self.begin..self.end];
            if let Some(length) = memmem::find(unread, b"\r\n\r\n") {
                let head = parse(&unread[..length + 2])?;
                self.begin += length + 4;
                return Ok(head);
            }
            self.more().await?;
        }
    }

    /// Reads at least one byte more.
    async fn more(&mut self) -> io::Result<()> {
        if self.begin == self.end {
            (self.begin, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.begin..self.end, 0);
            (self.begin, self.end) = (0, self.end - self.begin);
        }
        if self.end == self.buffer.len() {
            return Err(bad("a head or line longer than 128 KiB"));
        }
        match self.stream.read(&mut self.buffer[self.end..]).await? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.end += length;
                Ok(())
            }
        }
    }

    async fn exactly(&mut self, length: u64, take: &mut impl FnMut(&[u8])) -> io::Result<u64> {
        let mut left = length;
        while left > 0 {
            if self.begin == self.end {
                self.more().await?;
            }
            let here = (self.end - self.begin).min(usize::try_from(left).unwrap_or(usize::MAX));
            take(&self.buffer[self.begin..self.begin + here]);
            self.begin += here;
            left -= here as u64;
        }
        Ok(length)
    }

    async fn chunks(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let line = self.line().await?;
            let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
            let digits = str::from_utf8(digits).map_err(|_| bad("a chunk size"))?;
            let size = u64::from_str_radix(digits.trim(), 16).map_err(|_| bad("a chunk size"))?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(total);
            }
            total += self.exactly(size, take).await?;
            if !self.line().await?.is_empty() {
                return Err(bad("no end of line after a chunk"));
            }
        }
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let unread = &self.buffer[self.begin..self.end];
            if let Some(length) = memchr(b'\n', unread) {
                let line = unread[..length].trim_ascii_end().to_vec();
                self.begin += length + 1;
                return Ok(line);
            }
            self.more().await?;
        }
    }

    async fn rest(&mut self, take: &mut impl FnMut(&[u8])) -> io::Result<u64> {
        let mut total = 0;
        loop {
            let here = &self.buffer[self.begin..self.end];
            take(here);
            total += here.len() as u64;
            self.begin = self.end;
            match self.more().await {
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(total),
                read => read?,
            }
        }
    }
}

fn parse(head: &[u8]) -> io::Result<Head> {
    let status = head
        .get(9..12)
        .filter(|_| head.starts_with(b"HTTP/1."))
        .and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    let status = status.ok_or_else(|| bad("not an HTTP/1 answer"))?;
    let (mut framing, mut closes) = (Framing::UntilClose, head[7] == b'0');
    for line in head.split(|&byte| byte == b'\n').skip(1) {
        let Some(colon) = memchr(b':', line) else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse().ok());
            framing = Framing::Length(length.ok_or_else(|| bad("a Content-Length"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case(b"connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    closes |= matches!(framing, Framing::UntilClose);
    Ok(Head {
        status,
        framing,
        closes,
    })
}

fn bad(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the answer has {what}"))
}
