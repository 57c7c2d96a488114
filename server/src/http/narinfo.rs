//! `<hash>.narinfo`: a path as it was published, signed, with the URL of the encoding that is
//! current.
//!
//! FileSize is exact; FileHash is left out, since it would have to be computed anew for every
//! encoding and no Nix asks.

use super::errors::Refusal;
use super::{App, answer};
use axum::http::Method;
use axum::response::Response;
use snowcache_depot::Entry;
use snowcache_nix::StoreHash;

/// `GET`, `HEAD`
pub async fn get(app: &App, method: &Method, hash: &str) -> Result<Response, Refusal> {
    let entry = entry(app, hash).await?;
    let url = format!(
        "nar/{}",
        super::nar::current_name(&entry.info.nar_hash, &entry.encoding)
    );
    let text = entry
        .info
        .to_narinfo(&url, "zstd", Some(entry.encoding.size_bytes));
    Ok(answer(method, "text/x-nix-narinfo", text))
}

/// The published path of that hash part.
///
/// # Errors
/// 404
pub async fn entry(app: &App, hash: &str) -> Result<Entry, Refusal> {
    let missing = || Refusal::missing("no path with this hash is in this cache");
    let hash: StoreHash = hash.parse().map_err(|_| missing())?;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    app.reads
        .run(move || depot.path(&cache, &hash))
        .await?
        .ok_or_else(missing)
}
