//! A plain HTTP/1.1 client: one connection a request, every byte as the test wants it, lies
//! included.
//!
//! It reads the answer while it still sends, so that a server may refuse an upload early; it never
//! follows redirects, never normalises a path, never decodes a body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// Longer than any answer that a test waits for (a 20 GB upload is acknowledged in one).
const PATIENCE: Duration = Duration::from_secs(900);

/// Who is asked.
#[derive(Clone, Copy)]
pub struct Http(pub SocketAddr);

/// What is asked.
pub struct Request<'a> {
    address: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Body<'a>,
}

enum Body<'a> {
    None,
    Bytes(&'a [u8]),
    /// With a length that is declared, true or not; without one, in chunks.
    Stream(Option<u64>, Box<dyn Read + Send + 'a>),
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Http {
    pub fn request<'a>(&self, method: &str, path: &str) -> Request<'a> {
        Request {
            address: self.0,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path).send()
    }

    pub fn head(&self, path: &str) -> Response {
        self.request("HEAD", path).send()
    }

    pub fn put(&self, path: &str, token: &str, body: &[u8]) -> Response {
        self.request("PUT", path).bearer(token).bytes(body).send()
    }
}

impl<'a> Request<'a> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub fn bytes(mut self, body: &'a [u8]) -> Self {
        self.body = Body::Bytes(body);
        self
    }

    pub fn stream(mut self, declared: Option<u64>, body: impl Read + Send + 'a) -> Self {
        self.body = Body::Stream(declared, Box::new(body));
        self
    }

    /// The whole answer.
    pub fn send(self) -> Response {
        let asked = format!("{} {}", self.method, self.path);
        self.try_send()
            .unwrap_or_else(|error| panic!("{asked}: no answer: {error}"))
    }

    /// The whole answer, or how the connection broke.
    pub fn try_send(self) -> io::Result<Response> {
        let head_only = self.method == "HEAD";
        self.exchange(|mut response, mut body| {
            if !head_only {
                body.read_to_end(&mut response.body)?;
            }
            Ok(response)
        })
    }

    /// Hands the answer's head and a reader of its body to `read`, while the request may still be
    /// on its way.
    pub fn exchange<T>(
        self,
        read: impl FnOnce(Response, Box<dyn Read + '_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        thread::scope(|scope| {
            let mut wire = stream.try_clone()?;
            scope.spawn(move || {
                // When this fails the server has hung up: what it answered says why.
                if self.write_to(&mut wire).is_err() {
                    wire.shutdown(Shutdown::Write).ok();
                }
            });
            let mut reader = BufReader::with_capacity(1 << 16, &stream);
            let answer = read_head(&mut reader).and_then(|response| {
                let body = body_of(&response, reader);
                read(response, body)
            });
            // A sender whom nobody listens to any more must not wait for room.
            stream.shutdown(Shutdown::Both).ok();
            answer
        })
    }

    fn write_to(self, wire: &mut TcpStream) -> io::Result<()> {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n",
            self.method, self.path, self.address
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match self.body {
            Body::None => wire.write_all(format!("{head}\r\n").as_bytes()),
            Body::Bytes(bytes) => {
                wire.write_all(
                    format!("{head}Content-Length: {}\r\n\r\n", bytes.len()).as_bytes(),
                )?;
                wire.write_all(bytes)
            }
            Body::Stream(Some(declared), mut source) => {
                wire.write_all(format!("{head}Content-Length: {declared}\r\n\r\n").as_bytes())?;
                let sent = io::copy(&mut source, wire)?;
                if sent < declared {
                    wire.shutdown(Shutdown::Write)
                } else {
                    Ok(())
                }
            }
            Body::Stream(None, mut source) => {
                wire.write_all(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes())?;
                let mut buffer = vec![0; 1 << 16];
                loop {
                    let length = source.read(&mut buffer)?;
                    wire.write_all(format!("{length:x}\r\n").as_bytes())?;
                    wire.write_all(&buffer[..length])?;
                    wire.write_all(b"\r\n")?;
                    if length == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self
            .headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name));
        found.next().map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// Asserts the status, and hands itself on.
    pub fn is(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{:?}\n{}", self.headers, self.text());
        self
    }
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Response> {
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "closed before an answer",
                ));
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines
            .first()
            .and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let status: u16 = status.ok_or_else(|| bad(&format!("not a status line: {lines:?}")))?;
        if (100..200).contains(&status) {
            continue;
        }
        let headers = lines[1..]
            .iter()
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        return Ok(Response {
            status,
            headers,
            body: Vec::new(),
        });
    }
}

fn body_of<'a>(response: &Response, reader: impl BufRead + 'a) -> Box<dyn Read + 'a> {
    if response
        .header("transfer-encoding")
        .is_some_and(|value| value.contains("chunked"))
    {
        return Box::new(Chunks::new(reader));
    }
    match response
        .header("content-length")
        .and_then(|value| value.parse().ok())
    {
        Some(length) => Box::new(Exactly {
            reader,
            left: length,
        }),
        None => Box::new(reader),
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// A body of a declared length; shorter is an error.
struct Exactly<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let length = self.reader.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a body cut short",
            ));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// A chunked body; one without its last chunk is an error.
pub struct Chunks<R> {
    reader: R,
    left: usize,
    done: bool,
}

impl<R> Chunks<R> {
    pub fn new(reader: R) -> Chunks<R> {
        let (left, done) = (0, false);
        Chunks { reader, left, done }
    }
}

impl<R: BufRead> Read for Chunks<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.left == 0 && !self.done {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            if line.trim().is_empty() && !line.is_empty() {
                continue;
            }
            let size = usize::from_str_radix(line.trim(), 16);
            self.left = size.map_err(|_| bad(&format!("not a chunk size: {line:?}")))?;
            self.done = self.left == 0;
        }
        let most = buffer.len().min(self.left);
        let length = self.reader.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "a body cut short",
            ));
        }
        self.left -= length;
        Ok(length)
    }
}
