//! What operators' programs ask: is it alive, should it get requests, how is it.
//!
//! ```text
//!   /healthz   200 while the process answers at all: restart it when it does not
//!   /readyz    200, or 503 with a sentence: send requests elsewhere
//!   /metrics   for Prometheus
//! ```
//! Guarantees: none of them waits for a place among the readers. Never: a token, a path.

use super::errors::Refusal;
use super::{Shared, answer};
use crate::metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use std::time::Duration;

const TEXT: &str = "text/plain; charset=utf-8";

/// A depot that takes longer to say how it is hangs: probes wait a second by default.
const PATIENCE: Duration = Duration::from_millis(900);

/// `/healthz` and `/readyz`
pub fn probes() -> Router<Shared> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
}

/// `/metrics`
pub fn metrics() -> Router<Shared> {
    Router::new().route("/metrics", get(scrape))
}

async fn healthz(method: Method) -> Response {
    uncached(answer(&method, TEXT, "ok\n"))
}

async fn readyz(State(app): State<Shared>, method: Method) -> Result<Response, Refusal> {
    readiness(&app).await?;
    Ok(uncached(answer(&method, TEXT, "ready\n")))
}

async fn scrape(State(app): State<Shared>, method: Method) -> Response {
    let text = metrics::text(&app).await;
    uncached(answer(&method, metrics::CONTENT_TYPE, text))
}

fn uncached(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether requests are welcome.
///
/// # Errors
/// 503 with why not.
pub async fn readiness(app: &Shared) -> Result<(), Refusal> {
    let not =
        |sentence: String| Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence).retry());
    if app.metrics.is_draining() {
        return not("the server is about to stop; send requests elsewhere".to_owned());
    }
    let depot = app.depot.clone();
    let vitals = tokio::task::spawn_blocking(move || depot.vitals());
    match tokio::time::timeout(PATIENCE, vitals).await {
        Ok(Ok(Ok(vitals))) if app.config.read_only || !vitals.is_full() => Ok(()),
        Ok(Ok(Ok(vitals))) => not(format!(
            "uploads are refused, there is no room: {} bytes are stored and {} may be, the disk \
             has {} left; reading works",
            vitals.stored_bytes, vitals.usable_bytes, vitals.disk_free_bytes
        )),
        Ok(Ok(Err(error))) => {
            tracing::error!(%error, "the depot is not ready");
            not("the depot cannot be read; the server's log says why".to_owned())
        }
        Ok(Err(_)) | Err(_) => not("the depot does not answer".to_owned()),
    }
}
