//! Asking the agent, over its control socket.
//!
//! Guarantees: every wait ends; that nobody listens is told apart from a refusal. Never: retried
//! by itself; who asks knows whether that makes sense.

use super::jobs::Wish;
use super::status::{Shown, Standing, Status};
use crate::failure::{Exit, Failure};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The longest question is that for a root: the gate reads a receipt of 72 MB at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// 356 jobs of some roots each are less than a megabyte; a job may have 1,000 roots.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// An agent, by its socket.
#[derive(Clone, Debug)]
pub struct Ask {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens, or not to us.
    #[error(
        "no agent answers at {}: {source}; is snowcache-agent.service running? --agent names \
         another socket", .socket.display()
    )]
    Away {
        /// Where.
        socket: PathBuf,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answers, but not that.
    #[error("the agent at {}: {sentence}", .socket.display())]
    Refused {
        /// Where.
        socket: PathBuf,
        /// What kind of refusal.
        status: StatusCode,
        /// In its words.
        sentence: String,
    },
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Failure {
        match error {
            AskError::Away { .. } => Failure::with(Exit::Unreachable, error),
            AskError::Refused { .. } => Failure::failed(error),
        }
    }
}

impl Ask {
    /// The agent at this socket.
    pub fn at(socket: &Path) -> Ask {
        Ask {
            socket: socket.to_owned(),
        }
    }

    /// All that it does.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn status(&self) -> Result<Status, AskError> {
        self.json(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// Asks for closures: the job.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn wish(&self, wish: &Wish) -> Result<Shown, AskError> {
        let body = self.body(wish)?;
        self.json(Method::POST, "/v1/jobs", body).await
    }

    /// How a job stands; nothing if it is not wanted any more.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn job(&self, id: u64) -> Result<Option<Shown>, AskError> {
        let path = format!("/v1/jobs/{id}");
        match self.json(Method::GET, &path, Bytes::new()).await {
            Err(AskError::Refused { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Wants a job no more.
    ///
    /// # Errors
    /// When there is none, or it cannot be forgotten.
    pub async fn cancel(&self, id: u64) -> Result<(), AskError> {
        let path = format!("/v1/jobs/{id}");
        self.send(Method::DELETE, &path, Bytes::new())
            .await
            .map(drop)
    }

    /// How a root (a store path without its folder, or a hash part) stands on this node.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn standing(&self, root: &str) -> Result<Standing, AskError> {
        let path = format!("/v1/roots/{root}");
        self.json(Method::GET, &path, Bytes::new()).await
    }

    /// Gives it another budget: what it says then.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn set_rate(&self, bytes_per_s: u64) -> Result<String, AskError> {
        let body = self.body(&serde_json::json!({ "bytes_per_s": bytes_per_s }))?;
        let answer = self.send(Method::PUT, "/v1/rate", body).await?;
        Ok(String::from_utf8_lossy(&answer).trim().to_owned())
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, AskError> {
        let answer = self.send(method, path, body).await?;
        serde_json::from_slice(&answer).map_err(|error| self.away(error))
    }

    fn body(&self, value: &impl Serialize) -> Result<Bytes, AskError> {
        let body = serde_json::to_vec(value).map_err(|error| self.away(error))?;
        Ok(Bytes::from(body))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, AskError> {
        let late = |_| self.away(io::Error::from(io::ErrorKind::TimedOut));
        let asked = timeout(PATIENCE, self.once(method, path, body)).await;
        let (status, answer) = asked.map_err(late)?.map_err(|error| self.away(error))?;
        match status.is_success() {
            true => Ok(answer),
            false => Err(AskError::Refused {
                socket: self.socket.clone(),
                status,
                sentence: String::from_utf8_lossy(&answer).trim().to_owned(),
            }),
        }
    }

    async fn once(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), Box<dyn Error + Send + Sync>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let hands = http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        let (mut sender, connection) = hands;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::HOST, "localhost");
        let answer = sender.send_request(request.body(Full::new(body))?).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        Ok((status, body.await?.to_bytes()))
    }

    fn away(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> AskError {
        AskError::Away {
            socket: self.socket.clone(),
            source: source.into(),
        }
    }
}
