//! Build logs, realisations and build traces; and what uploaders send that is thrown away.
//!
//! Guarantees: a document that was answered 2xx is durable; of realisations and build traces the
//! first one stays, of logs the last. Never: a listing or a debuginfo link of an uploader's making.

use super::errors::Refusal;
use super::{Shared, answer, body};
use crate::auth::subject::Subject;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use snowcache_depot::{Document, Stored};
use snowcache_nix::{Realisation, StorePath};

/// `GET`, `HEAD /log/<drv>`
pub async fn get_log(
    app: State<Shared>,
    method: Method,
    Path(drv): Path<String>,
) -> Result<Response, Refusal> {
    read(
        app,
        method,
        Document::Log,
        log_key(&drv).map_err(as_missing)?,
        "text/plain; charset=utf-8",
    )
    .await
}

/// `GET`, `HEAD /realisations/<id>.doi`
pub async fn get_realisation(
    app: State<Shared>,
    method: Method,
    Path(file): Path<String>,
) -> Result<Response, Refusal> {
    let key = realisation_key(&file).map_err(as_missing)?;
    read(app, method, Document::Realisation, key, "application/json").await
}

/// `GET`, `HEAD /build-trace-v2/<drv>/<output>.doi`
pub async fn get_build_trace(
    app: State<Shared>,
    method: Method,
    Path((drv, file)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let key = build_trace_key(&drv, &file).map_err(as_missing)?;
    read(app, method, Document::BuildTrace, key, "application/json").await
}

/// `GET`, `HEAD /debuginfo/<build-id>`: links into NARs are not made yet.
pub async fn get_debuginfo() -> Refusal {
    Refusal::missing("this cache has no debuginfo links")
}

/// `PUT /push/log/<drv>`
pub async fn put_log(
    app: State<Shared>,
    subject: Extension<Subject>,
    Path(drv): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let key = log_key(&drv)?;
    let limit_bytes = app.config.uploads.max_log_bytes;
    let log = receive(&app, &headers, body, limit_bytes, "the log").await?;
    store(app, subject, Document::Log, key, log).await
}

/// `PUT /push/realisations/<id>.doi`
pub async fn put_realisation(
    app: State<Shared>,
    subject: Extension<Subject>,
    Path(file): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let key = realisation_key(&file)?;
    let (json, realisation) = receive_realisation(&app, &headers, body).await?;
    match &realisation.id {
        Some(id) if id.to_string() == key => {}
        Some(id) => {
            let sentence =
                format!("the realisation is of {id}, its URL says {key}; put it under its own id");
            return Err(Refusal::refused(sentence));
        }
        None => {
            return Err(Refusal::malformed(
                "the realisation has no id; Nix writes one as \"id\"",
            ));
        }
    }
    store(app, subject, Document::Realisation, key, json).await
}

/// `PUT /push/build-trace-v2/<drv>/<output>.doi`
pub async fn put_build_trace(
    app: State<Shared>,
    subject: Extension<Subject>,
    Path((drv, file)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let key = build_trace_key(&drv, &file)?;
    let (json, _) = receive_realisation(&app, &headers, body).await?;
    store(app, subject, Document::BuildTrace, key, json).await
}

/// `PUT` of what is made here anew: read, so that the client can go on, and thrown away.
pub async fn discard(
    app: State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let uploads = &app.config.uploads;
    body::discard(
        &headers,
        body,
        uploads.max_listing_bytes,
        uploads.stall_timeout_s,
        "the file",
    )
    .await?;
    Ok(StatusCode::OK.into_response())
}

async fn receive_realisation(
    app: &Shared,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Vec<u8>, Realisation), Refusal> {
    let limit_bytes = app.config.uploads.max_narinfo_bytes;
    let json = receive(app, headers, body, limit_bytes, "the realisation").await?;
    let text = std::str::from_utf8(&json)
        .map_err(|_| Refusal::malformed("the realisation is not UTF-8"))?;
    let realisation = Realisation::parse(text).map_err(Refusal::malformed)?;
    Ok((json, realisation))
}

async fn receive(
    app: &Shared,
    headers: &HeaderMap,
    body: Body,
    limit_bytes: u64,
    what: &'static str,
) -> Result<Vec<u8>, Refusal> {
    tracing::debug!(phase = "receive", what, "a document begins");
    let stall_s = app.config.uploads.stall_timeout_s;
    body::whole(headers, body, limit_bytes, stall_s, &app.commits, what).await
}

async fn store(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    kind: Document,
    key: String,
    bytes: Vec<u8>,
) -> Result<Response, Refusal> {
    let (depot, cache, of) = (app.depot.clone(), app.cache.clone(), key.clone());
    let put = move || depot.put_document(&cache, kind, &key, &bytes, subject.as_str());
    if app.commits.run(put).await? == Stored::Conflict {
        // The loser of a race must not fail its build: the first one stays, and this is what tells
        // of the other.
        tracing::warn!(
            key = of,
            "a document was put again with other content; the first one stays"
        );
    }
    tracing::debug!(phase = "acknowledge", key = of, "a document is durable");
    Ok(StatusCode::OK.into_response())
}

async fn read(
    State(app): State<Shared>,
    method: Method,
    kind: Document,
    key: String,
    content_type: &'static str,
) -> Result<Response, Refusal> {
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    match app
        .reads
        .run(move || depot.document(&cache, kind, &key))
        .await?
    {
        Some(bytes) => Ok(answer(&method, content_type, bytes)),
        None => Err(Refusal::missing("there is no such document in this cache")),
    }
}

/// A name that no document can have is missing to a reader, and malformed to a writer.
fn as_missing(refusal: Refusal) -> Refusal {
    Refusal::missing(refusal.sentence())
}

fn log_key(drv: &str) -> Result<String, Refusal> {
    derivation(drv, "log/")
}

fn realisation_key(file: &str) -> Result<String, Refusal> {
    let id = file
        .strip_suffix(".doi")
        .and_then(|id| Some((id, id.split_once('!')?)));
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    match id {
        Some((id, (hash, output))) if plain(hash) && plain(output) && hash.contains(':') => {
            Ok(id.to_owned())
        }
        _ => Err(Refusal::malformed(
            "a realisation's URL is realisations/<algorithm>:<hash>!<output>.doi",
        )),
    }
}

fn build_trace_key(drv: &str, file: &str) -> Result<String, Refusal> {
    let drv = derivation(drv, "build-trace-v2/")?;
    let output = file
        .strip_suffix(".doi")
        .filter(|output| !output.is_empty());
    let output = output.ok_or_else(|| {
        Refusal::malformed("a build trace's URL is build-trace-v2/<derivation>/<output>.doi")
    })?;
    Ok(format!("{drv}/{output}"))
}

fn derivation(drv: &str, under: &str) -> Result<String, Refusal> {
    match drv.parse::<StorePath>() {
        Ok(path) if path.is_derivation() => Ok(path.to_string()),
        Ok(path) => Err(Refusal::malformed(format!(
            "{under} takes derivations, {path} does not end in .drv"
        ))),
        Err(error) => Err(Refusal::malformed(format!("{under}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_nix_asks_for() {
        let drv = "00000000000000000000000000000000-hello.drv";
        assert_eq!(log_key(drv).expect("a log"), drv);
        assert!(log_key("00000000000000000000000000000000-hello").is_err());
        assert_eq!(
            realisation_key("sha256:ab!out.doi").expect("an id"),
            "sha256:ab!out"
        );
        assert!(
            realisation_key("sha256:ab.doi").is_err() && realisation_key("sha256:ab!out").is_err()
        );
        assert_eq!(
            build_trace_key(drv, "out.doi").expect("a trace"),
            format!("{drv}/out")
        );
        assert!(
            build_trace_key(drv, ".doi").is_err() && build_trace_key("../x", "out.doi").is_err()
        );
    }
}
