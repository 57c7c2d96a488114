//! Native uploads: a client asks what is absent, sends that, and has many paths published at once.
//!
//! ```text
//!   POST /api/v1/uploads/nars     JSON    which of these NARs are not held here?
//!   POST /api/v1/uploads/frames   binary  which of these frames are absent?
//!   POST /api/v1/uploads          binary  NARs in pieces (snowcache_core::upload)
//!   GET  /api/v1/uploads/taken/K          a byte for each frame of upload K that is taken
//!   POST /api/v1/uploads/commit   JSON    these paths have these NARs; references first
//! ```
//! Guarantees: those of `PUT /push`: nothing is believed, nothing acknowledged that is not durable,
//! and a path is published when its references are. All of it may be asked again, or be broken off
//! anywhere: what is held is not sent twice. Never: a way around a limit that `/push` has; a word
//! of what was sent to another cache.

mod commit;
mod take;
mod under_way;

pub use under_way::UnderWay;
use under_way::{Key, Progress};

use super::api::json;
use super::errors::Refusal;
use super::push_nar::feed;
use super::{Shared, answer, body};
use crate::auth::subject::Subject;
use crate::listen::line::Line;
use crate::workers::{Workers, in_place};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use snowcache_core::upload;
use snowcache_nix::NarHash;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::Instrument;

/// NARs asked for, or paths committed, in one request.
const MAX_AT_ONCE: usize = 10_000;
/// 10,000 NarHashes of 59 characters with quotes and comma are 620 kB.
const MAX_NARS_BYTES: u64 = 1 << 20;
/// 10,000 narinfos of the usual 600 bytes, and some of the largest.
const MAX_COMMIT_BYTES: u64 = 32 << 20;
/// Pieces of a stream that wait while another is taken in: with the one that hyper holds three, of
/// `READ_OF_UPLOAD_BYTES` each at most, are lost when the server dies. What the kernel holds is
/// read at once when it is wanted, so that nothing is gained by more.
const QUEUED_PIECES: usize = 1;
/// What a sender calls its upload, so that it can ask how far it is: 32 hexadecimal digits.
const KEY: HeaderName = HeaderName::from_static("snowcache-upload");
/// Told at once; whoever asks in time is told of one frame at a time.
const TAKEN_AT_ONCE: u64 = 4096;
/// What a binary answer is.
const BINARY: &str = "application/octet-stream";

#[derive(Deserialize)]
struct AskedNars {
    nar_hashes: Vec<String>,
}

#[derive(Serialize)]
struct AbsentNars {
    absent: Vec<String>,
}

