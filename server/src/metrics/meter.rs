//! The layer that counts each request: when it was answered, with what, and when the answer's last
//! byte was taken.
//!
//! Guarantees: an answer whose length is known is counted without allocating; a streamed one by the
//! bytes that were really handed on. Never: changes an answer.

use super::Metrics;
use super::http::method_number;
use super::route::Route;
use axum::body::Body;
use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// A request that is being answered.
pub struct Meter {
    metrics: Arc<Metrics>,
    route: Route,
    method: usize,
    began: Instant,
    answered: bool,
}

impl Meter {
    pub(super) fn begin(
        metrics: Arc<Metrics>,
        route: Route,
        method: &Method,
        began: Instant,
    ) -> Meter {
        metrics.http.begun();
        Meter {
            metrics,
            route,
            method: method_number(method),
            began,
            answered: false,
        }
    }

    /// Whether it is for something that takes its turn.
    pub fn asks_much(&self) -> bool {
        self.route.asks_much()
    }

    /// The answer's head is known.
    pub fn answered(mut self, response: Response) -> Response {
        let http = &self.metrics.http;
        http.answered(self.route, self.method, response.status());
        self.answered = true;
        match response.body().size_hint().exact() {
            Some(bytes) => {
                http.sent(self.route, bytes);
                response
            }
            None => response.map(|body| Body::new(Metered { body, meter: self })),
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.metrics.http.ended();
        // One whose client went away before there was an answer took no time of anybody's.
        if self.answered {
            self.metrics.http.lasted(self.route, self.began.elapsed());
        }
    }
}

/// A body that is streamed.
struct Metered {
    body: Body,
    meter: Meter,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(bytes) = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref()) {
            let meter = &self.meter;
            meter.metrics.http.sent(meter.route, bytes.len() as u64);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
