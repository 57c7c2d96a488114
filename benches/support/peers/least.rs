//! The least that hyper costs: hyper 1 on tokio, both set as snowcached sets them, with one answer
//! for every request at a port: no routing, no look-up, no limit, nothing counted.
//!
//! A process of its own, so that its CPU time is: the bench's program started once more.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Builder;

use super::{Running, folder, free_port, tied};

/// Its name in the tables.
pub const LEAST: &str = "hyper";
/// What the program is started with to be it.
const ROLE: &str = "answer-always";
/// As snowcached's.
const BACKLOG: u32 = 4096;
/// As long as those of snowcached, which bear one, too.
const REQUEST_ID: HeaderValue = HeaderValue::from_static("1a2b3-4c5d6e");

/// What is answered at one port.
pub struct Fixed {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

/// The process, and its ports in the order of what is answered at them.
pub struct Least {
    running: Running,
    ports: Vec<u16>,
}

impl Least {
    pub fn start(fixed: &[Fixed]) -> Result<Least, String> {
        let folder = folder(LEAST)?;
        let mut command = tied(std::env::current_exe().map_err(|error| error.to_string())?);
        command.arg(ROLE);
        let mut ports = Vec::new();
        for fixed in fixed {
            let port = free_port();
            let body = folder.path().join(port.to_string());
            fs::write(&body, &fixed.body).map_err(|error| error.to_string())?;
            command.args([port.to_string(), fixed.status.to_string()]);
            command.arg(fixed.content_type).arg(body);
            ports.push(port);
        }
        // They are bound in this order.
        let last = *ports.last().ok_or("nothing to answer")?;
        let running = Running::start(command, folder, last)?;
        Ok(Least { running, ports })
    }

    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    pub fn port(&self, number: usize) -> u16 {
        self.ports[number]
    }
}

/// Becomes that server where the program was started as it, and then never returns.
pub fn serve_if_told() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_none_or(|word| word != ROLE) {
        return;
    }
    // As snowcached's.
    let runtime = Builder::new_multi_thread().enable_all().build();
    runtime.expect("threads").block_on(async {
        let mut doors = Vec::new();
        for door in words[1..].chunks(4) {
            let [port, status, content_type, body] = door else {
                panic!("{ROLE} PORT STATUS TYPE FILE ...");
            };
            let port: u16 = port.parse().expect("a port");
            let listener = listening(port);
            let answer = Answer {
                status: status.parse().expect("a status"),
                content_type: content_type.parse().expect("a type"),
                body: fs::read(body).expect("a body").into(),
            };
            doors.push(serve(listener.expect("free"), Arc::new(answer)));
        }
        join_all(doors).await;
    });
}

fn listening(port: u16) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    socket.listen(BACKLOG)
}

struct Answer {
    status: StatusCode,
    content_type: HeaderValue,
    body: Bytes,
}

async fn serve(listener: TcpListener, answer: Arc<Answer>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("set");
        tokio::spawn(speak(stream, answer.clone()));
    }
}

async fn speak(stream: TcpStream, answer: Arc<Answer>) {
    let service = service_fn(async |request| Ok::<_, Infallible>(answer.to(request).await));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Whoever goes away in the middle has gone away.
    connection.await.unwrap_or_default();
}

impl Answer {
    async fn to(&self, mut request: Request<Incoming>) -> Response<Full<Bytes>> {
        while !request.body().is_end_stream() {
            if !matches!(request.body_mut().frame().await, Some(Ok(_))) {
                break;
            }
        }
        // hyper gets its own map back, so that none is made for a request.
        let mut headers = std::mem::take(request.headers_mut());
        headers.clear();
        headers.insert(CONTENT_TYPE, self.content_type.clone());
        headers.insert(HeaderName::from_static("x-request-id"), REQUEST_ID);
        let mut response = Response::new(Full::new(self.body.clone()));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}
