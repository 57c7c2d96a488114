//! `PUT /push/nar/<name>`: a NAR on its way in.
//!
//! ```text
//!   body --frames--> queue (bounded) --> one thread: sniff > decode > ingest > fsync --> 200
//!             '-- nothing for stall_timeout_s: 408
//! ```
//! Guarantees: answered 200 only when the NAR and its name are durable; a body that ends early,
//! however it ends, leaves nothing behind; memory is the queue, one decoder and what the depot
//! holds. Never: what the client says of the bytes.

pub(super) mod received;

use super::codec::decode::{DecodeError, decode};
use super::codec::sniff::{HEAD_BYTES, sniff};
use super::errors::Refusal;
use super::{App, Shared, body};
use crate::auth::subject::Subject;
use crate::clock::now_unix_s;
use crate::workers::in_place;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use received::{Message, Received, Stop};
use snowcache_depot::{Error, ErrorKind, Nar, Upload};
use std::cell::Cell;
use std::time::Duration;
use tokio::sync::mpsc;

/// Pieces of a body that wait for the decoder: 4 of at most 256 KiB, as large as a connection reads
/// at a time.
const QUEUED_PIECES: usize = 4;

/// The longest name: Nix's are 52 characters of hash, `.nar` and a suffix.
const MAX_NAME_BYTES: usize = 200;

/// Up to here a NAR may expand as it likes: a GiB of zeros costs a second, and disk images begin
/// with such.
const FREE_EXPANSION_BYTES: u64 = 1 << 30;

/// `PUT`
pub async fn put(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    check_name(&name)?;
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a NAR is sent without Content-Encoding; its codec is that of its name",
        ));
    }
    let uploads = &app.config.uploads;
    body::announced_within(&headers, uploads.max_nar_size_bytes, "the NAR")?;
    let place = app
        .uploads
        .place_within(Duration::from_secs(uploads.wait_s))
        .await?;
    tracing::debug!(phase = "receive", name, "a NAR begins");
    let (queue, queued) = mpsc::channel(QUEUED_PIECES);
    let feed = feed(body, queue, uploads.stall_timeout_s);
    let work = {
        let (app, name) = (app.clone(), name.clone());
        in_place(place, move || take_in(&app, subject, &name, queued))
    };
    let nar = match tokio::join!(feed, work) {
        // Why the body ended is the better answer than that it did.
        (Err(refusal), _) => return Err(refusal),
        (Ok(()), worked) => worked?,
    };
    let nar_size_bytes = nar.nar_size_bytes;
    let nar_hash = nar.nar_hash;
    tracing::debug!(phase = "acknowledge", name, %nar_hash, nar_size_bytes, "a NAR is durable");
    Ok(StatusCode::OK.into_response())
}

fn check_name(name: &str) -> Result<(), Refusal> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=:".contains(&byte);
    if name.len() > MAX_NAME_BYTES
        || !name.contains(".nar")
        || !name.bytes().all(plain)
        || name.starts_with('.')
    {
        return Err(Refusal::malformed(
            "a NAR's name is like nar/<hash>.nar.xz: letters, digits and -._+, with .nar in it, \
             at most 200 characters",
        ));
    }
    Ok(())
}

/// Hands the body on, as fast as it is taken, and reads no more of it while the queue is full; the
/// end is said, so that it cannot be confused with a broken connection.
pub(super) async fn feed(
    mut body: Body,
    queue: mpsc::Sender<Message>,
    stall_timeout_s: u64,
) -> Result<(), Refusal> {
    loop {
        let Ok(place) = queue.reserve().await else {
            // The other side knows enough and says why.
            return Ok(());
        };
        match body::next_bytes(&mut body, stall_timeout_s).await? {
            Some(bytes) => place.send(Message::Bytes(bytes)),
            None => {
                place.send(Message::End);
                return Ok(());
            }
        }
    }
}

/// Everything that blocks, on a thread of its own.
fn take_in(
    app: &App,
    subject: Subject,
    name: &str,
    queued: mpsc::Receiver<Message>,
) -> Result<Nar, Refusal> {
    let uploads = &app.config.uploads;
    let file_size_bytes = Cell::new(0);
    let mut input = Received::new(queued, &file_size_bytes, uploads.max_nar_size_bytes);
    let head = input
        .head(HEAD_BYTES)
        .map_err(|error| stopped(app, &error).unwrap_or_else(Refusal::internal))?;
    let codec =
        sniff(&head, name).map_err(|error| Refusal::refused(format!("nar/{name}: {error}")))?;
    app.depot.check_quota(&app.cache)?;
    let mut ingest = app.depot.ingest()?;
    if app.caches.are_there() {
        ingest.pack_anew();
    }
    let mut unpacked_bytes = 0;
    let result = decode(
        codec,
        &mut input,
        uploads.decoder_memory_bytes,
        &mut |bytes: &[u8]| {
            unpacked_bytes += bytes.len() as u64;
            check_size(app, unpacked_bytes, file_size_bytes.get())?;
            ingest.write(bytes).map_err(|error| about(name, error))
        },
    );
    match result {
        Ok(()) => {}
        Err(DecodeError::Sink(refusal)) => return Err(refusal),
        Err(error) => {
            let ours = match &error {
                DecodeError::Stream(_, source) => stopped(app, source),
                _ => None,
            };
            let theirs = || Refusal::refused(format!("nar/{name}: {error}; upload it again"));
            return Err(ours.unwrap_or_else(theirs));
        }
    }
    let file_size_bytes = file_size_bytes.get();
    tracing::debug!(
        phase = "spool",
        name,
        codec = codec.name(),
        file_size_bytes,
        unpacked_bytes,
        "a NAR has ended"
    );
    let upload = Upload {
        cache: app.cache.clone(),
        name: name.to_owned(),
        codec: codec.name().to_owned(),
        file_size_bytes,
        subject: subject.as_str().to_owned(),
        expires_unix_s: now_unix_s() + uploads.lease_s,
    };
    let nar = ingest.finish(upload).map_err(|error| about(name, error))?;
    app.metrics.uploaded(file_size_bytes, nar.nar_size_bytes);
    Ok(nar)
}

fn check_size(app: &App, unpacked_bytes: u64, file_size_bytes: u64) -> Result<(), Refusal> {
    let uploads = &app.config.uploads;
    if unpacked_bytes > uploads.max_nar_size_bytes {
        return Err(body::over(uploads.max_nar_size_bytes, "the NAR, unpacked,"));
    }
    let expansion = uploads.max_expansion;
    if unpacked_bytes > FREE_EXPANSION_BYTES && unpacked_bytes / expansion > file_size_bytes {
        return Err(Refusal::too_large(format!(
            "the NAR unpacks to more than {expansion} times its size; send it in another codec or \
             uncompressed"
        )));
    }
    Ok(())
}

/// Our own reason for having ended the input, if it was that.
fn stopped(app: &App, error: &std::io::Error) -> Option<Refusal> {
    Some(match error.get_ref()?.downcast_ref::<Stop>()? {
        Stop::CutShort => {
            Refusal::malformed("the connection broke before the NAR's end; send it again")
        }
        Stop::TooLarge => body::over(app.config.uploads.max_nar_size_bytes, "the NAR"),
    })
}

/// A depot's refusal, with the name of what it is about; its other errors as they are.
fn about(name: &str, error: Error) -> Refusal {
    match error.kind() {
        ErrorKind::BadNar | ErrorKind::Refused => Refusal::refused(format!("nar/{name}: {error}")),
        _ => error.into(),
    }
}
