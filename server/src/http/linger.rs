//! A refused upload must still hear why: a socket closed with unread bytes resets, and the answer
//! is lost with it.
//!
//! Guarantees: a request body that its handler gave up is read on and thrown away, within bounds,
//! so that the client reads its answer; a client that waits for `100 Continue` is not told to go
//! on. Never: more than [`LINGER_BYTES`].

use axum::body::Body;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Read on at most so far: a client that reads while it writes stops long before, one that does not
/// would send its whole NAR.
const LINGER_BYTES: u64 = 64 << 20;

/// And for at most so long.
const LINGER: Duration = Duration::from_secs(5);

/// The middleware that gives every request such a body.
pub async fn linger(request: Request, next: Next) -> Response {
    // Who waits for `100 Continue` has sent nothing yet, and reading would invite it to.
    let invited = !request.headers().contains_key(header::EXPECT);
    let request = request.map(|body| {
        Body::new(Lingering {
            body: Some(body),
            invited,
        })
    });
    next.run(request).await
}

struct Lingering {
    /// Nothing once it has ended or failed.
    body: Option<Body>,
    /// Whether the client sends, or has been told to.
    invited: bool,
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.invited = true;
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self
            .body
            .take()
            .filter(|body| self.invited && !body.is_end_stream())
        else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            if tokio::time::timeout(LINGER, drain(body)).await.is_err() {
                tracing::debug!("a refused upload went on for too long");
            }
        });
    }
}

async fn drain(mut body: Body) {
    let mut left = LINGER_BYTES;
    while let Some(Ok(frame)) = body.frame().await {
        let read = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(read) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
