//! The native upload API: what is absent, NARs in pieces, and paths to be published.
//!
//! Guarantees: a stream that is not sent to its end is no upload to the server, which keeps what
//! frames it got; every wait is bounded. Never: a stream sent twice by itself, for whoever made it
//! asks first what is still absent.

use super::Remote;
use super::error::RemoteError;
use super::http::{Ask, BoxError, IDLE_TIMEOUT};
use super::taken::{Taking, Waits};
use bytes::Bytes;
use futures::stream::unfold;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use snowcache_core::recipe::FrameId;
use snowcache_core::upload;
use snowcache_nix::NarHash;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// What the server takes in one request.
const AT_ONCE: usize = 10_000;
/// Of 10,000 NARs or paths, with a sentence each.
const MAX_ANSWER_BYTES: usize = 8 << 20;
/// Pieces of a stream that wait for the connection, of 256 KiB and a frame at most: a lane packs
/// its next 4 MiB while these are sent. The kernels on the way take little of what nobody reads.
const QUEUED_PIECES: usize = 16;
/// After the last byte the server still hashes what waits, and syncs: minutes on a slow disk.
const FINISH_TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Serialize)]
struct AskNars {
    nar_hashes: Vec<String>,
}

#[derive(Deserialize)]
struct AbsentNars {
    absent: Vec<String>,
}

#[derive(Serialize)]
struct AskCommit<'a> {
    paths: &'a [String],
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    vouched: &'a [String],
}

#[derive(Deserialize)]
struct Committed {
    paths: Vec<PathFate>,
}

#[derive(Deserialize)]
struct Taken {
    nars: Vec<NarFate>,
}

/// What became of a path that was to be published.
#[derive(Clone, Debug, Deserialize)]
pub struct PathFate {
    /// Its base name.
    pub path: String,
    /// 200: it is there now. 409: with other bytes.
    pub status: u16,
    /// Why not.
    pub error: Option<String>,
}

/// What became of a NAR that was sent.
#[derive(Clone, Debug, Deserialize)]
pub struct NarFate {
    /// Its hash.
    pub nar_hash: String,
    /// It is durable there.
    #[serde(default)]
    pub held: bool,
    /// A frame that was sent by name is not there any more.
    pub lacks: Option<String>,
    /// Why it was refused.
    pub refused: Option<String>,
}

/// What goes down a stream next.
#[derive(Debug)]
pub struct Next {
    /// Records, and parts of them.
    pub bytes: Bytes,
    /// The last one is a frame; no other is.
    pub is_frame: bool,
}

impl Next {
    /// Other records.
    pub fn without_frame(bytes: Vec<u8>) -> Next {
        let (bytes, is_frame) = (Bytes::from(bytes), false);
        Next { bytes, is_frame }
    }
}

/// A stream of NARs under way.
pub struct Sending {
    queue: mpsc::Sender<Next>,
    answer: JoinHandle<Result<Response<Incoming>, RemoteError>>,
    remote: Remote,
    url: String,
}

