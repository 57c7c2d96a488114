//! Asking what a cache does not have: one request for thousands of paths, or one for each.
//!
//! Guarantees: each missing hash once, in the order given. A cache that does not know the call is
//! asked by HEAD from then on.

use super::Remote;
use super::error::RemoteError;
use super::http::{Ask, is_absent};
use bytes::Bytes;
use futures::future::ready;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use snowcache_nix::{Base32Error, StoreHash};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

/// 10,000 hashes of 32 characters with quotes and comma are 350 kB.
const HASHES_PER_REQUEST: usize = 10_000;
/// The answer to that, and some slack.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Nix itself opens up to 25 connections.
const HEADS_AT_A_TIME: usize = 16;

#[derive(Serialize)]
struct Question {
    hashes: Vec<String>,
}

#[derive(Deserialize)]
struct Answer {
    missing: Vec<String>,
}

impl Remote {
    pub(super) async fn ask_missing(
        &self,
        hashes: &[StoreHash],
    ) -> Result<Vec<StoreHash>, RemoteError> {
        let mut seen = BTreeSet::new();
        let hashes: Vec<StoreHash> = hashes
            .iter()
            .copied()
            .filter(|&hash| seen.insert(hash))
            .collect();
        let mut missing = Vec::new();
        for some in hashes.chunks(HASHES_PER_REQUEST) {
            let answer = match self.asks_by_head.load(Ordering::Relaxed) {
                true => None,
                false => self.ask_at_once(some).await?,
            };
            match answer {
                Some(absent) => missing.extend(some.iter().filter(|&hash| absent.contains(hash))),
                None => {
                    self.asks_by_head.store(true, Ordering::Relaxed);
                    missing.extend(self.ask_one_by_one(some).await?);
                }
            }
        }
        Ok(missing)
    }

    /// `None` when the server does not know the call.
    async fn ask_at_once(
        &self,
        hashes: &[StoreHash],
    ) -> Result<Option<BTreeSet<StoreHash>>, RemoteError> {
        let url = self.http.endpoint.join("api/v1/missing");
        let understood = |source| RemoteError::Answer {
            url: url.clone(),
            source,
        };
        let question = Question {
            hashes: hashes.iter().map(ToString::to_string).collect(),
        };
        let question = serde_json::to_vec(&question).map_err(|e| understood(e.into()))?;
        let mut ask = Ask::new(Method::POST, url.clone()).header(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        ask.body = Bytes::from(question);
        let answer = self.http.send(&ask).await?;
        let unknown_call = matches!(
            answer.status(),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED
        );
        if unknown_call || is_absent(answer.status()) {
            return Ok(None);
        }
        let answer = self.http.succeeded(&url, answer).await?;
        let answer = self.http.small(&url, answer, MAX_ANSWER_BYTES).await?;
        let answer: Answer =
            serde_json::from_slice(&answer).map_err(|error| understood(error.into()))?;
        let missing = answer.missing.iter().map(|hash| hash.parse());
        let missing: Result<_, Base32Error> = missing.collect();
        missing.map(Some).map_err(|error| understood(error.into()))
    }

    async fn ask_one_by_one(&self, hashes: &[StoreHash]) -> Result<Vec<StoreHash>, RemoteError> {
        let answers = stream::iter(hashes.to_vec()).map(|hash| async move {
            let url = self.http.endpoint.join(&format!("{hash}.narinfo"));
            let answer = self.http.send(&Ask::new(Method::HEAD, url.clone())).await?;
            if is_absent(answer.status()) {
                return Ok(Some(hash));
            }
            self.http.succeeded(&url, answer).await.map(|_| None)
        });
        let absent = answers
            .buffered(HEADS_AT_A_TIME)
            .try_filter_map(|hash| ready(Ok(hash)));
        absent.try_collect().await
    }
}
