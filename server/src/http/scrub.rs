//! `POST /api/v1/scrub`: reads what is stored, and tells of it while it does; `GET`: what is known.
//!
//! Guarantees: one JSON object a line, as for a collection: `progress`, `damage`, `lost`, at the
//! end `summary` or `error`. A scrub ends when the client that asked for it goes away.

use super::errors::Refusal;
use super::{Shared, api, body, gc};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::Deserialize;
use snowcache_depot::Subset;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    subset: Option<String>,
    #[serde(default)]
    rate_bytes_per_s: Option<u64>,
}

/// `POST`
pub async fn post(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked: Asked = body::question(
        &app,
        &headers,
        body,
        r#"{"subset": "1/4", "rate_bytes_per_s": …}"#,
    )
    .await?;
    let subset = asked.subset.as_deref().map(str::parse::<Subset>);
    let subset = subset.transpose().map_err(Refusal::malformed)?;
    Ok(gc::report(
        app.scrubber.start(subset, asked.rate_bytes_per_s)?,
    ))
}

/// `GET`
pub async fn get(State(app): State<Shared>, method: Method) -> Response {
    api::json(&method, &app.scrubber.state())
}
