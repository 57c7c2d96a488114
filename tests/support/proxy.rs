//! What stands between a client and a good server: a proxy that spoils some of what passes through,
//! a wire that is cut now and then and counts what goes through it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::http::{Chunks, Http, Response};

/// What becomes of an answer, by the path that was asked for.
type Spoil = dyn Fn(&str, Response) -> Response + Send + Sync;

/// An answer with this header is sent by half, and the connection ends.
const CUT_OFF: &str = "X-Cut-Off";

/// The same answer, cut off in the middle.
pub fn cut_off(mut answer: Response) -> Response {
    answer.headers.push((CUT_OFF.to_owned(), String::new()));
    answer
}

/// Forwards requests, with their bodies. Ends with the test's process.
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub fn before(
        server: SocketAddr,
        spoil: impl Fn(&str, Response) -> Response + Send + Sync + 'static,
    ) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (asked, spoil): (Arc<Mutex<Vec<String>>>, Arc<Spoil>) =
            (Arc::default(), Arc::new(spoil));
        let log = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (spoil, log) = (Arc::clone(&spoil), Arc::clone(&log));
                thread::spawn(move || serve(&stream, server, &*spoil, &log));
            }
        });
        Proxy { address, asked }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was asked for so far, as `GET /path`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no poison").clone()
    }
}

/// Answers for `404 Not Found`, whatever came.
pub fn missing() -> Response {
    Response {
        status: 404,
        headers: Vec::new(),
        body: b"not here\n".to_vec(),
    }
}

/// No answer at all: the connection ends.
pub fn hang_up() -> Response {
    Response {
        status: 0,
        ..missing()
    }
}

/// Serves one connection, request by request, until the client hangs up.
fn serve(
    stream: &TcpStream,
    server: SocketAddr,
    spoil: &Spoil,
    log: &Mutex<Vec<String>>,
) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut words = lines.first()?.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        log.lock()
            .expect("no poison")
            .push(format!("{method} {path}"));
        let body = body_of(&lines, &mut reader)?;
        let passed_on = ["authorization", "snowcache-upload"];
        let passed_on = passed_on.map(|name| (name, header(&lines, name)));
        let request = passed_on.into_iter().fold(
            Http(server).request(method, path),
            |request, (name, value)| match value {
                Some(value) => request.header(name, value),
                None => request,
            },
        );
        let request = match body.is_empty() {
            true => request,
            // Questions of ours; what Nix would take packed, it gets as it is.
            false => request.header("Accept-Encoding", "zstd").bytes(&body),
        };
        let answer = spoil(path, request.send());
        if answer.status == 0 {
            return None;
        }
        let length = match answer.header("content-length") {
            Some(length) if method == "HEAD" => length.to_owned(),
            _ => answer.body.len().to_string(),
        };
        let encoding = answer
            .header("content-encoding")
            .map_or_else(String::new, |encoding| {
                format!("Content-Encoding: {encoding}\r\n")
            });
        let head = format!(
            "HTTP/1.1 {} Said\r\nContent-Length: {length}\r\n{encoding}\r\n",
            answer.status
        );
        let is_cut = answer.header(CUT_OFF).is_some();
        (&*stream).write_all(head.as_bytes()).ok()?;
        if method != "HEAD" {
            let sent = answer.body.len() / if is_cut { 2 } else { 1 };
            (&*stream).write_all(&answer.body[..sent]).ok()?;
        }
        if is_cut {
            return None;
        }
    }
}

fn header<'a>(lines: &'a [String], wanted: &str) -> Option<&'a str> {
    let mut headers = lines.iter().filter_map(|line| line.split_once(": "));
    let header = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    header.map(|(_, value)| value)
}

/// All of a request's body.
fn body_of(lines: &[String], reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if header(lines, "transfer-encoding").is_some() {
        Chunks::new(&mut *reader).read_to_end(&mut body).ok()?;
        reader.read_line(&mut String::new()).ok()?;
    } else {
        let length = header(lines, "content-length");
        let length = length.map_or(0, |length| length.parse().expect("a length of a body"));
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
    }
    Some(body)
}

/// Carries connections. Ends with the test's process.
pub struct Wire {
    address: SocketAddr,
    sent_bytes: Arc<AtomicU64>,
    cuts: Arc<AtomicUsize>,
}

impl Wire {
    /// To this server; `limit` says after how many bytes the connection of this number is cut.
    pub fn to(server: SocketAddr, limit: impl Fn(usize) -> Option<u64> + Send + 'static) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (sent_bytes, cuts) = (Arc::<AtomicU64>::default(), Arc::<AtomicUsize>::default());
        let (sent, counted) = (sent_bytes.clone(), cuts.clone());
        thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let (limit, sent, cuts) = (limit(number), sent.clone(), counted.clone());
                thread::spawn(move || {
                    let limit = limit.unwrap_or(u64::MAX);
                    let copied = carry(&client, server, limit, &sent);
                    cuts.fetch_add(usize::from(copied == limit), Ordering::Relaxed);
                });
            }
        });
        Wire {
            address,
            sent_bytes,
            cuts,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Bytes from clients, over all connections.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }
}

/// Carries a connection, up to so many bytes from the client; how many these were.
fn carry(client: &TcpStream, server: SocketAddr, limit: u64, sent: &AtomicU64) -> u64 {
    let Ok(server) = TcpStream::connect(server) else {
        return 0;
    };
    let (mut back, mut to_client) = (
        server.try_clone().expect("a socket"),
        client.try_clone().expect("a socket"),
    );
    let answers = thread::spawn(move || {
        io::copy(&mut back, &mut to_client).ok();
        to_client.shutdown(Shutdown::Both).ok();
    });
    let (mut from, mut to, mut copied) = (client.take(limit), &server, 0);
    let mut buffer = [0; 16 << 10];
    while let Ok(len) = from.read(&mut buffer) {
        if len == 0 || to.write_all(&buffer[..len]).is_err() {
            break;
        }
        copied += len as u64;
        sent.fetch_add(len as u64, Ordering::Relaxed);
    }
    server.shutdown(Shutdown::Both).ok();
    answers.join().expect("the way back");
    copied
}
