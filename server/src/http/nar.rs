//! NARs on their way out.
//!
//! ```text
//!   /nar/<narhash>-<enc>.nar.zst   the stored frames as they lie; <enc> names these very bytes
//!   /nar/<narhash>.nar             the NAR itself
//!   /push/nar/<uploaded name>      the NAR in the codec it was uploaded in, packed anew, whole
//! ```
//!
//! Guarantees: exact Content-Length, Range, ETag for the first two, whose bytes never change under
//! their URL; an encoding that is no more gets the current one whole, but a Range of it 412, so
//! that no client ever mixes the two. Never: Content-Encoding (nix does not resume what has one).

use super::codec::Codec;
use super::codec::encode::Encoded;
use super::errors::Refusal;
use super::kept_nars::{Key, SMALL_BYTES, Small};
use super::range::{Wanted, asks_for_part, wanted};
use super::sending::{First, Sending, View};
use super::{App, Shared, answer, body};
use crate::auth::subject::Place;
use crate::listen::outlet::Outlet;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures::stream;
use snowcache_depot::{CacheName, Depot, Encoding, KeptNar, NarReader, UploadInfo};
use snowcache_nix::NarHash;
use std::convert::Infallible;
use std::ops::Range;
use tokio::sync::OwnedSemaphorePermit;

/// A year, as much as caches honour: the URL names the bytes.
const FOREVER: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const NAR_TYPE: &str = "application/x-nix-nar";
const BYTES: HeaderValue = HeaderValue::from_static("bytes");

/// What a file name under `nar/` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    /// `<narhash>-<enc>.nar.zst`
    Encoded(NarHash, String),
    /// `<narhash>.nar`
    Raw(NarHash),
}

impl Name {
    fn parse(file: &str) -> Option<Name> {
        if let Some(stem) = file.strip_suffix(".nar.zst") {
            let (hash, enc) = stem.split_once('-')?;
            return Some(Name::Encoded(
                NarHash::from_base32(hash).ok()?,
                enc.to_owned(),
            ));
        }
        let hash = file.strip_suffix(".nar")?;
        Some(Name::Raw(NarHash::from_base32(hash).ok()?))
    }

    fn hash(&self) -> &NarHash {
        match self {
            Name::Encoded(hash, _) | Name::Raw(hash) => hash,
        }
    }

    fn encoding(&self) -> Option<&str> {
        match self {
            Name::Encoded(_, enc) => Some(enc),
            Name::Raw(_) => None,
        }
    }

    fn etag(&self) -> String {
        match self {
            Name::Encoded(hash, enc) => format!("\"{}-{enc}\"", hash.base32()),
            Name::Raw(hash) => format!("\"{}\"", hash.base32()),
        }
    }

    /// What of the NAR it names.
    fn part_of(&self, reader: &NarReader) -> Part {
        match self {
            Name::Encoded(_, enc) if *enc != reader.encoding().name => Part::Replaced,
            Name::Encoded(..) => Part::Encoded,
            Name::Raw(_) => Part::Raw,
        }
    }

    fn into_key(self, cache: u32) -> Key {
        match self {
            Name::Encoded(hash, enc) => (cache, hash, Some(enc)),
            Name::Raw(hash) => (cache, hash, None),
        }
    }
}

/// The file name of a NAR's current encoding.
pub fn current_name(hash: &NarHash, encoding: &Encoding) -> String {
    format!("{}-{}.nar.zst", hash.base32(), encoding.name)
}

/// `GET`, `HEAD /nar/{file}`
pub async fn get(
    State(app): State<Shared>,
    method: Method,
    headers: HeaderMap,
    outlet: Option<Extension<Outlet>>,
    Path(file): Path<String>,
) -> Result<Response, Refusal> {
    let to = To {
        method,
        headers,
        outlet: outlet.map(|Extension(outlet)| outlet),
    };
    published(&app, &to, &file).await
}

/// Whom an answer goes to.
struct To {
    method: Method,
    headers: HeaderMap,
    /// None where the request did not come through a connection of ours.
    outlet: Option<Outlet>,
}

