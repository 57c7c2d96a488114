//! How paths are made of older ones, and the frames that this takes.
//!
//! Guarantees: a plan that was cut or changed on its way is an error; so is one that unpacks to
//! more than [`delta::MAX_ANSWER_BYTES`]. Never: a plan believed, for whoever uses it hashes what
//! comes out.

use super::error::RemoteError;
use super::http::{Ask, is_absent};
use super::{Remote, body, decode};
use bytes::Bytes;
use futures::stream::BoxStream;
use http::{HeaderValue, Method, StatusCode, header};
use serde::Serialize;
use snowcache_core::cache::Narinfo;
use snowcache_core::delta::{self, MAX_ANSWER_BYTES, Pair};
use snowcache_core::error::Error;
use snowcache_nix::Compression;

/// What packs to more than a quarter of its bytes is not worth its while as a plan.
const MAX_PACKED_BYTES: usize = MAX_ANSWER_BYTES / 4;

#[derive(Serialize)]
struct AskFrames<'a> {
    nar: &'a str,
    ranges: &'a [(u64, u64)],
}

impl Remote {
    /// The delta for each of at most [`delta::MAX_PAIRS`] pairs; `None` in place of those that must
    /// be fetched whole, and of all when the cache makes no plans.
    ///
    /// # Errors
    /// When the cache cannot be asked, or what it says is no plan.
    pub async fn plan(&self, pairs: &[Pair]) -> Result<Option<Vec<Option<Bytes>>>, RemoteError> {
        let url = self.http.endpoint.join("api/v1/plan");
        let mut ask = Ask::new(Method::POST, url.clone());
        ask.body = Bytes::from(delta::question(pairs));
        let answer = self.http.send(&ask).await?;
        let unknown = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
        if is_absent(answer.status()) || unknown.contains(&answer.status()) {
            return Ok(None);
        }
        let answer = self.http.succeeded(&url, answer).await?;
        let packed = self.http.small(&url, answer, MAX_PACKED_BYTES).await?;
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| RemoteError::Answer {
            url: url.clone(),
            source,
        };
        let plan =
            decode::unpack_small(&packed, MAX_ANSWER_BYTES).map_err(|error| wrong(error.into()))?;
        let deltas = delta::answered(&plan, pairs.len());
        deltas.map(Some).map_err(|error| wrong(error.into()))
    }

    /// The NAR bytes in these ranges of a `.nar.zst`, one after the other.
    ///
    /// # Errors
    /// When the cache cannot be asked, or does not have this encoding any more.
    pub async fn frames(
        &self,
        narinfo: &Narinfo,
        ranges: &[(u64, u64)],
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let url = self.http.endpoint.join("api/v1/frames");
        let nar = narinfo.url.rsplit('/').next().unwrap_or(&narinfo.url);
        let question = serde_json::to_vec(&AskFrames { nar, ranges });
        let question = question.map_err(|error| RemoteError::Answer {
            url: url.clone(),
            source: error.into(),
        })?;
        let json = HeaderValue::from_static("application/json");
        let mut ask = Ask::new(Method::POST, url.clone()).header(header::CONTENT_TYPE, json);
        ask.body = Bytes::from(question);
        let answer = self.http.send(&ask).await?;
        let answer = self.http.succeeded(&url, answer).await?;
        let count = ranges.iter().map(|(_, len)| len).sum();
        let packed = body::stream(self.http.clone(), url.clone(), answer, Some(count));
        Ok(decode::unpack(url, Compression::Zstd, packed)?)
    }
}
