//! `QUERY get-narinfos-v1`: many narinfos in one answer, for clients that find the URL in
//! nix-cache-info (`GetNarInfosV1`); nobody else notices.
//!
//! ```text
//!   QUERY (RFC 10008), or POST      one hash part a line
//!   200, application/x-ndjson       one JSON object a line, version 2 of Nix's path infos, with
//!                                   the narinfo's "path", "url", "compression", "downloadSize"
//!     "partialClosure"              what the path needs besides, and this answer has not named
//!   Prefer: closure                 lines of all that in place of the names: one round trip less
//!   Content-Encoding: zstd          if the client takes that: a third of the bytes
//! ```
//! A path that is not in the answer is not in the cache. Fields and their meaning are those of
//! DeterminateSystems/nix-src, branch eelcodolstra/nix-421 (`NarInfo::fromJSON`,
//! `HttpBinaryCacheStore::queryPathInfos`), of July 2026: the client insists on version 2, and on
//! finding everything that a hint names.
//!
//! Guarantees: a hint names visible paths only; an answer is made piece by piece, as it is taken.

use super::errors::Refusal;
use super::{App, Shared, body, nar};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;
use snowcache_core::upstream;
use snowcache_depot::{CacheName, Depot, Entry};
use snowcache_nix::{ContentAddress, Hash, PathInfo, STORE_DIR, StoreHash, StorePath};
use std::collections::{HashSet, VecDeque};

/// Where nix-cache-info says that it is: relative, so that it is right under `/push` and behind a
/// proxy's prefix, too.
pub const NAME: &str = "get-narinfos-v1";

/// Hashes in one request.
const MAX_HASHES: usize = 100_000;

/// 100,000 hashes of 32 characters and their line ends: 3.4 MB.
const MAX_BODY_BYTES: u64 = 4 << 20;

/// Paths looked up in one pass of the index, in one place of the readers: a millisecond, and
/// 256 KiB of answer.
const PATHS_AT_ONCE: usize = 256;

/// Paths that the hints of one answer name: a closure of 100,000 paths is ten times a large
/// system's. What is left out is asked for later.
const MAX_HINTED: usize = 100_000;

/// Lines up to which an answer goes on to what its paths need, for who prefers that: some 100 KB,
/// which a node that has most of it already need not have asked for. What lies nearest to the roots
/// comes first, which a new generation changes most. The others are asked for by their names.
const MAX_CLOSURE: usize = 1_000;

/// Version 2 of Nix's JSON for path infos, with the half that is about one cache.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    version: u32,
    path: String,
    store_dir: &'static str,
    nar_hash: String,
    nar_size: u64,
    references: Vec<String>,
    ca: Option<Ca>,
    deriver: Option<String>,
    registration_time: Option<u64>,
    ultimate: bool,
    signatures: Vec<String>,
    url: String,
    compression: &'static str,
    download_size: u64,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    partial_closure: &'a [String],
    /// Ours, which other clients pass over: the line of this name of the narinfo.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<&'a str>,
}

#[derive(Serialize)]
struct Ca {
    method: &'static str,
    hash: String,
}

/// zstd's level for a piece of an answer: a millisecond for one of 256 KiB.
const LEVEL: i32 = 3;

/// One answer under way.
struct Walk {
    /// Each piece is a zstd frame.
    is_packed: bool,
    depot: Depot,
    cache: CacheName,
    asked: VecDeque<StoreHash>,
    /// What the paths need is answered, too, in place of named.
    is_closure: bool,
    /// Paths that the client knows of by now: asked for, or named in this answer. 20 bytes each.
    known: HashSet<StoreHash>,
    /// Paths whose references were followed.
    followed: HashSet<StoreHash>,
    hinted: usize,
}

/// What a client would rather have (RFC 7240); who does not know it passes it over.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// `QUERY`, `POST`
pub async fn query(
    State(app): State<Shared>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    if method.as_str() != "QUERY" && method != Method::POST {
        let sentence = "ask with QUERY (or POST), one hash part a line";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
            .with(header::ALLOW, HeaderValue::from_static("QUERY, POST")));
    }
    let stall_s = app.config.uploads.stall_timeout_s;
    let text = body::whole(
        &headers,
        body,
        MAX_BODY_BYTES,
        stall_s,
        &app.reads,
        "the question",
    )
    .await?;
    let mut walk = Walk::new(&app, hashes(&text)?);
    walk.is_packed = has(&headers, header::ACCEPT_ENCODING, "zstd");
    walk.is_closure = has(&headers, PREFER, "closure");
    let is_packed = walk.is_packed;
    // The first piece decides over the status; afterwards a failure can only cut the answer short.
    let (first, rest) = piece(&app, walk).await?;
    let pieces = futures::stream::unfold((app, Some(first), rest), |(app, ready, walk)| async {
        if let Some(ready) = ready {
            return Some((Ok(ready), (app, None, walk)));
        }
        match piece(&app, walk?).await {
            Ok((bytes, walk)) => Some((Ok(bytes), (app, None, walk))),
            Err(_) => Some((Err("the depot failed; its log says why"), (app, None, None))),
        }
    });
    let mut response = Response::new(Body::from_stream(pieces));
    let ndjson = HeaderValue::from_static("application/x-ndjson");
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, ndjson);
    let vary = HeaderValue::from_static("Accept-Encoding, Prefer");
    headers.insert(header::VARY, vary);
    if is_packed {
        let zstd = HeaderValue::from_static("zstd");
        headers.insert(header::CONTENT_ENCODING, zstd);
    }
    Ok(response)
}

