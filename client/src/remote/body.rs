//! A large body as a stream that survives broken connections.
//!
//! Guarantees: the bytes of one resource, each once, in order. When the connection breaks, or stays
//! silent for [`IDLE_TIMEOUT`], the rest is asked for - if the server said that it takes ranges and
//! its ETag is still the same. Bounded: three resumptions in a row without progress are the end,
//! and so is a stall once somebody else has what is missing.

use super::elsewhere::{Elsewhere, Stalled};
use super::error::RemoteError;
use super::http::{Ask, BoxError, Http, IDLE_TIMEOUT};
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use snowcache_core::error::Error;
use std::io;
use tokio::time::timeout;

/// A link that fails this often without a byte in between is not coming back.
const MAX_RESUMPTIONS: u32 = 3;

struct Download {
    http: Http,
    url: String,
    incoming: Incoming,
    read_bytes: u64,
    /// What its narinfo says that it has.
    file_size_bytes: Option<u64>,
    resumable: bool,
    etag: Option<HeaderValue>,
    resumptions: u32,
}

/// The body of `answer`, which came from `url`.
pub(super) fn stream(
    http: Http,
    url: String,
    answer: Response<Incoming>,
    file_size_bytes: Option<u64>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let download = Download {
        resumable: is_resumable(answer.headers()),
        etag: answer.headers().get(header::ETAG).cloned(),
        incoming: answer.into_body(),
        read_bytes: 0,
        resumptions: 0,
        http,
        url,
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
                let (url, found_bytes) = (self.url.clone(), self.read_bytes);
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
        let url = self.url.clone();
        RemoteError::Stalled { url }
    }

    fn broke_off(&self, source: BoxError) -> RemoteError {
        RemoteError::BrokeOff {
            url: self.url.clone(),
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
        let range = HeaderValue::from_str(&format!("bytes={read_bytes}-"));
        let Ok(range) = range else {
            return Err(broke_off);
        };
        let ask = Ask::get(self.url.clone()).header(header::RANGE, range);
        let answer = self.http.send(&ask).await?;
        let answer = self.http.succeeded(&ask.url, answer).await?;
        let starts_there = answer
            .headers()
            .get(header::CONTENT_RANGE)
            .and_then(|it| it.to_str().ok())
            .is_some_and(|it| it.starts_with(&format!("bytes {read_bytes}-")));
        let same = answer.headers().get(header::ETAG) == self.etag.as_ref();
        if answer.status() != StatusCode::PARTIAL_CONTENT || !starts_there || !same {
            return Err(broke_off);
        }
        self.incoming = answer.into_body();
        Ok(())
    }
}
