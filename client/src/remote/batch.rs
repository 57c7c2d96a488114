//! Many narinfos in one request, from caches that offer it (`GetNarInfosV1` in nix-cache-info).
//!
//! ```text
//!   QUERY <the URL that it names>      one hash part a line
//!   Prefer: closure                    of all that they need, too: a snowcached does that
//!   200                                a line of JSON for each path that is there, perhaps with
//!                                      "partialClosure": what it needs besides
//! ```
//!
//! Guarantees: what comes back has passed the same parser as a narinfo on its own. Bounded:
//! [`HASHES_PER_REQUEST`] paths a request, [`MAX_ANSWER_BYTES`] an answer.

use super::error::RemoteError;
use super::http::{Ask, is_absent};
use super::{MAX_NARINFO_BYTES, Remote, decode};
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Deserialize;
use snowcache_core::cache::Narinfo;
use snowcache_core::upstream;
use snowcache_nix::{STORE_DIR, StoreHash, StorePath};
use std::fmt::Write;

/// A tenth of what a snowcache takes: 330 kB of question.
pub const HASHES_PER_REQUEST: usize = 10_000;
/// 10,000 narinfos of 2 KiB (ten references are 600 bytes) and a hint of 100,000 names at 60 bytes.
const MAX_ANSWER_BYTES: usize = 32 << 20;

/// What came back.
#[derive(Debug, Default)]
pub struct Batch {
    /// The paths that the cache has, perhaps with others that these need.
    pub narinfos: Vec<Narinfo>,
    /// Paths that these need and that the cache has, too, if it only names them.
    pub hinted: Vec<StoreHash>,
}

/// As much of a line as makes a narinfo.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    path: String,
    store_dir: Option<String>,
    nar_hash: String,
    nar_size: u64,
    references: Vec<String>,
    ca: Option<Ca>,
    deriver: Option<String>,
    signatures: Vec<String>,
    url: String,
    compression: Option<String>,
    download_size: Option<u64>,
    #[serde(default)]
    partial_closure: Vec<String>,
    upstream: Option<String>,
}

#[derive(Deserialize)]
struct Ca {
    method: String,
    hash: String,
}

impl Remote {
    /// Where this cache answers for many paths at once; `None` where it does not.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn batch_url(&self) -> Result<Option<String>, RemoteError> {
        let about = self.cache_info().await?;
        let place = about.as_ref().and_then(|it| it.get("GetNarInfosV1"));
        let relative = |place: &&str| !place.is_empty() && !place.contains("://");
        Ok(place
            .filter(relative)
            .map(|place| self.http.endpoint.join(place.trim_start_matches('/'))))
    }

    /// The narinfos of at most [`HASHES_PER_REQUEST`] paths, and perhaps of what they need; `None`
    /// when the cache does not answer there after all.
    ///
    /// # Errors
    /// When the cache cannot be asked, or something it says is no narinfo.
    pub async fn batch(
        &self,
        url: &str,
        hashes: &[StoreHash],
    ) -> Result<Option<Batch>, RemoteError> {
        let question: String = hashes.iter().map(|hash| format!("{hash}\n")).collect();
        let method = Method::from_bytes(b"QUERY").unwrap_or(Method::POST);
        let zstd = HeaderValue::from_static("zstd");
        let prefer = header::HeaderName::from_static("prefer");
        let mut ask = Ask::new(method, url.to_owned())
            .header(header::ACCEPT_ENCODING, zstd)
            .header(prefer, HeaderValue::from_static("closure"));
        ask.body = Bytes::from(question);
        let answer = self.http.send(&ask).await?;
        let unknown = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
        if is_absent(answer.status()) || unknown.contains(&answer.status()) {
            return Ok(None);
        }
        let answer = self.http.succeeded(url, answer).await?;
        let encoding = answer.headers().get(header::CONTENT_ENCODING);
        let is_packed = encoding.is_some_and(|encoding| encoding == "zstd");
        let mut answer = self.http.small(url, answer, MAX_ANSWER_BYTES).await?;
        if is_packed {
            let unpacked = decode::unpack_small(&answer, MAX_ANSWER_BYTES);
            answer = unpacked.map_err(|error| RemoteError::Answer {
                url: url.to_owned(),
                source: error.into(),
            })?;
        }
        let mut batch = Batch::default();
        for line in answer.split(|&byte| byte == b'\n') {
            if !line.is_empty() {
                self.add_line(url, line, &mut batch)?;
            }
        }
        Ok(Some(batch))
    }

    fn add_line(&self, url: &str, line: &[u8], batch: &mut Batch) -> Result<(), RemoteError> {
        fn wrong<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
            url: &str,
        ) -> impl Fn(E) -> RemoteError {
            move |error| RemoteError::Answer {
                url: url.to_owned(),
                source: error.into(),
            }
        }
        if line.len() > MAX_NARINFO_BYTES {
            return Err(RemoteError::TooLong {
                url: url.to_owned(),
                limit_bytes: MAX_NARINFO_BYTES,
            });
        }
        let line: Line = serde_json::from_slice(line).map_err(wrong(url))?;
        let path: StorePath = line.path.parse().map_err(wrong(url))?;
        for hinted in &line.partial_closure {
            let hinted: StorePath = hinted.parse().map_err(wrong(url))?;
            batch.hinted.push(hinted.hash());
        }
        // As the text that it stands for, so that there is one place that decides what is good.
        let narinfo = self.parse_narinfo(path.hash(), &line.text())?;
        batch.narinfos.push(narinfo);
        Ok(())
    }
}

impl Line {
    fn text(&self) -> String {
        const WHY: &str = "invariant: a String can be written to";
        let dir = self.store_dir.as_deref().unwrap_or(STORE_DIR);
        let compression = self.compression.as_deref().unwrap_or("bzip2");
        let mut text = format!("StorePath: {dir}/{}\nURL: {}\n", self.path, self.url);
        writeln!(text, "Compression: {compression}").expect(WHY);
        if let Some(size) = self.download_size {
            writeln!(text, "FileSize: {size}").expect(WHY);
        }
        writeln!(
            text,
            "NarHash: {}\nNarSize: {}",
            self.nar_hash, self.nar_size
        )
        .expect(WHY);
        writeln!(text, "References: {}", self.references.join(" ")).expect(WHY);
        if let Some(deriver) = &self.deriver {
            writeln!(text, "Deriver: {deriver}").expect(WHY);
        }
        for signature in &self.signatures {
            writeln!(text, "Sig: {signature}").expect(WHY);
        }
        if let Some(ca) = &self.ca {
            let prefix = match ca.method.as_str() {
                "text" => "text:",
                "nar" => "fixed:r:",
                "git" => "fixed:git:",
                _ => "fixed:",
            };
            writeln!(text, "CA: {prefix}{}", base32(&ca.hash)).expect(WHY);
        }
        if let Some(elsewhere) = &self.upstream {
            writeln!(text, "{}: {elsewhere}", upstream::FIELD).expect(WHY);
        }
        text
    }
}

/// A hash as content addresses have it; what is none stays, and is refused where it is read.
fn base32(hash: &str) -> String {
    let parsed = hash.parse::<snowcache_nix::Hash>();
    parsed.map_or_else(|_| hash.to_owned(), |hash| hash.to_string())
}
