//! What a snowcache keeps and forgets: its pins, collections and removals, by the native API.
//!
//! Guarantees: what could be carried out twice to another effect is sent once; a collection's
//! report that is cut short is an error. Never: a refusal taken for "not there".

use super::Remote;
use super::error::RemoteError;
use super::http::{Ask, Body, IDLE_TIMEOUT};
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::timeout;

/// 100,000 roots, the most that a pin has over all its generations, at 247 bytes, and slack.
const MAX_PIN_BYTES: usize = 32 << 20;
/// A page of pins ends past 4 MiB, with a pin of at most 1,000 roots at 247 bytes.
const MAX_PINS_BYTES: usize = 8 << 20;
/// 10,000 paths at 244 bytes, each with a sentence of why it stays.
const MAX_REMOVAL_BYTES: usize = 16 << 20;
/// A line of a report: two paths and a sentence.
const MAX_LINE_BYTES: usize = 64 << 10;

/// What a pin stood for at one time.
#[derive(Debug, Serialize, Deserialize)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Base names of what it keeps.
    pub roots: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Who made it.
    pub subject: String,
}

/// A pin with all its generations.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pin {
    /// Its name.
    pub name: String,
    /// The number of the generation that counts.
    pub current: u64,
    /// Which others stay: `all`, `5`, `30d`.
    pub keep: String,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// By rising number.
    pub generations: Vec<Generation>,
}

/// A pin in a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// The number of the generation that counts.
    pub current: u64,
    /// How many generations there are.
    pub generations: u64,
    /// Which of them stay.
    pub keep: String,
    /// When it ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// When the current generation was made.
    pub time: u64,
    /// Who made it.
    pub subject: String,
    /// Base names of what the current generation keeps.
    pub roots: Vec<String>,
}

#[derive(Deserialize)]
struct PinsPage {
    pins: Vec<Listed>,
    next: Option<String>,
}

/// A new generation.
#[derive(Debug, Serialize)]
pub struct PinChange {
    /// Base names of what it keeps.
    pub roots: Vec<String>,
    /// Which generations stay; `None`: as before.
    pub keep: Option<String>,
    /// In how many seconds the pin ends; `None`: never.
    pub expires_in_s: Option<u64>,
}

/// A path that was not removed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Kept {
    /// Its base name.
    pub path: String,
    /// What needs it.
    pub why: String,
}

/// What became of paths that were to go.
#[derive(Debug, Serialize, Deserialize)]
pub struct Removal {
    /// Base names of what is gone.
    pub removed: Vec<String>,
    /// What stays.
    pub kept: Vec<Kept>,
    /// What was not there, as it was asked for.
    pub missing: Vec<String>,
}

