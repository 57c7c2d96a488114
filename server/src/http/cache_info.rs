//! `nix-cache-info`: what the cache says of itself; whoever pushes puts their idea of it, too.

use super::errors::Refusal;
use super::{Shared, answer, batch, body};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use snowcache_nix::STORE_DIR;

/// Nix writes three lines; a client that writes more has something else in mind.
const MAX_BYTES: u64 = 64 << 10;

/// `GET`, `HEAD`
pub async fn get(State(app): State<Shared>, method: Method) -> Response {
    let mass_query = u8::from(app.config.cache.want_mass_query);
    let priority = app.priority;
    let batch = batch::NAME;
    let text = format!(
        "StoreDir: {STORE_DIR}\nWantMassQuery: {mass_query}\nPriority: {priority}\n\
         GetNarInfosV1: {batch}\n"
    );
    answer(&method, "text/x-nix-cache-info", text)
}

/// `PUT`: nothing is kept, but a cache for another store directory is no use to anybody here.
pub async fn put(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let stall_s = app.config.uploads.stall_timeout_s;
    let text = body::whole(
        &headers,
        body,
        MAX_BYTES,
        stall_s,
        &app.commits,
        "nix-cache-info",
    )
    .await?;
    match store_dir(&String::from_utf8_lossy(&text)) {
        Some(dir) if dir == STORE_DIR => Ok(StatusCode::OK.into_response()),
        Some(dir) => Err(Refusal::malformed(format!(
            "StoreDir is {dir}, but this cache holds paths of {STORE_DIR}; push to it from a \
             store of that directory"
        ))),
        None => Err(Refusal::malformed(format!(
            "nix-cache-info has no StoreDir line; send StoreDir: {STORE_DIR}"
        ))),
    }
}

fn store_dir(text: &str) -> Option<&str> {
    text.lines()
        .find_map(|line| line.strip_prefix("StoreDir:"))
        .map(str::trim)
}
