//! Bodies, both ways: small ones whole and bounded, large ones as streams that hold no thread while
//! they wait.

use super::App;
use super::codec::Codec;
use super::codec::decode::{DecodeError, decode};
use super::errors::Refusal;
use crate::workers::Workers;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::timeout;

/// A few fields and white space.
const MAX_QUESTION_BYTES: u64 = 4096;

/// One frame of a request's body; `None` at its end.
///
/// # Errors
/// 408 when nothing comes for `stall_timeout_s`, 400 when the connection breaks.
pub async fn next_bytes(body: &mut Body, stall_timeout_s: u64) -> Result<Option<Bytes>, Refusal> {
    loop {
        let frame = timeout(Duration::from_secs(stall_timeout_s), body.frame())
            .await
            .map_err(|_| {
                let sentence =
                    format!("no byte of the body came for {stall_timeout_s} s; send it again");
                Refusal::new(StatusCode::REQUEST_TIMEOUT, sentence)
            })?;
        match frame {
            None => return Ok(None),
            Some(Err(error)) => {
                return Err(Refusal::malformed(format!(
                    "the body was cut short ({error}); send it again"
                )));
            }
            // Trailers are not ours.
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                _ => {}
            },
        }
    }
}

/// Refuses a body whose announced length is over the limit, before a byte of it is read.
///
/// # Errors
/// 413
pub fn announced_within(headers: &HeaderMap, limit_bytes: u64, what: &str) -> Result<(), Refusal> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    let announced: Option<u64> = announced.and_then(|length| length.parse().ok());
    match announced {
        Some(length) if length > limit_bytes => Err(over(limit_bytes, what)),
        _ => Ok(()),
    }
}

/// The sentence of every 413.
pub fn over(limit_bytes: u64, what: &str) -> Refusal {
    Refusal::too_large(format!(
        "{what} is larger than the {limit_bytes} bytes that this cache takes"
    ))
}

/// A question in JSON; `expected` is its shape, for whoever got it wrong.
///
/// # Errors
/// 400 with that shape and what is wrong.
pub fn parsed<T: DeserializeOwned>(text: &[u8], expected: &str) -> Result<T, Refusal> {
    serde_json::from_slice(text)
        .map_err(|error| Refusal::malformed(format!("expected {expected}: {error}")))
}

/// The question of a request that starts something, which may be empty: then all is as usual.
///
/// # Errors
/// As [`whole`] and [`parsed`].
pub async fn question<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
    expected: &str,
) -> Result<T, Refusal> {
    let (limit, stall_s) = (MAX_QUESTION_BYTES, app.config.uploads.stall_timeout_s);
    let text = whole(headers, body, limit, stall_s, &app.reads, "the question").await?;
    parsed(if text.is_empty() { b"{}" } else { &text }, expected)
}

/// A whole body of at most `limit_bytes`, as sent and as its `Content-Encoding` unpacks.
///
/// # Errors
/// 413 beyond the limit, 400 for a broken body or encoding, 415 for an encoding of no codec of
/// ours, 408.
pub async fn whole(
    headers: &HeaderMap,
    mut body: Body,
    limit_bytes: u64,
    stall_timeout_s: u64,
    workers: &Workers,
    what: &'static str,
) -> Result<Vec<u8>, Refusal> {
    let codec = content_encoding(headers)?;
    announced_within(headers, limit_bytes, what)?;
    let mut packed = Vec::new();
    while let Some(bytes) = next_bytes(&mut body, stall_timeout_s).await? {
        if (packed.len() + bytes.len()) as u64 > limit_bytes {
            return Err(over(limit_bytes, what));
        }
        packed.extend_from_slice(&bytes);
    }
    match codec {
        Codec::None => Ok(packed),
        codec => {
            workers
                .run(move || unpack(codec, &packed, limit_bytes, what))
                .await
        }
    }
}

/// Reads a body to its end and keeps nothing of it.
///
/// # Errors
/// As [`whole`].
pub async fn discard(
    headers: &HeaderMap,
    mut body: Body,
    limit_bytes: u64,
    stall_timeout_s: u64,
    what: &str,
) -> Result<(), Refusal> {
    announced_within(headers, limit_bytes, what)?;
    let mut read = 0;
    while let Some(bytes) = next_bytes(&mut body, stall_timeout_s).await? {
        read += bytes.len() as u64;
        if read > limit_bytes {
            return Err(over(limit_bytes, what));
        }
    }
    Ok(())
}