/// Whether this word is in one of the lists of that name, and not forbidden.
fn has(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut entries = values.flat_map(|value| value.split(','));
    entries.any(|entry| {
        let mut words = entry.split(';').map(str::trim);
        let is_it = words.next() == Some(word);
        is_it && !words.any(|word| matches!(word, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"))
    })
}

fn hashes(text: &[u8]) -> Result<Vec<StoreHash>, Refusal> {
    let text = std::str::from_utf8(text)
        .map_err(|_| Refusal::malformed("send one hash part of 32 characters a line"))?;
    let hashes: Result<Vec<StoreHash>, Refusal> = text
        .split_whitespace()
        .enumerate()
        .map(|(number, hash)| {
            let wrong = |error| Refusal::malformed(format!("hash {}: {error}", number + 1));
            hash.parse().map_err(wrong)
        })
        .collect();
    match hashes? {
        hashes if hashes.len() > MAX_HASHES => Err(Refusal::too_large(format!(
            "ask for at most {MAX_HASHES} paths at once"
        ))),
        hashes => Ok(hashes),
    }
}

/// The next piece of an answer, and the walk if there is more to come.
async fn piece(app: &App, mut walk: Walk) -> Result<(Bytes, Option<Walk>), Refusal> {
    let work = move || {
        let (mut lines, mut left) = (Vec::new(), PATHS_AT_ONCE);
        while left > 0 && !walk.asked.is_empty() {
            let now = left.min(walk.asked.len());
            left -= now;
            let asked: Vec<StoreHash> = walk.asked.drain(..now).collect();
            let entries = walk.depot.entries(&walk.cache, &asked)?;
            for (hash, entry) in asked.iter().zip(entries) {
                if let Some(entry) = entry {
                    walk.add(hash, &entry, &mut lines)?;
                }
            }
        }
        if walk.is_packed {
            lines = zstd::bulk::compress(&lines, LEVEL).map_err(|error| {
                tracing::error!(%error, "narinfos cannot be packed");
                Refusal::internal()
            })?;
        }
        let more = !walk.asked.is_empty();
        Ok((Bytes::from(lines), more.then_some(walk)))
    };
    app.reads.run::<_, Refusal>(work).await
}

impl Walk {
    fn new(app: &App, mut asked: Vec<StoreHash>) -> Walk {
        let mut seen = HashSet::new();
        asked.retain(|hash| seen.insert(*hash));
        Walk {
            is_packed: false,
            depot: app.depot.clone(),
            cache: app.cache.clone(),
            asked: asked.into(),
            is_closure: false,
            known: seen,
            followed: HashSet::new(),
            hinted: 0,
        }
    }

    fn add(
        &mut self,
        hash: &StoreHash,
        entry: &Entry,
        lines: &mut Vec<u8>,
    ) -> snowcache_depot::Result<()> {
        let hint = match self.is_closure {
            true => self.follow(&entry.info),
            false => self.hint(hash, &entry.info)?,
        };
        serde_json::to_writer(&mut *lines, &Line::of(entry, &hint))
            .expect("invariant: strings and numbers can be written as JSON");
        lines.push(b'\n');
        Ok(())
    }

    /// What a path refers to is answered later, as far as there is room; no hint.
    fn follow(&mut self, info: &PathInfo) -> Vec<String> {
        for next in info.references.iter().map(StorePath::hash) {
            if self.known.len() < MAX_CLOSURE && self.known.insert(next) {
                self.asked.push_back(next);
            }
        }
        Vec::new()
    }

    /// What is reached from a path, visible, and new to the client.
    fn hint(&mut self, hash: &StoreHash, info: &PathInfo) -> snowcache_depot::Result<Vec<String>> {
        let mut hint = Vec::new();
        self.followed.insert(*hash);
        let mut open: Vec<StoreHash> = info.references.iter().map(StorePath::hash).collect();
        self.known.extend(&open); // the line itself names them
        while !open.is_empty() && self.hinted < MAX_HINTED {
            open.retain(|next| self.followed.insert(*next));
            let now = open.split_off(open.len().saturating_sub(PATHS_AT_ONCE));
            for found in self.depot.infos(&self.cache, &now)?.into_iter().flatten() {
                let next = found.store_path.hash();
                if self.hinted < MAX_HINTED && self.known.insert(next) {
                    self.hinted += 1;
                    hint.push(found.store_path.to_string());
                }
                open.extend(found.references.iter().map(StorePath::hash));
            }
        }
        hint.sort_unstable();
        Ok(hint)
    }
}

impl<'a> Line<'a> {
    fn of(entry: &'a Entry, partial_closure: &'a [String]) -> Line<'a> {
        let info = &entry.info;
        let ca: Option<ContentAddress> = info.ca.as_deref().and_then(|ca| ca.parse().ok());
        Line {
            version: 2,
            path: info.store_path.to_string(),
            store_dir: STORE_DIR,
            nar_hash: Hash::from(info.nar_hash).to_sri(),
            nar_size: info.nar_size,
            references: info.references.iter().map(ToString::to_string).collect(),
            ca: ca.map(|ca| Ca {
                method: ca.method().name(),
                hash: ca.hash().to_sri(),
            }),
            deriver: info.deriver.as_ref().map(ToString::to_string),
            registration_time: None,
            ultimate: false,
            signatures: info.signatures.iter().map(ToString::to_string).collect(),
            url: format!("nar/{}", nar::current_name(&info.nar_hash, &entry.encoding)),
            compression: "zstd",
            download_size: entry.encoding.size_bytes,
            partial_closure,
            upstream: upstream::line(info),
        }
    }
}
