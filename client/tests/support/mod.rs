//! A small HTTP server over the memory cache, which can be told to misbehave.

#![allow(dead_code, reason = "each test binary uses its own half")]

pub mod snowcached;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use snowcache_core::cache::{Cache, CacheExt, Memory, NarStream};
use snowcache_core::error::Kind;
use snowcache_core::path_info::Claimed;
use snowcache_nix::{Compression, NarHash, NarInfo, PathInfo, SecretKey, StoreHash};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// What the server does to one of the next requests for a NAR.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Answers 503.
    Busy,
    /// Sends so many bytes and closes the connection.
    CutAfter(usize),
    /// Sends another byte in place of the first one of this offset on.
    Damage(usize),
}

#[derive(Default)]
pub struct Behaviour {
    /// Taken one for each request for a NAR.
    pub nar_faults: Mutex<VecDeque<Fault>>,
    /// Answers `api/v1/...` with 404, like any other binary cache.
    pub no_api: bool,
    /// Answers ranges.
    pub ranges: bool,
    /// In which codec NARs are served.
    pub compression: Option<Compression>,
    /// Lines that are added to each narinfo.
    pub narinfo_suffix: String,
    /// What was asked for: `GET /nix-cache-info`.
    pub log: Mutex<Vec<String>>,
}

pub struct Server {
    pub memory: Memory,
    pub behaviour: Behaviour,
    uploads: Mutex<BTreeMap<String, Bytes>>,
}

pub fn key() -> SecretKey {
    SecretKey::generate("test-server-1", [9; 32]).expect("a good name")
}

impl Server {
    pub fn new(behaviour: Behaviour) -> Arc<Server> {
        let memory = Memory::new(vec![key()]);
        Arc::new(Server {
            memory,
            behaviour,
            uploads: Mutex::default(),
        })
    }