async fn published(app: &App, to: &To, file: &str) -> Result<Response, Refusal> {
    let name = Name::parse(file).ok_or_else(missing)?;
    if let Some(response) = known(app, &to.method, &to.headers, &name) {
        return Ok(response);
    }
    let whole = to.method == Method::GET && !is_conditional(&to.headers);
    let known = app
        .layouts
        .get(&app.depot, &(app.number, *name.hash(), None));
    let known = known.map(|reader| (name.part_of(&reader), reader));
    // One that was replaced may still be kept, but not in memory.
    let known = known.filter(|(part, _)| !matches!(part, Part::Replaced));
    let (reader, part, first) = match known {
        Some((part, reader)) if !(whole && part.is_small(&reader)) => (reader, part, None),
        _ => {
            let (depot, cache, asked) = (app.depot.clone(), app.cache.clone(), name.clone());
            let place = app.windows.copied();
            let find = move || find(&depot, &cache, &asked, whole, place);
            match app.reads.run(find).await?.ok_or_else(missing)? {
                Found::Small(small) => {
                    let response = small_answer(&to.method, small.made().clone());
                    app.small_nars.put(name.into_key(app.number), small);
                    return Ok(response);
                }
                Found::Lies(kept, part, first) => {
                    let reader = kept.made().clone();
                    if reader.is_known() && reader.is_current() {
                        app.layouts.put((app.number, *name.hash(), None), kept);
                    }
                    (reader, part, first)
                }
            }
        }
    };
    if matches!(part, Part::Replaced) {
        return replaced(app, to, &reader).await;
    }
    let size_bytes = part.size_bytes(&reader);
    let etag = name.etag();
    let mut response = match wanted(&to.headers, &etag, size_bytes) {
        Wanted::Nothing => with_status(StatusCode::NOT_MODIFIED, Body::empty()),
        Wanted::Whole => {
            let all = 0..size_bytes;
            partial(app, to, &reader, &part, all, StatusCode::OK, first).await?
        }
        Wanted::Part(range) => {
            let span = format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1);
            let status = StatusCode::PARTIAL_CONTENT;
            let mut response = partial(app, to, &reader, &part, range, status, None).await?;
            response
                .headers_mut()
                .insert(header::CONTENT_RANGE, ascii(span));
            response
        }
        Wanted::Unsatisfiable => {
            let sentence = format!("the range lies beyond the {size_bytes} bytes that there are");
            let all = ascii(format!("bytes */{size_bytes}"));
            return Err(Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, sentence)
                .with(header::CONTENT_RANGE, all)
                .with(header::ACCEPT_RANGES, BYTES));
        }
    };
    let answered = response.headers_mut();
    answered.insert(header::ETAG, ascii(etag));
    answered.insert(header::CACHE_CONTROL, FOREVER);
    answered.insert(header::ACCEPT_RANGES, BYTES);
    Ok(response)
}

/// A NAR that was looked up.
enum Found {
    /// All of it, where it is small and was wanted whole.
    Small(KeptNar<Small>),
    /// Where it lies, and what is sent first, where it was wanted whole and lies ready.
    Lies(KeptNar<NarReader>, Part, Option<First>),
}

/// Looks a NAR up, and reads what can be sent of it at once.
fn find(
    depot: &Depot,
    cache: &CacheName,
    name: &Name,
    whole: bool,
    place: Option<OwnedSemaphorePermit>,
) -> snowcache_depot::Result<Option<Found>> {
    let Some(kept) = depot.keep_nar(cache, name.hash(), name.encoding())? else {
        return Ok(None);
    };
    let part = name.part_of(kept.made());
    let found = match part.is_small(kept.made()) {
        true if whole => read_small(kept, &part, name).map(Found::Small),
        _ if whole => begin(kept, &part, place).map(|(kept, first)| Found::Lies(kept, part, first)),
        _ => Ok(Found::Lies(kept, part, None)),
    };
    match found {
        // One found damaged just now is not here any more, so that the client goes elsewhere.
        Err(_) if depot.nar(cache, name.hash())?.is_none() => Ok(None),
        Err(error) => Err(error),
        Ok(found) => Ok(Some(found)),
    }
}

