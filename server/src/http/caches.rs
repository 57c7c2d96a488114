//! `/api/v1/caches`: named caches are made, changed, shown and deleted, by whoever may do
//! everything.
//!
//! Guarantees: what was answered 2xx is durable, and holds from the next request on; the same again
//! changes nothing. Never: a secret key.

use super::api::json;
use super::errors::Refusal;
use super::{App, Shared, body};
use crate::auth::subject::Subject;
use crate::caches::{Before, CachesError, Change, Name, NameError, Named};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use snowcache_depot::Holding;

/// Some numbers and a key's name.
const MAX_QUESTION_BYTES: u64 = 4 << 10;

#[derive(Serialize)]
struct About {
    name: String,
    /// Where it is read from; with `/push` behind it, written to.
    url: String,
    public: bool,
    priority: u32,
    /// Null: as the server's configuration says.
    grace_s: Option<u64>,
    /// The same; 0: never by age.
    max_age_s: Option<u64>,
    /// Null: as much as there is room for.
    quota_bytes: Option<u64>,
    /// Null until it is counted.
    holds: Option<Holding>,
    public_keys: Vec<String>,
    /// In seconds since 1970.
    created: u64,
    by: String,
}

#[derive(Serialize)]
struct List {
    caches: Vec<About>,
}

/// `GET /api/v1/caches`
pub async fn list(State(app): State<Shared>, method: Method) -> Response {
    let caches = app.caches.list();
    let caches = caches.iter().map(|named| about(&app, named)).collect();
    json(&method, &List { caches })
}

/// `GET /api/v1/caches/<name>`
pub async fn get(
    State(app): State<Shared>,
    method: Method,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let named = app.caches.find(&name).ok_or(CachesError::Unknown(name))?;
    Ok(json(&method, &about(&app, &named)))
}

/// `PUT /api/v1/caches/<name>`: `If-None-Match: *` of a new one only, `If-Match: *` of one that is
/// there.
pub async fn put(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (limit, stall_s) = (MAX_QUESTION_BYTES, app.config.uploads.stall_timeout_s);
    let text = body::whole(&headers, body, limit, stall_s, &app.commits, "the wish").await?;
    let text = if text.is_empty() { b"{}" } else { &*text };
    let change: Change = body::parsed(text, r#"{"public": true, "priority": 30}"#)?;
    let name: Name = name.parse()?;
    let any = |header| headers.get(header).is_some_and(|value| value == "*");
    let before = match (any(header::IF_NONE_MATCH), any(header::IF_MATCH)) {
        (true, _) => Before::Nothing,
        (_, true) => Before::Something,
        _ => Before::Anything,
    };
    let (engine, by) = (app.clone(), subject.clone());
    let put = move || {
        let priority = engine.config.cache.priority;
        let put = engine
            .caches
            .put(&name, &change, before, priority, by.as_str());
        let named = put?;
        let (depot, quota_bytes) = (&engine.depot, named.settings.quota_bytes);
        depot.watch_holding(&named.cache, quota_bytes);
        depot.count_holdings()?;
        Ok::<_, Refusal>(named)
    };
    let named = app.commits.run(put).await?;
    let (cache, subject) = (&named.name, subject.as_str());
    tracing::info!(%cache, public = named.settings.public, subject, "a cache is set");
    Ok(json(&Method::PUT, &about(&app, &named)))
}

/// `DELETE /api/v1/caches/<name>`
pub async fn delete(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let parsed: Name = name.parse()?;
    let engine = app.clone();
    let delete = move || {
        let named = engine.caches.delete(&parsed)?;
        if let Some(named) = &named {
            engine.depot.unwatch_holding(&named.cache);
        }
        Ok::<_, Refusal>(named)
    };
    let Some(named) = app.commits.run(delete).await? else {
        return Err(CachesError::Unknown(name).into());
    };
    tracing::info!(cache = %named.name, subject = subject.as_str(), "a cache is deleted");
    Ok(json(&Method::DELETE, &about(&app, &named)))
}

fn about(app: &App, named: &Named) -> About {
    let keys = named.keys.iter();
    About {
        name: named.name.to_string(),
        url: app.url_of(&named.name),
        public: named.settings.public,
        priority: named.settings.priority,
        grace_s: named.settings.grace_s,
        max_age_s: named.settings.max_age_s,
        quota_bytes: named.settings.quota_bytes,
        holds: app.depot.holding(&named.cache),
        public_keys: keys.map(|key| key.public().to_string()).collect(),
        created: named.created,
        by: named.by.clone(),
    }
}

impl From<NameError> for Refusal {
    fn from(error: NameError) -> Refusal {
        Refusal::malformed(error)
    }
}

impl From<CachesError> for Refusal {
    fn from(error: CachesError) -> Refusal {
        match &error {
            CachesError::Unknown(_) => Refusal::missing(error),
            CachesError::Exists(_) => {
                Refusal::new(StatusCode::PRECONDITION_FAILED, error.to_string())
            }
            CachesError::HasKeys
            | CachesError::TooMany
            | CachesError::KeyName(_)
            | CachesError::KeyTaken(_) => Refusal::refused(error),
            CachesError::Folder { .. } | CachesError::File { .. } | CachesError::Keys(_) => {
                let why = crate::observe::with_causes(&error);
                tracing::error!(why, "a cache could not be written");
                let sentence = "the server's disk failed, nothing was changed; its log says more";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence).retry()
            }
        }
    }
}
