//! A large body as a stream that survives broken connections.
//!
//! ```text
//!   what of it is on the disk, from an earlier attempt     see `frame_spool`
//!   then what the cache sends from there on                kept on the disk, too, if it is long
//! ```
//! Guarantees: the bytes of one resource, each once, in order. When the connection breaks, or stays
//! silent for [`IDLE_TIMEOUT`], the rest is asked for: of a NAR if the server said that it takes
//! ranges and its ETag is still the same, of frames, patches and plans in their own way. Bounded:
//! three resumptions in a row without progress are the end, and so is a stall once somebody else
//! has what is missing.

use super::elsewhere::{Elsewhere, Stalled};
use super::error::RemoteError;
use super::http::{Ask, BoxError, Http, IDLE_TIMEOUT};
use super::retry::is_passing;
use crate::frame_spool::{About, Entry, LEAST_BYTES, Part};
use bytes::Bytes;
use futures::Stream;
use futures::stream::unfold;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use sha2::{Digest, Sha256};
use snowcache_core::error::Error;
use snowcache_nix::StoreHash;
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

    /// The request for all of it.
    fn whole(&self) -> Ask {
        match self {
            Again::Get(url) => Ask::get(url.clone()),
            Again::Plan(ask) => ask.clone(),
            Again::Ranges { url, file, ranges } => ask_ranges(url, file, ranges, 0),
        }
    }

    /// What is asked for, in so few words.
    fn what(&self) -> String {
        let Ask { url, body, .. } = self.whole();
        match body.is_empty() {
            true => url,
            false => format!("{url} {:x}", Sha256::digest(&body)),
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

/// What is kept on the disk of a path while it comes.
pub(super) struct Keep {
    /// Of which path.
    pub hash: StoreHash,
    /// What of it.
    pub part: Part,
}

struct Download {
    http: Http,
    again: Again,
    /// None where all of it was here.
    incoming: Option<Incoming>,
    read_bytes: u64,
    /// What its narinfo says that it has.
    size_bytes: Option<u64>,
    resumable: bool,
    etag: Option<HeaderValue>,
    resumptions: u32,
    /// Where what comes is kept, and what did before.
    entry: Option<Entry>,
    kept_bytes: u64,
}

/// The body of `answer`, whose rest is asked for as `again` says. `size_bytes` is how long it
/// should be, if that is known.
pub(super) fn stream(
    http: Http,
    again: Again,
    answer: Response<Incoming>,
    size_bytes: Option<u64>,
) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    Download::of(http, again, size_bytes, answer).chunks()
}

/// What `again` asks for; from what is kept of it, as far as that goes. Of something that has
/// `likely_bytes` or so.
///
/// # Errors
/// When the cache cannot be asked, or does not have it.
pub(super) async fn open(
    http: Http,
    again: Again,
    size_bytes: Option<u64>,
    likely_bytes: u64,
    keep: Keep,
) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + 'static, RemoteError> {
    let entry = match size_bytes.unwrap_or(likely_bytes) > LEAST_BYTES {
        true => {
            let about = About {
                cache: http.endpoint.to_string(),
                what: again.what(),
                etag: None,
            };
            http.spool.entry(keep.hash, keep.part, about).await
        }
        false => None,
    };
    let mut download = match entry {
        Some(entry) => Download::kept(http, again, size_bytes, entry).await?,
        None => Download::whole(http, again, size_bytes).await?,
    };
    // Of what cannot be gone on with, it is no use to keep the beginning.
    download.entry.take_if(|_| !download.resumable);
    Ok(download.chunks())
}

/// What follows the first so many bytes, if the cache goes on there.
async fn rest(
    http: &Http,
    again: &Again,
    kept_bytes: u64,
    etag: Option<&HeaderValue>,
) -> Result<Option<Incoming>, RemoteError> {
    let ask = (kept_bytes > 0).then(|| again.rest(kept_bytes, etag));
    let Some(ask) = ask.flatten() else {
        return Ok(None);
    };
    let answer = http.send(&ask).await?;
    if again.fits(&answer, kept_bytes, etag) {
        return Ok(Some(answer.into_body()));
    }
    // Whoever cannot now may do so later.
    match is_passing(answer.status()) {
        true => http.succeeded(&ask.url, answer).await.map(|_| None),
        false => Ok(None),
    }
}

fn is_resumable(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT_RANGES)
        .is_some_and(|it| it == "bytes")
        && !headers.contains_key(header::CONTENT_ENCODING)
}

