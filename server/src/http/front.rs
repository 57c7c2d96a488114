//! In front of the router: narinfos and small NARs out of memory, and paths that are not here,
//! answered without any of the layers behind.
//!
//! ```text
//!   GET, HEAD /nar/<file>     --> nar::known_file --> here: 200
//!   GET, HEAD /<hash>.narinfo --> narinfo::known --> here: 200   absent: 404
//!                                                 '--> not known: the router, as all else
//! ```
//! Guarantees: an answer has the bytes and headers that the router's would have; whoever may not
//! read is left to the router. Never: waits, or touches a disk; answers where each request is to be
//! told of in the log, has a body, or has a head that is too large.

use super::narinfo::{self, Known};
use super::{Shared, head, nar};
use crate::auth::subject::Scope;
use crate::listen::Peer;
use crate::observe;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::Body as HttpBody;
use snowcache_nix::StoreHash;

/// As [`narinfo::MISSING`] is sent, a line.
const MISSING_LINE: &str = "no path with this hash is in this cache\n";

/// See the module.
#[derive(Clone)]
pub struct Front(Shared);

impl Front {
    /// In front of the router of `app`.
    pub fn new(app: Shared) -> Front {
        Front(app)
    }

    /// The answer, if there is one at once; a request that has none is as it was.
    pub fn answer<B: HttpBody>(&self, peer: &Peer, request: &mut Request<B>) -> Option<Response> {
        let app = &self.0;
        if !app.is_public && app.admit(peer, request.headers(), Scope::Pull).is_err() {
            return None;
        }
        let is_head = request.method() == Method::HEAD;
        let is_reading = is_head || request.method() == Method::GET;
        if !is_reading || !request.body().is_end_stream() {
            return None;
        }
        if let Some(file) = request.uri().path().strip_prefix("/nar/") {
            return self.nar(request, file);
        }
        let hash = hash_of(request.uri().path())?;
        if !self.is_silent(request) {
            return None;
        }
        let (status, content_type, text) = match narinfo::known(app, &hash)? {
            Known::Here(text) => (StatusCode::OK, narinfo::CONTENT_TYPE, text),
            Known::Absent => {
                let text = Bytes::from_static(MISSING_LINE.as_bytes());
                (StatusCode::NOT_FOUND, "text/plain; charset=utf-8", text)
            }
        };
        let id = observe::request_id(request.headers());
        // hyper gets its own map back, so that none is made for a request.
        let mut headers = std::mem::take(request.headers_mut());
        headers.clear();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(observe::REQUEST_ID, id);
        let body = match is_head {
            true => {
                headers.insert(header::CONTENT_LENGTH, decimal(text.len()));
                Body::empty()
            }
            false => Body::from(text),
        };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Some(response)
    }

    fn nar<B>(&self, request: &Request<B>, file: &str) -> Option<Response> {
        if !self.is_silent(request) {
            return None;
        }
        let headers = request.headers();
        let mut response = nar::known_file(&self.0, request.method(), headers, file)?;
        let id = observe::request_id(headers);
        response.headers_mut().insert(observe::REQUEST_ID, id);
        Some(response)
    }

    /// Whether no layer behind would say a word of the request.
    fn is_silent<B>(&self, request: &Request<B>) -> bool {
        head::length(request) <= self.0.config.http.max_head_bytes && !observe::tells_requests()
    }
}

/// A number as a header, in one allocation where `HeaderValue::from` has two.
fn decimal(number: usize) -> HeaderValue {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    HeaderValue::from_bytes(&digits[at..]).expect("invariant: digits are a header value")
}

/// Of `/<hash>.narinfo`, under `/push` as well.
fn hash_of(path: &str) -> Option<StoreHash> {
    let file = path.strip_prefix("/push").unwrap_or(path);
    let hash = file.strip_prefix('/')?.strip_suffix(".narinfo")?;
    hash.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_narinfos_by_their_exact_name_are_answered_here() {
        let hash = "0c0g0ypmmnb8c6wbkhg6rwk2sh9gnbl3";
        for path in [format!("/{hash}.narinfo"), format!("/push/{hash}.narinfo")] {
            assert_eq!(
                hash_of(&path).map(|it| it.to_string()).as_deref(),
                Some(hash)
            );
        }
        for path in ["/x.narinfo", "//push/y.narinfo", "/nix-cache-info"] {
            assert_eq!(hash_of(path), None);
        }
        assert_eq!(hash_of(&format!("/a/{hash}.narinfo")), None);
        assert_eq!(hash_of(&format!("/{hash}.ls")), None);
    }

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 9, 10, 512, usize::MAX] {
            assert_eq!(decimal(number), number.to_string());
        }
    }

    #[test]
    fn what_is_missing_is_told_in_the_router_s_words() {
        assert_eq!(MISSING_LINE.trim_end(), narinfo::MISSING);
    }
}
