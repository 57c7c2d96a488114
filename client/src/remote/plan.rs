//! How paths are made of older ones, and the frames that this takes.
//!
//! Guarantees: a plan that was cut or changed on its way is an error; so is one that unpacks to
//! more than [`delta::MAX_ANSWER_BYTES`]. Never: a plan believed, for whoever uses it hashes what
//! comes out.

use super::body::{self, Again, Keep};
use super::error::RemoteError;
use super::http::{Ask, is_absent};
use super::retry::MAX_ATTEMPTS;
use super::{Remote, decode};
use crate::frame_spool::Part;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, StatusCode};
use snowcache_core::cache::Narinfo;
use snowcache_core::delta::{self, MAX_ANSWER_BYTES, Pair};
use snowcache_core::error::Error;
use snowcache_nix::{Compression, StoreHash};

/// What packs to more than a quarter of its bytes is not worth its while as a plan.
const MAX_PACKED_BYTES: usize = MAX_ANSWER_BYTES / 4;

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
        // Whoever is told to come again does, whatever others there are: without a plan it would
        // ask for many times the bytes, and of a cache that has too much to do already.
        let mut patient = self.http.clone();
        patient.attempts = MAX_ATTEMPTS;
        let answer = patient.send(&ask).await?;
        let unknown = [StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
        if is_absent(answer.status()) || unknown.contains(&answer.status()) {
            return Ok(None);
        }
        let answer = self.http.succeeded(&url, answer).await?;
        let again = Again::Plan(ask);
        let mut packed = Vec::new();
        let mut pieces = std::pin::pin!(body::stream(self.http.clone(), again, answer, None));
        let wrong = |source: Box<dyn std::error::Error + Send + Sync>| RemoteError::Answer {
            url: url.clone(),
            source,
        };
        while let Some(piece) = pieces.next().await {
            packed.extend_from_slice(&piece.map_err(|error| wrong(error.into()))?);
            if packed.len() > MAX_PACKED_BYTES {
                return Err(RemoteError::TooLong {
                    url,
                    limit_bytes: MAX_PACKED_BYTES,
                });
            }
        }
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
        ranges: Vec<(u64, u64)>,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let keep = Keep {
            hash: narinfo.info.store_path.hash(),
            part: Part::Frames,
        };
        self.unpacked(narinfo.file_name().to_owned(), ranges, keep)
            .await
    }

    /// What the pieces of a patch for this path unpack to: bytes of its file.
    ///
    /// # Errors
    /// When the cache cannot be asked, or does not have it any more.
    pub async fn patch(
        &self,
        file: String,
        path: StoreHash,
        pieces: (u64, u64),
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let keep = Keep {
            hash: path,
            part: Part::Patch,
        };
        self.unpacked(file, vec![pieces], keep).await
    }

    /// What these whole zstd frames of a file unpack to.
    async fn unpacked(
        &self,
        file: String,
        ranges: Vec<(u64, u64)>,
        keep: Keep,
    ) -> Result<BoxStream<'static, Result<Bytes, Error>>, Error> {
        let url = self.http.endpoint.join("api/v1/frames");
        let count = ranges.iter().map(|(_, len)| len).sum();
        let again = Again::Ranges {
            url: url.clone(),
            file,
            ranges,
        };
        let packed = body::open(self.http.clone(), again, Some(count), count, keep).await?;
        Ok(decode::unpack(url, Compression::Zstd, packed)?)
    }
}