impl Download {
    fn of(
        http: Http,
        again: Again,
        size_bytes: Option<u64>,
        answer: Response<Incoming>,
    ) -> Download {
        Download {
            resumable: !matches!(again, Again::Get(_)) || is_resumable(answer.headers()),
            etag: answer.headers().get(header::ETAG).cloned(),
            incoming: Some(answer.into_body()),
            read_bytes: 0,
            resumptions: 0,
            http,
            again,
            size_bytes,
            entry: None,
            kept_bytes: 0,
        }
    }

    async fn whole(
        http: Http,
        again: Again,
        size_bytes: Option<u64>,
    ) -> Result<Download, RemoteError> {
        let answer = http.send(&again.whole()).await?;
        let answer = http.succeeded(again.url(), answer).await?;
        Ok(Download::of(http, again, size_bytes, answer))
    }

    /// From what is kept, if the cache goes on where that ends.
    async fn kept(
        http: Http,
        again: Again,
        size_bytes: Option<u64>,
        mut entry: Entry,
    ) -> Result<Download, RemoteError> {
        let kept_bytes = entry.kept_bytes();
        let etag = entry.etag().and_then(|it| HeaderValue::from_str(it).ok());
        let rest = match size_bytes == Some(kept_bytes) {
            true => Some(None),
            false => rest(&http, &again, kept_bytes, etag.as_ref())
                .await?
                .map(Some),
        };
        let Some(incoming) = rest else {
            let mut download = Download::whole(http, again, size_bytes).await?;
            entry.begin(download.etag.as_ref().and_then(|it| it.to_str().ok()));
            download.entry = Some(entry);
            return Ok(download);
        };
        entry.resume();
        Ok(Download {
            http,
            again,
            incoming,
            read_bytes: 0,
            size_bytes,
            resumable: true,
            etag,
            resumptions: 0,
            entry: Some(entry),
            kept_bytes,
        })
    }

    fn chunks(self) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        unfold(Some(self), |download| async {
            let mut download = download?;
            match download.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(download))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        if let Some(kept) = self.next_kept().await? {
            return Ok(Some(kept));
        }
        loop {
            let Some(incoming) = &mut self.incoming else {
                return self.end().await;
            };
            let elsewhere = self.http.elsewhere.clone();
            let frame = timeout(IDLE_TIMEOUT, incoming.frame());
            let Ok(frame) = Elsewhere::or(elsewhere.as_ref(), frame).await else {
                return Err(self.stalled());
            };
            let broken: BoxError = match frame {
                Ok(None) => return self.end().await,
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(chunk) if !chunk.is_empty() => {
                        self.read_bytes += chunk.len() as u64;
                        self.resumptions = 0;
                        if let Some(entry) = &mut self.entry {
                            entry.push(&chunk).await;
                        }
                        self.http.rate.spend(chunk.len()).await;
                        return Ok(Some(chunk));
                    }
                    _ => continue,
                },
                Ok(Some(Err(error))) => error.into(),
                Err(_) => io::Error::from(io::ErrorKind::TimedOut).into(),
            };
            self.go_on(broken).await?;
        }
    }

    /// The next of what is here from before. When the rest of that is damaged, it is fetched.
    async fn next_kept(&mut self) -> Result<Option<Bytes>, RemoteError> {
        let is_here = self.read_bytes < self.kept_bytes;
        let Some(entry) = self.entry.as_mut().filter(|_| is_here) else {
            return Ok(None);
        };
        let Some(chunk) = entry.next().await else {
            self.kept_bytes = self.read_bytes;
            let damaged = io::Error::new(io::ErrorKind::InvalidData, "what was kept is damaged");
            self.go_on(damaged.into()).await?;
            return Ok(None);
        };
        self.read_bytes += chunk.len() as u64;
        Ok(Some(chunk))
    }

    async fn end(&mut self) -> Result<Option<Bytes>, RemoteError> {
        if let Some(entry) = &mut self.entry {
            entry.end().await;
        }
        match self.size_bytes {
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

    async fn go_on(&mut self, source: BoxError) -> Result<(), RemoteError> {
        let elsewhere = self.http.elsewhere.clone();
        match Elsewhere::or(elsewhere.as_ref(), self.resume(source)).await {
            Ok(resumed) => resumed,
            Err(Stalled) => Err(self.stalled()),
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
        self.incoming = Some(answer.into_body());
        Ok(())
    }
}
