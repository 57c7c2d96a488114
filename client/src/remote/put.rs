//! Uploading as nix does: the NAR, then its narinfo, to the cache's push URL.
//!
//! Guarantees: the last bytes of a NAR are sent only when the whole of it was verified, so a stream
//! that fails leaves the server with a body that is too short, which it throws away; the narinfo is
//! sent only after the NAR was taken, and once more when that got lost (it is idempotent).
//! Never: a NAR sent twice by itself, for its stream is spent.

use super::Remote;
use super::http::{Ask, Body, BoxError};
use bytes::Bytes;
use futures::stream::unfold;
use futures::{Stream, StreamExt};
use http::{HeaderValue, Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use snowcache_core::cache::NarStream;
use snowcache_core::error::Error;
use snowcache_core::path_info::Claimed;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a stream failed, kept aside while the connection is torn down for it.
type Failure = Arc<Mutex<Option<Error>>>;

impl Remote {
    pub(super) async fn upload(&self, claimed: Claimed, nar: NarStream) -> Result<(), Error> {
        let push = self.http.endpoint.push();
        let file = format!("nar/{}.nar", nar.nar_hash().base32());
        let file_size_bytes = nar.nar_size_bytes();
        self.upload_nar(push.join(&file), nar).await?;

        let info = claimed.info();
        let url = push.join(&format!("{}.narinfo", info.store_path.hash()));
        let mut ask = Ask::new(Method::PUT, url.clone()).header(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/x-nix-narinfo"),
        );
        ask.body = Bytes::from(info.to_narinfo(&file, "none", Some(file_size_bytes)));
        let answer = self.http.send(&ask).await?;
        self.http.succeeded(&url, answer).await?;
        Ok(())
    }

    async fn upload_nar(&self, url: String, nar: NarStream) -> Result<(), Error> {
        let ask = Ask::new(Method::PUT, url.clone())
            .header(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/x-nix-nar"),
            )
            .header(
                header::CONTENT_LENGTH,
                HeaderValue::from(nar.nar_size_bytes()),
            );
        let failure = Failure::default();
        let answer = self.http.once(&ask, body(nar, failure.clone())).await;
        if let Some(error) = failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            return Err(error);
        }
        self.http.succeeded(&url, answer?).await?;
        Ok(())
    }
}

fn body(nar: NarStream, failure: Failure) -> Body {
    let frames = one_behind(nar).map(move |chunk| match chunk {
        Ok(chunk) => Ok(Frame::data(chunk)),
        Err(error) => {
            let told: BoxError = error.to_string().into();
            *failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            Err(told)
        }
    });
    StreamBody::new(frames).boxed_unsync()
}

/// Holds each chunk back until the next one, or the verified end, is there.
fn one_behind(nar: NarStream) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
    unfold((nar, None), |(mut nar, mut held)| async move {
        loop {
            match nar.next().await {
                Some(Ok(chunk)) => {
                    if let Some(before) = held.replace(chunk) {
                        return Some((Ok(before), (nar, held)));
                    }
                }
                Some(Err(error)) => return Some((Err(error), (nar, None))),
                None => return held.take().map(|last| (Ok(last), (nar, None))),
            }
        }
    })
}
