//! What the server tells of its work: one event per request, each with an id that the answer bears
//! too.
//!
//! Guarantees: events go to stderr, stdout belongs to the banner. Never: a header or a body in an
//! event.

use crate::config::{ConfigError, Log};
use crate::http::doors::Sent;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use std::io::IsTerminal;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tracing::Instrument;
use tracing_subscriber::EnvFilter;

/// The header that a request's id is in, on its way in and out.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// An id sent by a client is taken up to this length: a UUID has 36 characters.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// What a filter must be.
pub const FILTER_RULE: &str =
    "it must be a level, or levels per module as in info,snowcache_server=debug";

static NEXT_REQUEST: AtomicU64 = AtomicU64::new(1);

/// Starts telling. `RUST_LOG`, if set, wins over the configured filter.
///
/// # Errors
/// The filter, if it is none.
pub fn start(log: &Log) -> Result<(), ConfigError> {
    let (key, filter) = match std::env::var("RUST_LOG") {
        Ok(filter) => ("RUST_LOG", filter),
        Err(_) => ("log.filter", log.filter.clone()),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|_| ConfigError::Value {
        origin: None,
        key,
        value: filter.clone(),
        rule: FILTER_RULE,
    })?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match log.format.as_str() {
        "json" => subscriber.json().try_init(),
        _ => subscriber.try_init(),
    };
    // A second server in the same process (a test) tells through the first one's subscriber.
    started.unwrap_or_default();
    Ok(())
}

/// The middleware: gives a request its id and span, and tells how it was answered.
pub async fn request(request: Request, next: Next) -> Response {
    let id = request_id(request.headers());
    let started = Instant::now();
    // Of a named cache the URL as it was sent.
    let sent = request.extensions().get::<Sent>();
    let path = sent.map_or(request.uri(), |Sent(sent)| sent).path();
    let (method, path) = (request.method().clone(), path.to_owned());
    let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default(), %method, path);
    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    let elapsed_ms = started.elapsed().as_millis() as u64;
    span.in_scope(|| match status {
        status if status.is_server_error() => {
            tracing::warn!(status = status.as_u16(), elapsed_ms, "answered")
        }
        status => tracing::debug!(status = status.as_u16(), elapsed_ms, "answered"),
    });
    response.headers_mut().insert(REQUEST_ID, id);
    response
}

/// An error with what caused it, each cause once.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        let cause = cause.to_string();
        if !text.ends_with(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Whether each request is told of.
pub fn tells_requests() -> bool {
    tracing::enabled!(tracing::Level::DEBUG)
}

/// The id that a request bears, or is given.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    match headers.get(REQUEST_ID) {
        Some(id)
            if id.len() <= MAX_REQUEST_ID_BYTES
                && !id.is_empty()
                && id.as_bytes().iter().all(plain) =>
        {
            id.clone()
        }
        _ => next_id(),
    }
}

/// Made without a detour: each answer has one.
fn next_id() -> HeaderValue {
    static PROCESS: LazyLock<String> = LazyLock::new(|| format!("{:x}-", std::process::id()));
    let number = NEXT_REQUEST.fetch_add(1, Ordering::Relaxed);
    let digits = number.max(1).ilog2() / 4 + 1;
    let mut id = String::with_capacity(PROCESS.len() + digits as usize);
    id.push_str(&PROCESS);
    for digit in (0..digits).rev() {
        let value = (number >> (4 * digit)) & 0xf;
        id.push(char::from_digit(value as u32, 16).expect("invariant: four bits"));
    }
    HeaderValue::try_from(id).expect("invariant: hex digits and a dash are a header value")
}