fn content_encoding(headers: &HeaderMap) -> Result<Codec, Refusal> {
    let mut values = headers.get_all(header::CONTENT_ENCODING).iter();
    let (first, more) = (values.next(), values.next());
    let Some(value) = first else {
        return Ok(Codec::None);
    };
    let name = value
        .to_str()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match Codec::from_name(&name) {
        Some(codec) if more.is_none() => Ok(codec),
        _ => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Content-Encoding must be one of identity, xz, bzip2, gzip, deflate, zstd, br, lzip \
             or lz4",
        )),
    }
}

/// Decoders of small bodies need no more: xz -9, the largest preset, has a dictionary of 64 MiB.
const SMALL_DECODER_BYTES: u64 = 72 << 20;

fn unpack(codec: Codec, packed: &[u8], limit_bytes: u64, what: &str) -> Result<Vec<u8>, Refusal> {
    let mut unpacked = Vec::new();
    let mut input = packed;
    let result = decode(
        codec,
        &mut input,
        SMALL_DECODER_BYTES,
        &mut |bytes: &[u8]| {
            if (unpacked.len() + bytes.len()) as u64 > limit_bytes {
                return Err(over(limit_bytes, what));
            }
            unpacked.extend_from_slice(bytes);
            Ok(())
        },
    );
    match result {
        Ok(()) => Ok(unpacked),
        Err(DecodeError::Sink(refusal)) => Err(refusal),
        Err(error) => Err(Refusal::malformed(format!("{what}: {error}"))),
    }
}

/// Bytes fetched in one step: enough that the hop to a thread costs nothing, little enough for a
/// thousand downloads.
const STEP_BYTES: usize = 512 << 10;

/// Chunks below this are joined: a literal of a recipe has some 40 bytes.
const SMALL_BYTES: usize = 16 << 10;

/// An answer's body out of a blocking iterator: each step takes a place of `workers`, and none is
/// held in between.
///
/// The first chunks are fetched before this returns, so that what cannot be read is still answered
/// with a status.
///
/// # Errors
/// What the first step says.
pub async fn streamed<I, E>(workers: &Workers, chunks: I) -> Result<Body, Refusal>
where
    I: Iterator<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Refusal> + Send + 'static,
{
    let (ready, rest) = step(workers, chunks).await?;
    let start = (workers.clone(), ready, rest);
    Ok(Body::from_stream(futures::stream::unfold(
        start,
        |(workers, mut ready, mut rest)| async move {
            while ready.is_empty() {
                match step(&workers, rest?).await {
                    Ok(more) => (ready, rest) = more,
                    Err(refusal) => {
                        // The status line is gone: what is left is to end short of Content-Length,
                        // which clients notice.
                        tracing::error!(why = refusal.sentence(), "a body was cut off");
                        let cut_off = std::io::Error::other("cut off");
                        return Some((Err(cut_off), (workers, VecDeque::new(), None)));
                    }
                }
            }
            let next = ready
                .pop_front()
                .expect("invariant: the loop ends with something ready");
            Some((Ok(next), (workers, ready, rest)))
        },
    )))
}

/// What is ready to be sent, and where the rest comes from, if there is a rest.
type Step<I> = (VecDeque<Bytes>, Option<I>);

async fn step<I, E>(workers: &Workers, chunks: I) -> Result<Step<I>, Refusal>
where
    I: Iterator<Item = Result<Bytes, E>> + Send + 'static,
    E: Into<Refusal> + Send + 'static,
{
    workers.run(move || collect(chunks)).await
}

fn collect<I, E>(mut chunks: I) -> Result<Step<I>, E>
where
    I: Iterator<Item = Result<Bytes, E>>,
{
    let (mut ready, mut small, mut collected) = (VecDeque::new(), BytesMut::new(), 0);
    let mut rest = None;
    while let Some(chunk) = chunks.next().transpose()? {
        collected += chunk.len();
        if chunk.len() < SMALL_BYTES {
            small.extend_from_slice(&chunk);
        } else {
            ready.extend((!small.is_empty()).then(|| small.split().freeze()));
            ready.push_back(chunk);
        }
        if collected >= STEP_BYTES {
            rest = Some(chunks);
            break;
        }
    }
    ready.extend((!small.is_empty()).then(|| small.freeze()));
    Ok((ready, rest))
}
