//! Conditional and partial requests (RFC 9110 §13, §14), for bytes that never change under their
//! ETag.
//!
//! Guarantees: a single byte range is answered exactly; several ranges, other units and unreadable
//! headers are answered with the whole, as the RFC lets us. Never: a range of bytes other than
//! those the client has begun with.

use axum::http::{HeaderMap, HeaderName, header};
use std::ops::Range;

/// What to send of a representation of known length.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// 304: the client has it.
    Nothing,
    /// 200
    Whole,
    /// 206
    Part(Range<u64>),
    /// 416
    Unsatisfiable,
}

/// Whether the request asks for a range at all, readable or not.
pub fn asks_for_part(headers: &HeaderMap) -> bool {
    headers.contains_key(header::RANGE)
}

/// What `headers` ask for of a representation with this strong `etag` (quotes included) and length.
pub fn wanted(headers: &HeaderMap, etag: &str, size_bytes: u64) -> Wanted {
    if text(headers, header::IF_NONE_MATCH).is_some_and(|tags| names(tags, etag)) {
        return Wanted::Nothing;
    }
    // A date, or a weak tag, never matches: there is nothing here that it could be compared with.
    let same = text(headers, header::IF_RANGE).is_none_or(|tag| tag.trim() == etag);
    match text(headers, header::RANGE).and_then(|range| single(range, size_bytes)) {
        Some(part) if same => part,
        _ => Wanted::Whole,
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Weak comparison, as If-None-Match has it.
fn names(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// The one range of `bytes=…`; nothing for what should be answered with the whole.
fn single(range: &str, size_bytes: u64) -> Option<Wanted> {
    let (first, last) = range
        .trim()
        .strip_prefix("bytes=")?
        .trim()
        .split_once('-')?;
    let part = match (number(first)?, number(last)?) {
        (None, None) => return None,
        (None, Some(suffix)) => size_bytes.saturating_sub(suffix)..size_bytes,
        (Some(first), None) => first..size_bytes,
        (Some(first), Some(last)) if last < first => return None,
        (Some(first), Some(last)) => first..last.saturating_add(1).min(size_bytes),
    };
    Some(if part.is_empty() {
        Wanted::Unsatisfiable
    } else {
        Wanted::Part(part)
    })
}

/// `Some(None)` for an empty text, `None` for what is no number - a comma among its digits, say.
fn number(digits: &str) -> Option<Option<u64>> {
    match digits {
        "" => Some(None),
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            // More digits than fit are beyond any end.
            Some(Some(digits.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn asked(headers: &[(HeaderName, &str)]) -> Wanted {
        let headers = headers.iter().map(|(name, value)| {
            (
                name.clone(),
                HeaderValue::from_str(value).expect("a header"),
            )
        });
        wanted(&headers.collect(), "\"tag\"", 100)
    }

    #[test]
    fn single_ranges_are_exact() {
        for (range, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=0-99", 0..100),
            ("bytes=10-", 10..100),
            ("bytes=90-200", 90..100),
            ("bytes=-10", 90..100),
            ("bytes=-1000", 0..100),
            ("bytes=5-99999999999999999999999999", 5..100),
        ] {
            assert_eq!(
                asked(&[(header::RANGE, range)]),
                Wanted::Part(part),
                "{range}"
            );
        }
    }

    #[test]
    fn ranges_beyond_the_end_are_unsatisfiable() {
        for range in ["bytes=100-", "bytes=100-200", "bytes=-0"] {
            assert_eq!(
                asked(&[(header::RANGE, range)]),
                Wanted::Unsatisfiable,
                "{range}"
            );
        }
    }

    #[test]
    fn what_is_no_single_range_gets_the_whole() {
        for range in [
            "bytes=0-1,5-6",
            "bytes=5-2",
            "bytes=-",
            "bytes=a-b",
            "lines=1-2",
            "bytes=+1-2",
            "",
        ] {
            assert_eq!(asked(&[(header::RANGE, range)]), Wanted::Whole, "{range}");
        }
    }

    #[test]
    fn a_range_counts_only_for_what_the_client_has_begun_with() {
        let range = (header::RANGE, "bytes=10-");
        assert_eq!(
            asked(&[range.clone(), (header::IF_RANGE, "\"tag\"")]),
            Wanted::Part(10..100)
        );
        for other in ["\"other\"", "W/\"tag\"", "Sun, 22 Nov 2026 16:00:00 GMT"] {
            assert_eq!(
                asked(&[range.clone(), (header::IF_RANGE, other)]),
                Wanted::Whole,
                "{other}"
            );
        }
    }

    #[test]
    fn what_the_client_has_is_not_sent_again() {
        for tags in ["\"tag\"", "\"a\", \"tag\"", "W/\"tag\"", "*"] {
            assert_eq!(
                asked(&[(header::IF_NONE_MATCH, tags)]),
                Wanted::Nothing,
                "{tags}"
            );
        }
        assert_eq!(
            asked(&[(header::IF_NONE_MATCH, "\"other\"")]),
            Wanted::Whole
        );
    }
}
