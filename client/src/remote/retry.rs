//! How often to try again, and when. Pure: the randomness is passed in.
//!
//! Guarantees: at most [`MAX_ATTEMPTS`] attempts, waits of at most [`MAX_WAIT`]. Never: two clients
//! that failed together and come back together (the jitter is the whole wait).

use http::{HeaderMap, StatusCode, header};
use std::time::Duration;

/// Four attempts wait 250 + 500 + 1000 ms at most between them: a server's restart takes less.
pub const MAX_ATTEMPTS: u32 = 4;
/// Before the second attempt.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// What a server may ask for by `Retry-After`; a person at a terminal waits no longer.
pub const MAX_WAIT: Duration = Duration::from_secs(30);

/// Whether an answer is worth another attempt.
pub fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
    ) || (status.is_server_error()
        && !matches!(
            status,
            StatusCode::NOT_IMPLEMENTED
                | StatusCode::INSUFFICIENT_STORAGE
                | StatusCode::HTTP_VERSION_NOT_SUPPORTED
        ))
}

/// How long to wait after the attempt of this number, counted from 1. `random` is anything.
pub fn wait_after(attempt: u32, answered: Option<&HeaderMap>, random: u64) -> Duration {
    let asked_for = answered
        .and_then(|headers| {
            headers
                .get(header::RETRY_AFTER)?
                .to_str()
                .ok()?
                .parse()
                .ok()
        })
        .map(Duration::from_secs);
    let asked_for = asked_for.unwrap_or_default().min(MAX_WAIT);
    // A fleet that is told to come again in 5 s comes over the 5 s after these.
    let longest = FIRST_WAIT.saturating_mul(1 << attempt.saturating_sub(1).min(16));
    let jitter = longest.max(asked_for).min(MAX_WAIT);
    (asked_for + jitter.mul_f64(random as f64 / u64::MAX as f64)).min(MAX_WAIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_are_random_and_end() {
        assert_eq!(wait_after(1, None, 0), Duration::ZERO);
        assert_eq!(wait_after(1, None, u64::MAX), Duration::from_millis(250));
        assert_eq!(wait_after(3, None, u64::MAX), Duration::from_secs(1));
        assert_eq!(wait_after(99, None, u64::MAX), MAX_WAIT);
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, "5".parse().expect("a value"));
        assert_eq!(wait_after(1, Some(&headers), 0), Duration::from_secs(5));
        let latest = wait_after(1, Some(&headers), u64::MAX);
        assert_eq!(latest, Duration::from_secs(10));
        headers.insert(header::RETRY_AFTER, "86400".parse().expect("a value"));
        assert_eq!(wait_after(1, Some(&headers), 0), MAX_WAIT);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        for (status, passing) in [(200, false), (404, false), (409, false), (507, false)]
            .into_iter()
            .chain([
                (408, true),
                (429, true),
                (500, true),
                (502, true),
                (503, true),
            ])
        {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(is_passing(status), passing, "{status}");
        }
    }
}