fn read_small(
    kept: KeptNar<NarReader>,
    part: &Part,
    name: &Name,
) -> snowcache_depot::Result<KeptNar<Small>> {
    let reader = kept.made();
    let mut bytes = BytesMut::with_capacity(part.size_bytes(reader) as usize);
    let mut chunks = match part {
        Part::Raw => reader.raw(0..u64::MAX),
        _ => reader.encoded(0..u64::MAX),
    };
    chunks.try_for_each(|chunk| chunk.map(|it| bytes.extend_from_slice(&it)))?;
    let (bytes, etag) = (bytes.freeze(), ascii(name.etag()));
    Ok(kept.map(|_| Small { bytes, etag }))
}

/// Takes the layout into memory, and makes ready what is sent first of an encoding.
fn begin(
    kept: KeptNar<NarReader>,
    part: &Part,
    place: Option<OwnedSemaphorePermit>,
) -> snowcache_depot::Result<(KeptNar<NarReader>, Option<First>)> {
    let kept = kept.with_layout()?;
    if !matches!(part, Part::Encoded) {
        return Ok((kept, None));
    }
    let mut chunks = kept.made().encoded(0..u64::MAX);
    if place.is_none() {
        chunks = chunks.lean();
    }
    let pieces = chunks.window()?;
    Ok((kept, Some(First { pieces, place })))
}

/// The answer to who asks for a whole NAR that is kept in memory.
fn known(app: &App, method: &Method, headers: &HeaderMap, name: &Name) -> Option<Response> {
    if is_conditional(headers) {
        return None;
    }
    let small = app
        .small_nars
        .get(&app.depot, &name.clone().into_key(app.number))?;
    Some(small_answer(method, small))
}

/// The same, for a request that has not come through the router: its path under `nar/`.
pub fn known_file(app: &App, method: &Method, headers: &HeaderMap, file: &str) -> Option<Response> {
    known(app, method, headers, &Name::parse(file)?)
}

/// Whether something else than the whole may be the answer.
fn is_conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(header::RANGE) || headers.contains_key(header::IF_NONE_MATCH)
}

fn small_answer(method: &Method, small: Small) -> Response {
    let mut response = answer(method, NAR_TYPE, small.bytes);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, small.etag);
    headers.insert(header::CACHE_CONTROL, FOREVER);
    headers.insert(header::ACCEPT_RANGES, BYTES);
    response
}

/// The encoding that was asked for is gone: what has been begun cannot be continued, what begins
/// now gets the current.
async fn replaced(app: &App, to: &To, reader: &NarReader) -> Result<Response, Refusal> {
    if asks_for_part(&to.headers) {
        return Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            "this encoding of the NAR is no longer served; fetch the narinfo again, and the whole \
             of the URL it names",
        )
        .with(header::CACHE_CONTROL, NO_STORE));
    }
    let all = 0..reader.encoding().size_bytes;
    let mut response = partial(app, to, reader, &Part::Encoded, all, StatusCode::OK, None).await?;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, NO_STORE);
    Ok(response)
}

enum Part {
    Encoded,
    Raw,
    Replaced,
}

impl Part {
    fn view(&self) -> View {
        match self {
            Part::Raw => View::Raw,
            Part::Encoded | Part::Replaced => View::Encoded,
        }
    }

    /// Whether it is kept in memory whole.
    fn is_small(&self, reader: &NarReader) -> bool {
        !matches!(self, Part::Replaced) && self.size_bytes(reader) <= SMALL_BYTES
    }

    fn size_bytes(&self, reader: &NarReader) -> u64 {
        match self {
            Part::Raw => reader.nar().nar_size_bytes,
            Part::Encoded | Part::Replaced => reader.encoding().size_bytes,
        }
    }
}

