//! What a request that cannot be answered is told: a status that makes Nix do the right thing, and
//! one sentence.
//!
//! ```text
//!   400 malformed    403 not this way   405 wrong URL to write to   413 too large
//!   401 no token     404 missing        412 an encoding gone        422 understood, but refused
//!   409 under way already (native API)  431 a head too large
//!   429 too many listen  503 later (nix comes again)  500, 507 our fault
//! ```
//! Guarantees: what is merely missing is 404, never 5xx; our own faults are logged in full and told
//! in brief. Never: 409 to a stock client, whose build it would fail.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use snowcache_depot::{Error, ErrorKind};
use std::fmt;

/// Seconds until a client should come again: Nix's own base delay for 503.
const RETRY_AFTER_S: &str = "5";

/// A request that is answered with an error.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    sentence: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// `sentence` says what is wrong, where, and what to do.
    pub fn new(status: StatusCode, sentence: impl Into<String>) -> Refusal {
        Refusal {
            status,
            sentence: sentence.into(),
            headers: Vec::new(),
        }
    }

    /// 400
    pub fn malformed(sentence: impl fmt::Display) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, sentence.to_string())
    }

    /// 404
    pub fn missing(sentence: impl fmt::Display) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, sentence.to_string())
    }

    /// 413
    pub fn too_large(sentence: impl fmt::Display) -> Refusal {
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, sentence.to_string())
    }

    /// 422
    pub fn refused(sentence: impl fmt::Display) -> Refusal {
        Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, sentence.to_string())
    }

    /// 500, of which the log says more.
    pub fn internal() -> Refusal {
        Refusal::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the server failed; its log says how",
        )
    }

    /// With one more header.
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Refusal {
        self.headers.push((name, value));
        self
    }

    /// With `Retry-After`.
    pub fn retry(self) -> Refusal {
        self.with(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S))
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The sentence.
    pub fn sentence(&self) -> &str {
        &self.sentence
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Refusal {
        match error.kind() {
            ErrorKind::BadNar | ErrorKind::Refused => Refusal::refused(error),
            ErrorKind::Closed => {
                let sentence = "the server is shutting down; try again in a while";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence).retry()
            }
            ErrorKind::Busy => Refusal::new(StatusCode::CONFLICT, error.to_string()),
            ErrorKind::Full => {
                tracing::error!(%error, "there is no room");
                let why = match std::error::Error::source(&error) {
                    Some(_) => "the cache's disk is full".to_owned(),
                    None => error.to_string(),
                };
                let sentence = format!("{why}; a collection was started, push again in a while");
                Refusal::new(StatusCode::INSUFFICIENT_STORAGE, sentence)
            }
            ErrorKind::Storage => {
                tracing::error!(%error, "the disk failed");
                let sentence = "the cache's disk failed, nothing of this was kept; try again";
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence).retry()
            }
            ErrorKind::Corrupt => {
                tracing::error!(%error, "the depot failed");
                Refusal::internal()
            }
        }
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Refusal {
        tracing::error!(%error, "packing a body failed");
        Refusal::internal()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status.as_u16();
        if self.status != StatusCode::NOT_FOUND {
            tracing::info!(status, sentence = self.sentence, "refused");
        }
        let mut response = (self.status, self.sentence + "\n").into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_sentence_with_its_headers() {
        let response = Refusal::missing("no such path here")
            .retry()
            .into_response();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/plain; charset=utf-8"
        );
    }
}
