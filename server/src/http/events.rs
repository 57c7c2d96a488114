//! `GET /api/v1/events`: a stream that tells when pins move and paths become visible, as
//! Server-Sent Events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).
//!
//! ```text
//!   ?pin=web&path=<hash> --listen--> look at what is there --> : listening
//!                                          what is there already, at once
//!                                          what happens, until either side ends
//!
//!   event: pin-moved    data: {"name":"web","generation":4}
//!   event: path-ready   data: {"paths":["<hash>",…]}
//!   event: lost         data: {}     more happened than the client took: it is to ask anew
//! ```
//! Guarantees: what is so before the stream begins, or becomes so while it lasts, is told, perhaps
//! twice; nobody hears of a cache that they may not read, nor for longer than they may. Never: a
//! publisher that waits; a stream that keeps the server from ending.

use super::errors::Refusal;
use super::pins::{pin_name, store_path};
use super::router::peer;
use super::{App, Shared};
use crate::auth::subject::Scope;
use crate::caches::title;
use crate::events::{Event, Heard, Listener, Refused, Wanted};
use crate::listen::Peer;
use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use serde_json::json;
use snowcache_core::events::{KEEP_ALIVE, MAX_WANTED};
use snowcache_nix::StoreHash;
use std::collections::HashSet;
use std::convert::Infallible;
use tokio::time::timeout;

/// The first line, so that whoever asked knows that it is heard, and so do proxies in between.
const LISTENING: Bytes = Bytes::from_static(b": listening\n\n");
/// A comment.
const ALIVE: Bytes = Bytes::from_static(b":\n\n");
/// The last event of whoever was too slow.
const LOST: Bytes = Bytes::from_static(b"event: lost\ndata: {}\n\n");

/// nginx holds answers back until it has a bufferful, unless told not to.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET`
pub async fn get(State(app): State<Shared>, request: Request) -> Result<Response, Refusal> {
    let wanted = wanted(&request)?;
    let listener = app.events.listen(app.number, wanted.clone());
    let listener = listener.map_err(refusal)?;
    let already = already(&app, wanted).await?;
    let first = std::iter::once(LISTENING).chain(already);
    let told = Telling {
        reader: Reader::new(app, &request),
        listener: Some(listener),
    };
    let told = stream::unfold(told, |mut it| async { Some((it.next().await?, it)) });
    let body = stream::iter(first).chain(told);
    let mut response = Response::new(Body::from_stream(body.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (BUFFERING, "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

fn wanted(request: &Request) -> Result<HashSet<Wanted>, Refusal> {
    let asked = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    let Query(asked) = asked.map_err(Refusal::malformed)?;
    let mut wanted = HashSet::new();
    for (key, value) in asked {
        wanted.insert(match key.as_str() {
            "pin" => Wanted::Pin(pin_name(&value)?),
            "path" => Wanted::Path(hash(&value)?),
            _ => return Err(ask_for("what is to be told")),
        });
    }
    match wanted.len() {
        0 => Err(ask_for("what is to be told")),
        1..=MAX_WANTED => Ok(wanted),
        _ => Err(ask_for(&format!("at most {MAX_WANTED} pins and paths"))),
    }
}

fn ask_for(what: &str) -> Refusal {
    let sentence = format!("say {what}: ?pin=NAME and ?path=HASH, each as often as wanted");
    Refusal::malformed(sentence)
}

fn hash(text: &str) -> Result<StoreHash, Refusal> {
    if let Ok(hash) = text.parse() {
        return Ok(hash);
    }
    let path = store_path(text).map_err(Refusal::malformed)?;
    Ok(path.hash())
}

fn refusal(refused: Refused) -> Refusal {
    let (status, sentence) = match refused {
        Refused::Ending => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is about to end; listen again in a while".to_owned(),
        ),
        Refused::TooMany(places) => (
            StatusCode::TOO_MANY_REQUESTS,
            format!(
                "{places} listen to events already, half of http.max_connections; ask by \
                 interval, and listen again in a while"
            ),
        ),
    };
    Refusal::new(status, sentence).retry()
}

/// What is so now, as events.
async fn already(app: &Shared, wanted: HashSet<Wanted>) -> Result<Vec<Bytes>, Refusal> {
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let look = move || {
        let (mut events, mut paths) = (Vec::new(), Vec::new());
        for one in wanted {
            match one {
                Wanted::Path(path) => paths.push(path),
                Wanted::Pin(name) => {
                    let pin = depot.pin(&cache, &name)?;
                    events.extend(pin.map(|pin| Event::Moved(name, pin.current)));
                }
            }
        }
        let has = depot.has(&cache, &paths)?;
        let here = paths.into_iter().zip(has).filter(|(_, has)| *has);
        let here: Vec<StoreHash> = here.map(|(path, _)| path).collect();
        if !here.is_empty() {
            events.push(Event::Ready(here));
        }
        Ok::<_, snowcache_depot::Error>(events.iter().map(text).collect())
    };
    app.reads.run(look).await
}

fn text(event: &Event) -> Bytes {
    let (kind, data) = match event {
        Event::Moved(name, generation) => (
            "pin-moved",
            json!({ "name": name, "generation": generation }),
        ),
        Event::Ready(paths) => {
            let paths: Vec<String> = paths.iter().map(StoreHash::to_string).collect();
            ("path-ready", json!({ "paths": paths }))
        }
    };
    format!("event: {kind}\ndata: {data}\n\n").into()
}

/// A stream under way.
struct Telling {
    reader: Reader,
    /// None behind the last event.
    listener: Option<Listener>,
}

impl Telling {
    async fn next(&mut self) -> Option<Bytes> {
        let heard = timeout(KEEP_ALIVE, self.listener.as_mut()?.next()).await;
        if !self.reader.may_read() {
            return None;
        }
        match heard {
            Err(_) => Some(ALIVE),
            Ok(Heard::Event(event)) => Some(text(&event)),
            Ok(Heard::Lost) => {
                self.listener = None;
                Some(LOST)
            }
            Ok(Heard::End) => None,
        }
    }
}

/// Who listens, and to what.
struct Reader {
    app: Shared,
    peer: Peer,
    /// Of the request, what says who it is.
    headers: HeaderMap,
}

impl Reader {
    fn new(app: Shared, request: &Request) -> Reader {
        let said = request.headers().get(header::AUTHORIZATION);
        let said = said.filter(|_| !app.is_public).cloned();
        Reader {
            peer: peer(request),
            headers: said
                .map(|it| (header::AUTHORIZATION, it))
                .into_iter()
                .collect(),
            app,
        }
    }

    /// Whether the cache is as it was when this began, and its tokens still let this reader in.
    fn may_read(&self) -> bool {
        let app: &App = &self.app;
        let is_here = app.cache.is_default() || {
            let named = app.caches.find(title(&app.cache));
            named.is_some_and(|it| it.number == app.number && it.settings.public == app.is_public)
        };
        let admitted = || app.admit(&self.peer, &self.headers, Scope::Pull).is_ok();
        is_here && (app.is_public || admitted())
    }
}