impl Remote {
    /// Those of `nars` that the cache does not hold for us.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub async fn absent_nars(&self, nars: &[NarHash]) -> Result<Vec<NarHash>, RemoteError> {
        let mut absent = Vec::new();
        for some in nars.chunks(AT_ONCE) {
            let nar_hashes = some.iter().map(ToString::to_string).collect();
            let ask = self.question("nars", &AskNars { nar_hashes })?;
            let answer = self.http.send(&ask).await?;
            let answer = self.http.succeeded(&ask.url, answer).await?;
            let answer: AbsentNars = self.answered(&ask.url, answer).await?;
            for text in answer.absent {
                absent.push(text.parse().map_err(|error| understood(&ask.url, error))?);
            }
        }
        Ok(absent)
    }

    /// Of each of `frames` whether it is absent.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn absent_frames(&self, frames: &[FrameId]) -> Result<Vec<bool>, RemoteError> {
        let mut absent = Vec::with_capacity(frames.len());
        let url = self.uploads("/frames");
        for some in frames.chunks(upload::MAX_FRAMES) {
            let mut ask = Ask::new(Method::POST, url.clone());
            ask.body = Bytes::from(upload::question(some));
            let answer = self.http.send(&ask).await?;
            let answer = self.http.succeeded(&url, answer).await?;
            let answer = self.http.small(&url, answer, MAX_ANSWER_BYTES).await?;
            let answer = upload::absent(&answer, some.len());
            absent.extend(answer.map_err(|error| understood(&url, error))?);
        }
        Ok(absent)
    }

    /// Publishes paths in this order, references first; `records` are narinfos without the lines
    /// about a file. `vouched` are such of references that are not there, with an upstream's
    /// signature.
    ///
    /// # Errors
    /// When the cache cannot be asked; what became of each path is in the answer.
    pub async fn commit(
        &self,
        records: &[String],
        vouched: &[String],
    ) -> Result<Vec<PathFate>, RemoteError> {
        let paths = records;
        let ask = self.question("commit", &AskCommit { paths, vouched })?;
        let answer = self.http.send(&ask).await?;
        let json = HeaderValue::from_static("application/json");
        let told = answer.headers().get(header::CONTENT_TYPE) == Some(&json);
        let answer = match told {
            true => answer,
            false => self.http.succeeded(&ask.url, answer).await?,
        };
        let Committed { paths } = self.answered(&ask.url, answer).await?;
        match paths.len() == records.len() {
            true => Ok(paths),
            false => Err(understood(
                &ask.url,
                "it answers for another number of paths",
            )),
        }
    }

    /// Begins a stream of NARs, one of a push that shares `waits`.
    pub fn send_nars(&self, waits: &Waits) -> Sending {
        let url = self.uploads("");
        let (queue, queued) = mpsc::channel::<Next>(QUEUED_PIECES);
        let mut ask = Ask::new(Method::POST, url.clone());
        let taking = Taking::of(&self.http, waits, &mut ask);
        let pieces = unfold((queued, taking), |(mut queued, mut taking)| async move {
            let Next { bytes, is_frame } = queued.recv().await?;
            if is_frame {
                taking.wait().await;
            }
            Some((Ok::<_, BoxError>(Frame::data(bytes)), (queued, taking)))
        });
        let (http, body) = (self.http.clone(), StreamBody::new(pieces).boxed_unsync());
        let answer = tokio::spawn(async move { http.streamed(&ask, body).await });
        Sending {
            queue,
            answer,
            remote: self.clone(),
            url,
        }
    }

    fn uploads(&self, below: &str) -> String {
        self.http.endpoint.join(&format!("api/v1/uploads{below}"))
    }

    fn question(&self, below: &str, question: &impl Serialize) -> Result<Ask, RemoteError> {
        let url = self.uploads(&format!("/{below}"));
        let body = serde_json::to_vec(question).map_err(|error| understood(&url, error))?;
        let json = HeaderValue::from_static("application/json");
        let mut ask = Ask::new(Method::POST, url).header(header::CONTENT_TYPE, json);
        ask.body = Bytes::from(body);
        Ok(ask)
    }

    async fn answered<T: DeserializeOwned>(
        &self,
        url: &str,
        answer: Response<Incoming>,
    ) -> Result<T, RemoteError> {
        let body = self.http.small(url, answer, MAX_ANSWER_BYTES).await?;
        serde_json::from_slice(&body).map_err(|error| understood(url, error))
    }
}

impl Sending {
    /// Sends the next bytes. False when the server has answered already: [`Sending::finish`] tells
    /// what.
    ///
    /// # Errors
    /// When nothing is taken for too long.
    pub async fn send(&mut self, next: Next) -> Result<bool, RemoteError> {
        match timeout(IDLE_TIMEOUT, self.queue.send(next)).await {
            Ok(sent) => Ok(sent.is_ok()),
            Err(_) => Err(self.timed_out(IDLE_TIMEOUT)),
        }
    }

    /// Ends the stream and waits for what became of its NARs.
    ///
    /// # Errors
    /// When it was refused, or the connection broke.
    pub async fn finish(self) -> Result<Vec<NarFate>, RemoteError> {
        let late = self.timed_out(FINISH_TIMEOUT);
        drop(self.queue);
        let answer = timeout(FINISH_TIMEOUT, self.answer).await;
        let answer = answer.map_err(|_| late)?;
        let answer = answer.map_err(|source| RemoteError::Connection {
            url: self.url.clone(),
            source: source.into(),
        })??;
        let http = &self.remote.http;
        let answer = http.succeeded(&self.url, answer).await?;
        let Taken { nars } = self.remote.answered(&self.url, answer).await?;
        Ok(nars)
    }

    fn timed_out(&self, patience: Duration) -> RemoteError {
        let (url, seconds) = (self.url.clone(), patience.as_secs());
        RemoteError::TimedOut { url, seconds }
    }
}

fn understood(url: &str, source: impl Into<BoxError>) -> RemoteError {
    let (url, source) = (url.to_owned(), source.into());
    RemoteError::Answer { url, source }
}

/// How long to wait before a stream is sent anew, after the attempt of this number.
pub fn wait_after(attempt: u32) -> Duration {
    super::retry::wait_after(attempt, None, super::http::random())
}

impl RemoteError {
    /// An answer that cannot be right.
    pub fn answered(url: String, why: &'static str) -> RemoteError {
        understood(&url, why)
    }

    /// Whether sending a stream again, after asking what is absent, may help.
    pub fn may_pass(&self) -> bool {
        match self {
            RemoteError::Connection { .. }
            | RemoteError::BrokeOff { .. }
            | RemoteError::TimedOut { .. } => true,
            // 400: it was changed or cut off on its way.
            RemoteError::Status { status, .. } => {
                *status == StatusCode::BAD_REQUEST || super::retry::is_passing(*status)
            }
            _ => false,
        }
    }
}