    /// Listens on a free port; gives the URL.
    pub async fn listen(self: &Arc<Server>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                server.clone().serve(connection);
            }
        });
        url
    }

    /// Listens on a socket.
    pub fn listen_unix(self: &Arc<Server>, path: &std::path::Path) -> String {
        let listener = UnixListener::bind(path).expect("a free path");
        let server = self.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                server.clone().serve(connection);
            }
        });
        format!("unix:{}", path.display())
    }

    fn serve(self: Arc<Server>, connection: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        let io = TokioIo::new(connection);
        tokio::spawn(async move {
            // A connection that breaks is part of many a story.
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(io, service)
                    .await,
            );
        });
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path().to_owned();
        let method = request.method().clone();
        self.behaviour
            .log
            .lock()
            .expect("log")
            .push(format!("{method} {path}"));
        let name = path.trim_start_matches('/').to_owned();
        match (method, name.as_str()) {
            (Method::PUT, name) => match name.strip_prefix("push/") {
                Some(name) => self.put(name.to_owned(), request).await,
                None => text(StatusCode::METHOD_NOT_ALLOWED, "write to /push"),
            },
            (_, "nix-cache-info") => text(
                StatusCode::OK,
                "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n",
            ),
            (_, name) if name.starts_with("api/") && self.behaviour.no_api => {
                text(StatusCode::NOT_FOUND, "")
            }
            (Method::GET, "") if !self.behaviour.no_api => {
                let line = format!("trusted-public-keys = {}\n", key().public());
                text(StatusCode::OK, &line)
            }
            (Method::POST, "api/v1/missing") => self.missing(request).await,
            (method, name) => match (name.strip_suffix(".narinfo"), name.strip_prefix("nar/")) {
                (Some(hash), _) => self.narinfo(hash, method == Method::HEAD).await,
                (_, Some(file)) => self.nar(file, &request).await,
                _ => text(StatusCode::NOT_FOUND, "nothing here"),
            },
        }
    }

    fn suffix(&self) -> &'static str {
        match self.behaviour.compression {
            Some(Compression::Zstd) => ".nar.zst",
            Some(Compression::Xz) => ".nar.xz",
            _ => ".nar",
        }
    }

    fn pack(&self, nar: &[u8]) -> Bytes {
        use std::io::Write;
        match self.behaviour.compression {
            Some(Compression::Zstd) => zstd::bulk::compress(nar, 3).expect("packs").into(),
            Some(Compression::Xz) => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(nar).expect("packs");
                encoder.finish().expect("packs").into()
            }
            _ => Bytes::copy_from_slice(nar),
        }
    }

    async fn narinfo(&self, hash: &str, head: bool) -> Answer {
        let hash: StoreHash = hash.parse().expect("a hash");
        let Some(found) = self.memory.narinfo(hash).await.expect("memory") else {
            return text(StatusCode::NOT_FOUND, "no such path");
        };
        if head {
            return text(StatusCode::OK, "");
        }
        let nar = self
            .memory
            .nar_bytes(&found, 1 << 30)
            .await
            .expect("memory");
        let url = format!("nar/{}{}", found.info.nar_hash.base32(), self.suffix());
        let codec = self.behaviour.compression.unwrap_or(Compression::None);
        let size = Some(self.pack(&nar).len() as u64);
        let narinfo = found.info.to_narinfo(&url, codec.as_str(), size);
        text(StatusCode::OK, &(narinfo + &self.behaviour.narinfo_suffix))
    }

    async fn nar(&self, file: &str, request: &Request<Incoming>) -> Answer {
        let hash = file.split('.').next().expect("a name");
        let hash: NarHash = format!("sha256:{hash}").parse().expect("a hash");
        let Some(nar) = self.find_nar(hash).await else {
            return text(StatusCode::NOT_FOUND, "no such NAR");
        };
        let mut body = self.pack(&nar).to_vec();
        let fault = self
            .behaviour
            .nar_faults
            .lock()
            .expect("faults")
            .pop_front();
        let mut answer = Response::builder();
        if self.behaviour.ranges {
            answer = answer
                .header(header::ACCEPT_RANGES, "bytes")
                .header(header::ETAG, "\"e\"");
            if let Some(range) = request.headers().get(header::RANGE) {
                let from = range.to_str().expect("text");
                let from: usize = from
                    .trim_start_matches("bytes=")
                    .trim_end_matches('-')
                    .parse()
                    .expect("from");
                let all = body.len();
                let content_range = format!("bytes {from}-{}/{all}", all - 1);
                body = body.split_off(from);
                answer = answer
                    .status(StatusCode::PARTIAL_CONTENT)
                    .header(header::CONTENT_RANGE, content_range);
            }
        }
        answer = answer.header(header::CONTENT_LENGTH, body.len());
        let mut pieces: Vec<io::Result<Bytes>> = Vec::new();
        match fault {
            Some(Fault::Busy) => return text(StatusCode::SERVICE_UNAVAILABLE, "busy"),
            Some(Fault::Damage(at)) => body[at] ^= 0x55,
            Some(Fault::CutAfter(bytes)) => body.truncate(bytes),
            None => {}
        }
        pieces.push(Ok(Bytes::from(body)));
        if matches!(fault, Some(Fault::CutAfter(_))) {
            pieces.push(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let frames = stream::iter(pieces).then(|piece| async {
            if piece.is_err() {
                // What came before it gets through first.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
            piece.map(Frame::data)
        });
        answer
            .body(StreamBody::new(frames).boxed_unsync())
            .expect("an answer")
    }

    async fn find_nar(&self, hash: NarHash) -> Option<Bytes> {
        let names: Vec<StoreHash> = self.memory.hashes();
        for name in names {
            let narinfo = self
                .memory
                .narinfo(name)
                .await
                .expect("memory")
                .expect("listed");
            if narinfo.info.nar_hash == hash {
                return Some(
                    self.memory
                        .nar_bytes(&narinfo, 1 << 30)
                        .await
                        .expect("memory"),
                );
            }
        }
        None
    }

    async fn missing(&self, request: Request<Incoming>) -> Answer {
        let body = request
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes();
        let asked: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let hashes: Vec<StoreHash> = asked["hashes"]
            .as_array()
            .expect("hashes")
            .iter()
            .map(|hash| hash.as_str().expect("a string").parse().expect("a hash"))
            .collect();
        let missing = self.memory.missing(&hashes).await.expect("memory");
        let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
        text(
            StatusCode::OK,
            &serde_json::json!({ "missing": missing }).to_string(),
        )
    }

    async fn put(&self, name: String, request: Request<Incoming>) -> Answer {
        let Ok(body) = request.into_body().collect().await else {
            return text(StatusCode::BAD_REQUEST, "cut short");
        };
        let body = body.to_bytes();
        if name.starts_with("nar/") {
            self.uploads.lock().expect("uploads").insert(name, body);
            return text(StatusCode::OK, "");
        }
        let narinfo = String::from_utf8(body.into()).expect("text");
        let narinfo = NarInfo::parse(&narinfo).expect("a narinfo");
        let nar = self
            .uploads
            .lock()
            .expect("uploads")
            .get(narinfo.url)
            .cloned();
        let nar = nar.expect("uploaded first");
        let claimed = Claimed::new(PathInfo::from(&narinfo));
        // Its own promise is that of its bytes: the claim is compared by the cache.
        let nar = NarStream::from_bytes(hash_of(&nar), nar);
        match self.memory.put(claimed, nar).await {
            Ok(()) => text(StatusCode::OK, ""),
            Err(error) if error.kind() == Kind::Missing => {
                text(StatusCode::FAILED_DEPENDENCY, &error.to_string())
            }
            Err(error) => text(StatusCode::UNPROCESSABLE_ENTITY, &error.to_string()),
        }
    }
}

fn hash_of(nar: &[u8]) -> NarHash {
    use sha2::{Digest, Sha256};
    NarHash::from_bytes(Sha256::digest(nar).into())
}

fn text(status: StatusCode, text: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes()));
    let body = body.map_err(|never| match never {}).boxed_unsync();
    Response::builder()
        .status(status)
        .body(body)
        .expect("an answer")
}
