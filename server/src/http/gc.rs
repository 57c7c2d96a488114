//! `POST /api/v1/gc`: a collection, and its report while it runs.
//!
//! Guarantees: one JSON object a line; a line at least every [`PROGRESS`], so that no proxy takes a
//! long silence for the end; the last line is `{"summary": …}` or `{"error": …}`, and a report
//! without one was cut short. The collection goes on when its client goes away.

use super::errors::Refusal;
use super::{Shared, body};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use serde::Deserialize;
use std::convert::Infallible;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

/// Proxies cut what is silent for a minute.
const PROGRESS: Duration = Duration::from_secs(10);

/// Lines are joined up to this length: as much as a connection writes at a time.
const CHUNK_BYTES: usize = 64 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    dry_run: bool,
}

/// `POST`
pub async fn post(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let asked: Asked = body::question(&app, &headers, body, r#"{"dry_run": …}"#).await?;
    Ok(report(app.collector.start(asked.dry_run)?))
}

/// An answer of lines as they come.
pub fn report(lines: Receiver<String>) -> Response {
    let start = (lines, Instant::now());
    let chunks = futures::stream::unfold(start, |(mut lines, began)| async move {
        let chunk = match timeout(PROGRESS, lines.recv()).await {
            Ok(Some(line)) => joined(line, &mut lines),
            Ok(None) => return None,
            Err(_) => format!(
                "{{\"progress\":{{\"seconds\":{}}}}}\n",
                began.elapsed().as_secs()
            ),
        };
        Some((Ok::<_, Infallible>(Bytes::from(chunk)), (lines, began)))
    });
    let mut response = Response::new(Body::from_stream(chunks));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/jsonl"),
    );
    response
}

/// This line and those that are ready.
fn joined(first: String, lines: &mut Receiver<String>) -> String {
    let mut chunk = first + "\n";
    while chunk.len() < CHUNK_BYTES {
        match lines.try_recv() {
            Ok(line) => chunk = chunk + &line + "\n",
            Err(_) => break,
        }
    }
    chunk
}
