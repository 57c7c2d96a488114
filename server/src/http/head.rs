//! A request's head is small: what is larger is refused before anything looks into it.
//!
//! Guarantees: no handler sees a head of more than `http.max_head_bytes`. What hyper takes before
//! that is bounded by a connection's buffer, and by 100 headers.

use super::Shared;
use super::errors::Refusal;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// `: ` and a line break.
const BESIDE_A_HEADER_BYTES: usize = 4;

/// The middleware.
pub async fn bounded(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let limit_bytes = app.config.http.max_head_bytes;
    let bytes = length(&request);
    if bytes <= limit_bytes {
        return next.run(request).await;
    }
    let sentence = format!(
        "the request's head has {bytes} bytes, this cache takes {limit_bytes}: leave out headers"
    );
    Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, sentence).into_response()
}

/// Bytes of a head, as it came or nearly so.
pub fn length<B>(request: &axum::http::Request<B>) -> usize {
    let target = request
        .uri()
        .path_and_query()
        .map_or(0, |it| it.as_str().len());
    let headers = request.headers().iter();
    let headers =
        headers.map(|(name, value)| name.as_str().len() + value.len() + BESIDE_A_HEADER_BYTES);
    request.method().as_str().len() + target + headers.sum::<usize>()
}
