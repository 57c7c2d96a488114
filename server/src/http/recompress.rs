//! `POST /api/v1/recompress`: what nobody asks for is compressed harder, and told of while it is;
//! `GET`: what is known.
//!
//! Guarantees: one JSON object a line, as for a collection: `progress`, at the end `summary` or
//! `error`. It ends when the client that asked for it goes away; what is done stays.

use super::errors::Refusal;
use super::{Shared, api, body, gc};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    rate_bytes_per_s: Option<u64>,
}

/// `POST`
pub async fn post(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked: Asked = body::question(&app, &headers, body, r#"{"rate_bytes_per_s": …}"#).await?;
    Ok(gc::report(app.recompressor.start(asked.rate_bytes_per_s)?))
}

/// `GET`
pub async fn get(State(app): State<Shared>, method: Method) -> Response {
    api::json(&method, &app.recompressor.state())
}
