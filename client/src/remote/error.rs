//! What can go wrong between here and a cache on the other end of a connection, in sentences.
//!
//! Guarantees: each names the URL, says what happened, and what to do where something can be done.

use http::StatusCode;
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::NarInfoError;
use std::error::Error as StdError;
use thiserror::Error;

/// What went wrong with a remote cache.
#[derive(Debug, Error)]
pub enum RemoteError {
    /// No connection, or it broke.
    #[error("cannot reach {url}: {}; is the cache running there?", innermost(.source.as_ref()))]
    Connection {
        /// What was asked for.
        url: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// It broke in the middle of an answer and could not be resumed.
    #[error("{url} broke off after {read_bytes} bytes: {}; try again", innermost(.source.as_ref()))]
    BrokeOff {
        /// What was asked for.
        url: String,
        /// How much had come.
        read_bytes: u64,
        /// Why.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// Nothing came for too long.
    #[error("{url} sent nothing for {seconds} s; is the cache overloaded, or a proxy in the way?")]
    TimedOut {
        /// What was asked for.
        url: String,
        /// How long it was waited.
        seconds: u64,
    },
    /// It was slower than somebody else who has the same.
    #[error("{url} stalled while another cache has the same")]
    Stalled {
        /// What was asked for.
        url: String,
    },
    /// An answer that means no.
    #[error("{url} answered {status}{}", said(.sentence))]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
        /// The first line of the body.
        sentence: String,
    },
    /// A small answer that is not small.
    #[error("the answer of {url} is longer than {limit_bytes} bytes, so it was not read")]
    TooLong {
        /// What was asked for.
        url: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// Not what Nix calls a narinfo.
    #[error("{url} is not a narinfo: {source}")]
    Narinfo {
        /// What was asked for.
        url: String,
        /// Why not.
        source: NarInfoError,
    },
    /// A narinfo of another path than was asked for.
    #[error("{url} describes {found}, another path; do not trust this cache")]
    OtherPath {
        /// What was asked for.
        url: String,
        /// What it is about.
        found: String,
    },
    /// Text or JSON that cannot be read.
    #[error("the answer of {url} cannot be understood: {source}")]
    Answer {
        /// What was asked for.
        url: String,
        /// Why not.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A redirect that leads nowhere.
    #[error("{url} redirects {problem}")]
    Redirect {
        /// Where it began.
        url: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// More or fewer bytes than the narinfo says.
    #[error("{url} has {found_bytes} bytes, but its narinfo says FileSize {file_size_bytes}")]
    FileSize {
        /// What was asked for.
        url: String,
        /// What the narinfo says.
        file_size_bytes: u64,
        /// What came.
        found_bytes: u64,
    },
    /// The request could not be put together.
    #[error("{url} is no usable URL: {source}")]
    Request {
        /// What was asked for.
        url: String,
        /// Why not.
        source: http::Error,
    },
}

impl RemoteError {
    /// Whether a token is missing, or is not the right one.
    pub fn is_denial(&self) -> bool {
        let denials = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN];
        matches!(self, RemoteError::Status { status, .. } if denials.contains(status))
    }
}

impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Error {
        let (kind, blame) = match &error {
            RemoteError::Connection { .. }
            | RemoteError::BrokeOff { .. }
            | RemoteError::TimedOut { .. }
            | RemoteError::Stalled { .. } => (Kind::Unavailable, Blame::Upstream),
            RemoteError::Status { status, .. } => of_status(*status),
            RemoteError::TooLong { .. } => (Kind::TooMuch, Blame::Upstream),
            RemoteError::Request { .. } => (Kind::Invalid, Blame::Client),
            RemoteError::Narinfo { .. }
            | RemoteError::OtherPath { .. }
            | RemoteError::Answer { .. }
            | RemoteError::FileSize { .. }
            | RemoteError::Redirect { .. } => (Kind::Corrupt, Blame::Upstream),
        };
        Error::new(kind, blame, error)
    }
}

/// What a status tells the caller to do. A missing reference is answered with 424 or 404.
fn of_status(status: StatusCode) -> (Kind, Blame) {
    match status {
        StatusCode::UNAUTHORIZED
        | StatusCode::FORBIDDEN
        | StatusCode::PROXY_AUTHENTICATION_REQUIRED => (Kind::Denied, Blame::Client),
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FAILED_DEPENDENCY => {
            (Kind::Missing, Blame::Client)
        }
        StatusCode::PAYLOAD_TOO_LARGE => (Kind::TooMuch, Blame::Client),
        StatusCode::INSUFFICIENT_STORAGE => (Kind::TooMuch, Blame::Storage),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            (Kind::Unavailable, Blame::Upstream)
        }
        status if status.is_client_error() => (Kind::Invalid, Blame::Client),
        _ => (Kind::Unavailable, Blame::Upstream),
    }
}

/// The cause at the end of a chain: "connection refused" rather than "client error".
pub(super) fn innermost(error: &(dyn StdError + Send + Sync + 'static)) -> String {
    let mut cause: &dyn StdError = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn said(sentence: &str) -> String {
    if sentence.is_empty() {
        String::new()
    } else {
        format!(": {sentence}")
    }
}

/// The first line of a body, short enough for a terminal, without control characters.
pub(super) fn first_line(body: &[u8]) -> String {
    /// Enough for two sentences and a store path.
    const MAX_CHARS: usize = 400;
    let text = String::from_utf8_lossy(body);
    let line = text.lines().next().unwrap_or_default();
    line.chars()
        .filter(|c| !c.is_control())
        .take(MAX_CHARS)
        .collect()
}