impl Remote {
    /// All pins, by name.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn pins(&self) -> Result<Vec<Listed>, RemoteError> {
        let mut pins = Vec::new();
        let mut query = String::new();
        loop {
            let path = format!("api/v1/pins{query}");
            let page: PinsPage = self.get_json(&path, MAX_PINS_BYTES).await?;
            pins.extend(page.pins);
            match page.next {
                Some(next) => query = format!("?after={next}"),
                None => return Ok(pins),
            }
        }
    }

    /// One pin; `None` when there is none of this name.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn pin(&self, name: &str) -> Result<Option<Pin>, RemoteError> {
        match self.get_json(&pin_path(name), MAX_PIN_BYTES).await {
            Err(RemoteError::Status { status, .. }) if status == StatusCode::NOT_FOUND => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Gives a pin a new generation. The same roots again change nothing, so it is tried again.
    ///
    /// # Errors
    /// When the cache refuses: a root that is not there, a wrong name, no token.
    pub async fn set_pin(&self, name: &str, change: &PinChange) -> Result<Pin, RemoteError> {
        let ask = self.ask(Method::PUT, &pin_path(name), Some(change))?;
        let answer = self.http.send(&ask).await?;
        self.read_json(&ask.url, answer, MAX_PIN_BYTES).await
    }

    /// Moves a pin to one of its generations.
    ///
    /// # Errors
    /// When there is no such pin or generation.
    pub async fn rollback_pin(&self, name: &str, to: Option<u64>) -> Result<Pin, RemoteError> {
        let path = format!("{}/rollback", pin_path(name));
        let question = serde_json::json!({ "to": to });
        let ask = self.ask(Method::POST, &path, Some(&question))?;
        // To a generation that is named it can be asked twice; one step down would become two.
        let answer = match to {
            Some(_) => self.http.send(&ask).await?,
            None => self.once(&ask).await?,
        };
        self.read_json(&ask.url, answer, MAX_PIN_BYTES).await
    }

    /// Removes a pin; false when there was none.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn remove_pin(&self, name: &str) -> Result<bool, RemoteError> {
        let ask = self.ask(Method::DELETE, &pin_path(name), None::<&Value>)?;
        let answer = self.once(&ask).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(false);
        }
        self.http.succeeded(&ask.url, answer).await?;
        Ok(true)
    }

    /// Removes paths, named by store path, base name or hash, as far as nothing needs them.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn remove(&self, paths: &[String], dry_run: bool) -> Result<Removal, RemoteError> {
        let question = serde_json::json!({ "paths": paths, "dry_run": dry_run });
        let ask = self.ask(Method::POST, "api/v1/remove", Some(&question))?;
        let answer = self.once(&ask).await?;
        self.read_json(&ask.url, answer, MAX_REMOVAL_BYTES).await
    }

    /// Starts a collection; its report comes as it goes on.
    ///
    /// # Errors
    /// When the cache refuses, as while another one is running.
    pub async fn collect(&self, dry_run: bool) -> Result<Report, RemoteError> {
        self.report("api/v1/gc", &serde_json::json!({ "dry_run": dry_run }))
            .await
    }

    /// Starts long work of the server that tells of itself in lines of JSON, the last of them
    /// `{"summary": …}` or `{"error": …}`.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn report(&self, path: &str, question: &Value) -> Result<Report, RemoteError> {
        let ask = self.ask(Method::POST, path, Some(question))?;
        let answer = self.once(&ask).await?;
        let answer = self.http.succeeded(&ask.url, answer).await?;
        Ok(Report {
            url: ask.url,
            body: answer.into_body(),
            unread: BytesMut::new(),
            read_bytes: 0,
        })
    }

    pub(super) async fn get_json<T: DeserializeOwned>(
        &self,
        path: &str,
        limit_bytes: usize,
    ) -> Result<T, RemoteError> {
        let ask = self.ask(Method::GET, path, None::<&Value>)?;
        let answer = self.http.send(&ask).await?;
        self.read_json(&ask.url, answer, limit_bytes).await
    }

    pub(super) async fn read_json<T: DeserializeOwned>(
        &self,
        url: &str,
        answer: Response<Incoming>,
        limit_bytes: usize,
    ) -> Result<T, RemoteError> {
        let answer = self.http.succeeded(url, answer).await?;
        let body = self.http.small(url, answer, limit_bytes).await?;
        serde_json::from_slice(&body).map_err(|error| not_understood(url, error.into()))
    }

    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Ask, RemoteError> {
        let url = self.http.endpoint.join(path);
        let mut ask = Ask::new(method, url);
        if let Some(body) = body {
            let json = serde_json::to_vec(body);
            ask.body = json
                .map_err(|error| not_understood(&ask.url, error.into()))?
                .into();
            let json = HeaderValue::from_static("application/json");
            ask = ask.header(header::CONTENT_TYPE, json);
        }
        Ok(ask)
    }

    /// Without another attempt.
    pub(super) async fn once(&self, ask: &Ask) -> Result<Response<Incoming>, RemoteError> {
        let body = Full::new(ask.body.clone()).map_err(|never| match never {});
        let body: Body = body.boxed_unsync();
        self.http.once(ask, body).await
    }
}

/// Lines of JSON as they come.
pub struct Report {
    url: String,
    body: Incoming,
    unread: BytesMut,
    read_bytes: u64,
}

impl Report {
    /// The next line; `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or a line is no JSON.
    pub async fn next(&mut self) -> Result<Option<Value>, RemoteError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line = self.unread.split_to(end);
                self.unread.advance(1);
                let value = serde_json::from_slice(&line);
                return value
                    .map(Some)
                    .map_err(|error| not_understood(&self.url, error.into()));
            }
            if self.unread.len() > MAX_LINE_BYTES {
                let (url, limit_bytes) = (self.url.clone(), MAX_LINE_BYTES);
                return Err(RemoteError::TooLong { url, limit_bytes });
            }
            match self.more().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(self.broke_off("its last line is cut".into())),
            }
        }
    }

    async fn more(&mut self) -> Result<Option<Bytes>, RemoteError> {
        let frame = match timeout(IDLE_TIMEOUT, self.body.frame()).await {
            Err(_) => {
                let (url, seconds) = (self.url.clone(), IDLE_TIMEOUT.as_secs());
                return Err(RemoteError::TimedOut { url, seconds });
            }
            Ok(None) => return Ok(None),
            Ok(Some(frame)) => frame.map_err(|error| self.broke_off(error.into()))?,
        };
        let bytes = frame.into_data().unwrap_or_default();
        self.read_bytes += bytes.len() as u64;
        Ok(Some(bytes))
    }

    fn broke_off(&self, source: super::http::BoxError) -> RemoteError {
        RemoteError::BrokeOff {
            url: self.url.clone(),
            read_bytes: self.read_bytes,
            source,
        }
    }
}

/// Names have been checked: nothing in them needs escaping.
fn pin_path(name: &str) -> String {
    format!("api/v1/pins/{name}")
}

pub(super) fn not_understood(url: &str, source: super::http::BoxError) -> RemoteError {
    RemoteError::Answer {
        url: url.to_owned(),
        source,
    }
}
