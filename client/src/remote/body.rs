//! A large body as a stream that survives broken connections.
//!
//! Guarantees: the bytes of one resource, each once, in order. When the connection breaks, or stays
//! silent for [`IDLE_TIMEOUT`], the rest is asked for: of a NAR if the server said that it takes
//! ranges and its ETag is still the same, of frames, patches and plans in their own way. Bounded:
//! three resumptions in a row without progress are the end, and so is a stall once somebody else
//! has what is missing.

use super::elsewhere::{Elsewhere, Stalled};
use super::error::RemoteError;
use super::http::{Ask, BoxError, Http, IDLE_TIMEOUT};
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use snowcache_core::error::Error;
use std::io;
use tokio::time::timeout;

/// A link that fails this often without a byte in between is not coming back.
const MAX_RESUMPTIONS: u32 = 3;

/// How the rest of a body is asked for.
pub(super) enum Again {
    /// A file: by a range of it.
    Get(String),
    /// The same question about a plan, with what came of its answer.
    Plan(Ask),
    /// What is left of these ranges.
    Ranges {
        /// Where they are asked for.
        url: String,
        /// Of which file.
        file: String,
        /// Offset and length.
        ranges: Vec<(u64, u64)>,
    },
}

/// The request for ranges of a file, without the first so many bytes of them.
pub(super) fn ask_ranges(url: &str, file: &str, ranges: &[(u64, u64)], mut read_bytes: u64) -> Ask {
    let left = ranges.iter().filter_map(|(at, len)| {
        let came = read_bytes.min(*len);
        read_bytes -= came;
        (came < *len).then_some((at + came, len - came))
    });
    let left: Vec<(u64, u64)> = left.collect();
    let json = HeaderValue::from_static("application/json");
    let mut ask = Ask::new(Method::POST, url.to_owned()).header(header::CONTENT_TYPE, json);
    ask.body = json!({ "nar": file, "ranges": left }).to_string().into();
    ask
}

impl Again {
    pub fn url(&self) -> &str {
        match self {
            Again::Get(url) | Again::Ranges { url, .. } => url,
            Again::Plan(ask) => &ask.url,
        }
    }

    /// The request for what follows the first so many bytes. `etag` is of the first answer.
    fn rest(&self, read_bytes: u64, etag: Option<&HeaderValue>) -> Option<Ask> {
        match self {
            Again::Get(url) => {
                let range = HeaderValue::from_str(&format!("bytes={read_bytes}-")).ok()?;
                Some(Ask::get(url.clone()).header(header::RANGE, range))
            }
            Again::Plan(ask) => {
                let answer = etag?.to_str().ok()?.trim_matches('"');
                let mut ask = ask.clone();
                ask.url = format!("{}?answer={answer}&from={read_bytes}", ask.url);
                Some(ask)
            }
            Again::Ranges { url, file, ranges } => Some(ask_ranges(url, file, ranges, read_bytes)),
        }
    }

    /// Whether an answer to [`Again::rest`] is that.
    fn fits(
        &self,
        answer: &Response<Incoming>,
        read_bytes: u64,
        etag: Option<&HeaderValue>,
    ) -> bool {
        let headers = answer.headers();
        let same = headers.get(header::ETAG) == etag;
        match self {
            Again::Get(_) => {
                let range = headers.get(header::CONTENT_RANGE);
                let range = range.and_then(|it| it.to_str().ok());
                let begin = format!("bytes {read_bytes}-");
                let starts_there = range.is_some_and(|it| it.starts_with(&begin));
                answer.status() == StatusCode::PARTIAL_CONTENT && starts_there && same
            }
            Again::Plan(_) => answer.status() == StatusCode::OK && same,
            Again::Ranges { .. } => answer.status() == StatusCode::OK,
        }
    }
}

struct Download {
    http: Http,
    again: Again,
    incoming: Incoming,
    read_bytes: u64,
    /// What its narinfo says that it has.
    file_size_bytes: Option<u64>,
    resumable: bool,
    etag: Option<HeaderValue>,
    resumptions: u32,
}

/// The body of `answer`, whose rest is asked for as `again` says. `file_size_bytes` is how long it
/// should be, if that is known.
pub(super) fn stream(
    http: Http,
    again: Again,
    answer: Response<Incoming>,
    file_size_bytes: Option<u64>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let download = Download {
        resumable: !matches!(again, Again::Get(_)) || is_resumable(answer.headers()),
        etag: answer.headers().get(header::ETAG).cloned(),
        incoming: answer.into_body(),
        read_bytes: 0,
        resumptions: 0,
        http,
        again,
        file_size_bytes,
    };
    unfold(Some(download), |download| async {
        let mut download = download?;
        match download.next().await {
            Ok(Some(chunk)) => Some((Ok(chunk), Some(download))),
            Ok(None) => None,
            Err(error) => Some((Err(error.into()), None)),
        }
    })
}

fn is_resumable(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT_RANGES)
        .is_some_and(|it| it == "bytes")
        && !headers.contains_key(header::CONTENT_ENCODING)
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        loop {
            let elsewhere = self.http.elsewhere.clone();
            let frame = timeout(IDLE_TIMEOUT, self.incoming.frame());
            let Ok(frame) = Elsewhere::or(elsewhere.as_ref(), frame).await else {
                return Err(self.stalled());
            };
            let broken: BoxError = match frame {
                Ok(None) => return self.end(),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(chunk) if !chunk.is_empty() => {
                        self.read_bytes += chunk.len() as u64;
                        self.resumptions = 0;
                        self.http.rate.spend(chunk.len()).await;
                        return Ok(Some(chunk));
                    }
                    _ => continue,
                },
                Ok(Some(Err(error))) => error.into(),
                Err(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
            };
            match Elsewhere::or(elsewhere.as_ref(), self.resume(broken)).await {
                Ok(resumed) => resumed?,
                Err(Stalled) => return Err(self.stalled()),
            }
        }
    }

    fn end(&self) -> Result<Option<Bytes>, RemoteError> {
        match self.file_size_bytes {
            Some(file_size_bytes) if file_size_bytes != self.read_bytes => {
                let (url, found_bytes) = (self.again.url().to_owned(), self.read_bytes);
                Err(RemoteError::FileSize {
                    url,
                    file_size_bytes,
                    found_bytes,
                })
            }
            _ => Ok(None),
        }
    }

    fn stalled(&self) -> RemoteError {
        let url = self.again.url().to_owned();
        RemoteError::Stalled { url }
    }

    fn broke_off(&self, source: BoxError) -> RemoteError {
        RemoteError::BrokeOff {
            url: self.again.url().to_owned(),
            read_bytes: self.read_bytes,
            source,
        }
    }

    async fn resume(&mut self, source: BoxError) -> Result<(), RemoteError> {
        let read_bytes = self.read_bytes;
        let broke_off = self.broke_off(source);
        if !self.resumable || self.resumptions == MAX_RESUMPTIONS {
            return Err(broke_off);
        }
        self.resumptions += 1;
        let Some(ask) = self.again.rest(read_bytes, self.etag.as_ref()) else {
            return Err(broke_off);
        };
        let answer = self.http.send(&ask).await?;
        let answer = self.http.succeeded(&ask.url, answer).await?;
        if !self.again.fits(&answer, read_bytes, self.etag.as_ref()) {
            return Err(broke_off);
        }
        self.incoming = answer.into_body();
        Ok(())
    }
}