/// `POST /api/v1/uploads/nars`
pub async fn nars(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let text = whole(&app, &app.reads, &headers, body, MAX_NARS_BYTES).await?;
    let asked: AskedNars = body::parsed(&text, r#"{"nar_hashes": ["sha256:…", …]}"#)?;
    at_most(asked.nar_hashes.len(), "NarHashes")?;
    app.under_way.behind_what_was_cut(&subject).await;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let work = move || {
        let mut absent = Vec::new();
        for text in asked.nar_hashes {
            let nar: NarHash = text.parse().map_err(Refusal::malformed)?;
            if depot.held_nar(&cache, &nar)?.is_none() {
                absent.push(text);
            }
        }
        Ok::<_, Refusal>(absent)
    };
    let absent = app.reads.run(work).await?;
    Ok(json(&method, &AbsentNars { absent }))
}

/// `POST /api/v1/uploads/frames`
pub async fn frames(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let limit_bytes = upload::MAX_QUESTION_BYTES as u64;
    let question = whole(&app, &app.reads, &headers, body, limit_bytes).await?;
    let ids = upload::asked(&question)
        .map_err(|error| Refusal::malformed(format!("the question: {error}")))?;
    app.under_way.behind_what_was_cut(&subject).await;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let here = app
        .reads
        .run(move || depot.has_frames(&cache, &ids))
        .await?;
    let absent: Vec<bool> = here.into_iter().map(|here| !here).collect();
    Ok(answer(&method, BINARY, upload::answer(&absent)))
}

/// `POST /api/v1/uploads`
pub async fn stream(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    line: Option<Extension<Line>>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let uploads = &app.config.uploads;
    body::announced_within(&headers, uploads.max_nar_size_bytes, "the upload")?;
    let key = key(&headers)?;
    let wait = Duration::from_secs(uploads.wait_s);
    let place = app.uploads.place_within(wait).await?;
    tracing::debug!(phase = "receive", "an upload begins");
    let (queue, queued) = mpsc::channel(QUEUED_PIECES);
    // Before a byte of it is read: from here on these are few at a time.
    let line = line.map(|Extension(line)| line).unwrap_or_default();
    let upload = app.under_way.begin(&subject, key, &line);
    // A task of its own: when the connection breaks this handler is dropped, and what had been read
    // is still to be handed on.
    let feed = feed(body, queue, uploads.stall_timeout_s).in_current_span();
    let feed = tokio::spawn(feed);
    let work = {
        let app = app.clone();
        let take_in = move || {
            let taken = take::take_in(&app, &subject, &upload, queued);
            drop(upload);
            taken
        };
        in_place(place, take_in)
    };
    let taken = match tokio::join!(feed, work) {
        (Err(_), _) => return Err(Refusal::internal()),
        // Why the body ended is the better answer than that it did.
        (Ok(Err(refusal)), _) => return Err(refusal),
        (Ok(Ok(())), worked) => worked?,
    };
    tracing::debug!(phase = "acknowledge", "an upload is durable");
    Ok(json(&method, &taken))
}

fn key(headers: &HeaderMap) -> Result<Option<Key>, Refusal> {
    let key = headers.get(KEY).map(|key| key.to_str().unwrap_or_default());
    key.map(str::parse).transpose().map_err(Refusal::malformed)
}

/// `GET /api/v1/uploads/taken/<key>`: a byte for each frame of an upload that is taken, at once and
/// until the upload ends; 204 where its sender is so far away that it does better not to wait.
pub async fn taken(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(key): Path<String>,
) -> Result<Response, Refusal> {
    let key = key.parse::<Key>().map_err(Refusal::malformed)?;
    let progress = app.under_way.progress(&subject, key).await;
    let progress = progress.ok_or_else(|| Refusal::missing("no such upload has begun"))?;
    Ok(told(progress))
}

fn told(progress: Progress) -> Response {
    if !progress.is_near {
        return StatusCode::NO_CONTENT.into_response();
    }
    let bytes = futures::stream::unfold((progress.frames, 0), |(mut frames, told)| async move {
        let taken = *frames.wait_for(|taken| *taken > told).await.ok()?;
        let more = (taken - told).min(TAKEN_AT_ONCE);
        let dots = vec![b'.'; more as usize];
        Some((Ok::<_, Infallible>(dots), (frames, told + more)))
    });
    let mut response = Response::new(Body::from_stream(bytes));
    let unbuffered = HeaderName::from_static("x-accel-buffering"); // nginx's
    let headers = response.headers_mut();
    headers.insert(unbuffered, HeaderValue::from_static("no"));
    response
}

/// `POST /api/v1/uploads/commit`
pub async fn commit(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let text = whole(&app, &app.commits, &headers, body, MAX_COMMIT_BYTES).await?;
    let asked: commit::Asked = body::parsed(&text, r#"{"paths": ["<narinfo>", …]}"#)?;
    at_most(asked.paths.len(), "paths")?;
    at_most(asked.vouched.len(), "vouched paths")?;
    let commits = app.commits.clone();
    let work = move || commit::commit(&app, &subject, &asked);
    let committed = commits.run(work).await?;
    let mut response = json(&method, &committed);
    *response.status_mut() = committed.status();
    Ok(response)
}

async fn whole(
    app: &Shared,
    workers: &Workers,
    headers: &HeaderMap,
    body: Body,
    limit_bytes: u64,
) -> Result<Vec<u8>, Refusal> {
    let stall_s = app.config.uploads.stall_timeout_s;
    body::whole(headers, body, limit_bytes, stall_s, workers, "the request").await
}

fn at_most(count: usize, what: &str) -> Result<(), Refusal> {
    match count <= MAX_AT_ONCE {
        true => Ok(()),
        false => Err(Refusal::too_large(format!(
            "send at most {MAX_AT_ONCE} {what} at once"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use tokio::sync::watch;

    #[tokio::test]
    async fn who_is_far_away_is_told_not_to_wait() {
        for is_near in [true, false] {
            let (counted, frames) = watch::channel(3);
            let answer = told(Progress { is_near, frames });
            drop(counted);
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("whole");
            let (status, body) = (status.as_u16(), body.to_bytes());
            match is_near {
                true => assert_eq!((status, &body[..]), (200, &b"..."[..])),
                false => assert_eq!((status, &body[..]), (204, &b""[..])),
            }
        }
    }
}
