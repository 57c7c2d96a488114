//! What a snowcache tells of by itself: Server-Sent Events, as its `api/v1/events` has them.
//!
//! Guarantees: a stream that is silent for [`SILENCE`] is an error; what is no event of ours is
//! left out. Never: more than [`MAX_EVENT_BYTES`] in memory.

use super::Remote;
use super::admin::not_understood;
use super::error::RemoteError;
use bytes::BytesMut;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use snowcache_core::events::KEEP_ALIVE;
use snowcache_nix::StoreHash;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::timeout;

/// Longer than the server is ever silent: something between here and there has let go.
const SILENCE: Duration = KEEP_ALIVE.saturating_mul(3);
/// 64 hashes of 32 characters, with quotes and a comma, are 2.3 KB.
const MAX_EVENT_BYTES: usize = 16 << 10;
/// Behind each event.
const END: &[u8] = b"\n\n";

/// What is to be told: at most [`snowcache_core::events::MAX_WANTED`] in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Names of pins.
    pub pins: BTreeSet<String>,
    /// Paths that are not there yet.
    pub paths: BTreeSet<StoreHash>,
}

/// What a cache tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// A pin stands for another generation, or did when this began.
    Moved {
        /// Its name.
        name: String,
        /// The number of its generation.
        generation: u64,
    },
    /// These paths are there.
    Ready(Vec<StoreHash>),
}

/// A stream of what a cache tells.
pub struct Listening {
    url: String,
    body: Incoming,
    unread: BytesMut,
    read_bytes: u64,
}

#[derive(Deserialize)]
struct Moved {
    name: String,
    generation: u64,
}

#[derive(Deserialize)]
struct Ready {
    paths: Vec<String>,
}

impl Remote {
    /// Has the cache tell when this happens, or has happened; `None` where it tells nothing.
    ///
    /// # Errors
    /// When it refuses, or cannot be asked.
    pub async fn listen(&self, wanted: &Wanted) -> Result<Option<Listening>, RemoteError> {
        let pins = wanted.pins.iter().map(|name| format!("pin={name}"));
        let paths = wanted.paths.iter().map(|hash| format!("path={hash}"));
        let query: Vec<String> = pins.chain(paths).collect();
        let path = format!("api/v1/events?{}", query.join("&"));
        let ask = self.ask(Method::GET, &path, None::<&Value>)?;
        let answer = self.once(&ask).await?;
        if [StatusCode::NOT_FOUND, StatusCode::METHOD_NOT_ALLOWED].contains(&answer.status()) {
            return Ok(None);
        }
        let answer = self.http.succeeded(&ask.url, answer).await?;
        let kind = answer.headers().get(header::CONTENT_TYPE);
        let is_stream = kind.is_some_and(|it| it.as_bytes().starts_with(b"text/event-stream"));
        Ok(is_stream.then(|| Listening {
            url: ask.url,
            body: answer.into_body(),
            unread: BytesMut::new(),
            read_bytes: 0,
        }))
    }
}

impl Listening {
    /// The next that is told; `None` when there is no more, and to be asked anew.
    ///
    /// # Errors
    /// When the connection breaks or falls silent, or an event is none.
    pub async fn next(&mut self) -> Result<Option<Told>, RemoteError> {
        loop {
            while let Some(end) = self.unread.windows(END.len()).position(|it| it == END) {
                let event = self.unread.split_to(end + END.len());
                let told = read(&String::from_utf8_lossy(&event));
                if let Some(told) = told.map_err(|error| not_understood(&self.url, error.into()))? {
                    return Ok(Some(told));
                }
            }
            if self.unread.len() > MAX_EVENT_BYTES {
                let (url, limit_bytes) = (self.url.clone(), MAX_EVENT_BYTES);
                return Err(RemoteError::TooLong { url, limit_bytes });
            }
            let url = || self.url.clone();
            match timeout(SILENCE, self.body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    let bytes = frame.into_data().unwrap_or_default();
                    self.read_bytes += bytes.len() as u64;
                    self.unread.extend_from_slice(&bytes);
                }
                Ok(Some(Err(error))) => {
                    return Err(RemoteError::BrokeOff {
                        url: url(),
                        read_bytes: self.read_bytes,
                        source: error.into(),
                    });
                }
                Err(_) => {
                    return Err(RemoteError::TimedOut {
                        url: url(),
                        seconds: SILENCE.as_secs(),
                    });
                }
            }
        }
    }
}

/// What these lines tell; nothing if they are a comment, or of an event that we do not know.
fn read(event: &str) -> Result<Option<Told>, serde_json::Error> {
    let field = |name: &str| {
        let mut lines = event.lines();
        lines.find_map(|line| Some(line.strip_prefix(name)?.trim_start()))
    };
    let data = field("data:").unwrap_or_default();
    fn parsed<T: DeserializeOwned>(data: &str) -> Result<T, serde_json::Error> {
        serde_json::from_str(data)
    }
    Ok(match field("event:") {
        Some("pin-moved") => {
            let Moved { name, generation } = parsed(data)?;
            Some(Told::Moved { name, generation })
        }
        Some("path-ready") => {
            let Ready { paths } = parsed(data)?;
            let paths = paths.iter().filter_map(|hash| hash.parse().ok());
            Some(Told::Ready(paths.collect()))
        }
        // `lost` among them: the stream ends behind it.
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_and_what_is_none_of_ours_is_left_out() {
        let moved = Told::Moved {
            name: "web".to_owned(),
            generation: 4,
        };
        let hash = "00000000000000000000000000000000";
        for (event, told) in [
            (": listening\n\n".to_owned(), None),
            (
                "event: pin-moved\ndata: {\"name\":\"web\",\"generation\":4}\n\n".to_owned(),
                Some(moved),
            ),
            (
                format!("event: path-ready\ndata: {{\"paths\":[\"{hash}\",\"x\"]}}\n\n"),
                Some(Told::Ready(vec![hash.parse().unwrap()])),
            ),
            ("event: lost\ndata: {}\n\n".to_owned(), None),
            ("event: wave-opened\ndata: 7\n\n".to_owned(), None),
        ] {
            assert_eq!(read(&event).unwrap(), told, "{event}");
        }
        assert!(read("event: pin-moved\ndata: {\n\n").is_err());
    }
}