async fn partial(
    app: &App,
    to: &To,
    reader: &NarReader,
    part: &Part,
    range: Range<u64>,
    status: StatusCode,
    first: Option<First>,
) -> Result<Response, Refusal> {
    let length = range.end - range.start;
    let body = match (&to.outlet, part) {
        _ if to.method == Method::HEAD => Ok(Body::empty()),
        (Some(outlet), _) => {
            let view = part.view();
            let sending = Sending::start(app, reader, view, range, first).await;
            sending.map(|sending| outlet.body(Box::new(sending), length))
        }
        (None, Part::Raw) => body::streamed(&app.reads, reader.raw(range)).await,
        (None, _) => body::streamed(&app.reads, reader.encoded(range)).await,
    };
    let body = match body {
        Ok(body) => body,
        Err(refusal) => return Err(unreadable(app, reader, refusal).await),
    };
    let mut response = with_status(status, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NAR_TYPE));
    Ok(response)
}

/// What a NAR that does not read is answered: one found damaged just now is not here any more, so
/// that the client goes elsewhere.
async fn unreadable(app: &App, reader: &NarReader, refusal: Refusal) -> Refusal {
    let (depot, cache, hash) = (app.depot.clone(), app.cache.clone(), reader.nar().nar_hash);
    let found = app.reads.run(move || depot.nar(&cache, &hash)).await;
    match found {
        Ok(None) => missing(),
        _ => refusal,
    }
}

/// `GET`, `HEAD /push/nar/{file}`
pub async fn get_uploaded(
    State(app): State<Shared>,
    method: Method,
    headers: HeaderMap,
    outlet: Option<Extension<Outlet>>,
    Path(file): Path<String>,
) -> Result<Response, Refusal> {
    let (depot, cache, name) = (app.depot.clone(), app.cache.clone(), file.clone());
    let find = move || -> Result<_, snowcache_depot::Error> {
        let Some(upload) = depot.upload(&cache, &name)? else {
            return Ok(None);
        };
        let visible = depot.nar(&cache, &upload.nar.nar_hash)?.is_some();
        Ok(depot
            .uploaded_nar(&cache, &name)?
            .map(|reader| (upload, reader, visible)))
    };
    match app.reads.run(find).await? {
        // A NAR that no narinfo has made visible yet is its uploader's business.
        Some((upload, reader, visible))
            if visible || app.gate.knows(&headers, Place::Cache(&app.cache)) =>
        {
            uploaded(&app, &method, &upload, &reader).await
        }
        _ => {
            let to = To {
                method,
                headers,
                outlet: outlet.map(|Extension(outlet)| outlet),
            };
            published(&app, &to, &file).await
        }
    }
}

async fn uploaded(
    app: &App,
    method: &Method,
    upload: &UploadInfo,
    reader: &NarReader,
) -> Result<Response, Refusal> {
    let codec = Codec::from_name(&upload.codec).unwrap_or(Codec::None);
    let nar_size_bytes = upload.nar.nar_size_bytes;
    let body = if method == Method::HEAD {
        // Of unknown length, like the packed NAR: an empty body would be announced as such.
        Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())
    } else {
        let raw = reader
            .raw(0..nar_size_bytes)
            .map(|chunk| chunk.map_err(Refusal::from));
        let packed = Encoded::new(codec, raw).map_err(Refusal::from)?;
        body::streamed(&app.reads, packed).await?
    };
    let mut response = with_status(StatusCode::OK, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(NAR_TYPE));
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    if codec == Codec::None {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(nar_size_bytes));
    }
    Ok(response)
}

fn missing() -> Refusal {
    Refusal::missing("no NAR of this name is in this cache")
}

fn with_status(status: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn ascii(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("invariant: made of digits, base32 and punctuation")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_which_bytes() {
        let hash = NarHash::from_bytes([7; 32]);
        let base32 = hash.base32();
        assert_eq!(Name::parse(&format!("{base32}.nar")), Some(Name::Raw(hash)));
        let encoded = Name::Encoded(hash, "abc".to_owned());
        assert_eq!(Name::parse(&format!("{base32}-abc.nar.zst")), Some(encoded));
        for other in [
            "",
            "x.nar",
            "x-abc.nar.zst",
            ".nar",
            &format!("{base32}.nar.xz"),
            &base32,
        ] {
            assert_eq!(Name::parse(other), None, "{other}");
        }
    }
}
