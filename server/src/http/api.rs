//! The small native API: lists and counts as JSON, open like the rest of reading.

use super::errors::Refusal;
use super::{Shared, answer, body};
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use snowcache_depot::{MAX_PAGE, Stats};
use snowcache_nix::StoreHash;
use std::sync::atomic::Ordering;

/// Hashes in one request.
const MAX_HASHES: usize = 100_000;
/// 100,000 hashes of 32 characters, quotes and a comma: 3.5 MB, and some white space.
const MAX_MISSING_BYTES: u64 = 8 << 20;

/// Which page of the paths.
#[derive(Debug, Deserialize)]
pub struct Page {
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Serialize)]
struct Paths {
    paths: Vec<String>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct Asked {
    hashes: Vec<String>,
}

#[derive(Serialize)]
struct Missing {
    missing: Vec<String>,
}

#[derive(Serialize)]
struct Counted {
    #[serde(flatten)]
    depot: Stats,
    /// Paths put again with other bytes, since the start.
    conflicts: u64,
}

/// `GET /api/v1/paths?after=<hash>&limit=N`
pub async fn paths(
    State(app): State<Shared>,
    method: Method,
    Query(page): Query<Page>,
) -> Result<Response, Refusal> {
    let after: Option<StoreHash> = match page.after {
        Some(after) => Some(
            after
                .parse()
                .map_err(|error| Refusal::malformed(format!("after: {error}")))?,
        ),
        None => None,
    };
    let limit = page.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let found = app
        .reads
        .run(move || depot.paths(&cache, after, limit))
        .await?;
    let next = match found.last() {
        Some(last) if found.len() == limit => Some(last.hash().to_string()),
        _ => None,
    };
    let paths = found.iter().map(ToString::to_string).collect();
    Ok(json(&method, &Paths { paths, next }))
}

/// `GET /api/v1/stats` of a named cache: what it holds, `null` until it is counted.
pub async fn holding(State(app): State<Shared>, method: Method) -> Response {
    match app.depot.holding(&app.cache) {
        Some(holding) => json(&method, &holding),
        None => json(
            &method,
            &serde_json::json!({ "paths": null, "nar_bytes": null }),
        ),
    }
}

/// `GET /api/v1/stats`
pub async fn stats(State(app): State<Shared>, method: Method) -> Result<Response, Refusal> {
    let depot = app.depot.clone();
    let depot = app.reads.run(move || depot.stats()).await?;
    Ok(json(
        &method,
        &Counted {
            depot,
            conflicts: app.conflicts.load(Ordering::Relaxed),
        },
    ))
}

#[derive(Serialize)]
struct Upstreams {
    public_keys: Vec<String>,
}

/// `GET /api/v1/upstreams`: by whose signatures references may be left out.
pub async fn upstreams(State(app): State<Shared>, method: Method) -> Response {
    let public_keys = app.upstreams.iter().map(ToString::to_string).collect();
    json(&method, &Upstreams { public_keys })
}

/// `POST /api/v1/missing`
pub async fn missing(
    State(app): State<Shared>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let stall_s = app.config.uploads.stall_timeout_s;
    let text = body::whole(
        &headers,
        body,
        MAX_MISSING_BYTES,
        stall_s,
        &app.reads,
        "the question",
    )
    .await?;
    let asked: Asked = body::parsed(&text, r#"{"hashes": ["<hash>", …]}"#)?;
    if asked.hashes.len() > MAX_HASHES {
        return Err(Refusal::too_large(format!(
            "ask for at most {MAX_HASHES} hashes at once"
        )));
    }
    let hashes: Result<Vec<StoreHash>, _> = asked.hashes.iter().map(|hash| hash.parse()).collect();
    let hashes = hashes.map_err(Refusal::malformed)?;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let has = app.reads.run(move || depot.has(&cache, &hashes)).await?;
    let missing = asked
        .hashes
        .into_iter()
        .zip(has)
        .filter(|(_, has)| !has)
        .map(|(hash, _)| hash);
    Ok(json(
        &method,
        &Missing {
            missing: missing.collect(),
        },
    ))
}

/// `GET /api/v1/cost/<hash>`: what a visible path's NAR is made of and takes on disk.
pub async fn cost(
    State(app): State<Shared>,
    method: Method,
    Path(hash): Path<String>,
) -> Result<Response, Refusal> {
    let hash: StoreHash = hash.parse().map_err(Refusal::malformed)?;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let found = app.reads.run(move || match depot.path(&cache, &hash)? {
        Some(entry) => match depot.nar(&cache, &entry.info.nar_hash)? {
            Some(reader) => reader.cost().map(Some),
            None => Ok(None),
        },
        None => Ok(None),
    });
    let cost = found.await?;
    let cost = cost.ok_or_else(|| Refusal::missing(format!("no path {hash} in this cache")))?;
    Ok(json(&method, &cost))
}

/// An answer of JSON.
pub fn json(method: &Method, value: &impl Serialize) -> Response {
    let text =
        serde_json::to_vec(value).expect("invariant: strings and numbers can be written as JSON");
    answer(method, "application/json", text)
}
