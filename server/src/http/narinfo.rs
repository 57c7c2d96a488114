//! `<hash>.narinfo`: a path as it was published, signed, with the URL of the encoding that is
//! current.
//!
//! FileSize is exact; FileHash is left out, since it would have to be computed anew for every
//! encoding and no Nix asks.

use super::errors::Refusal;
use super::{App, answer};
use axum::http::Method;
use axum::response::Response;
use bytes::Bytes;
use snowcache_depot::Entry;
use snowcache_nix::StoreHash;

/// What a narinfo is sent as.
pub const CONTENT_TYPE: &str = "text/x-nix-narinfo";

/// What is said of a path that is not here.
pub const MISSING: &str = "no path with this hash is in this cache";

/// What is known without asking a disk.
pub enum Known {
    /// The narinfo.
    Here(Bytes),
    /// There is none.
    Absent,
}

/// `GET`, `HEAD`
pub async fn get(app: &App, method: &Method, hash: &str) -> Result<Response, Refusal> {
    let hash: StoreHash = hash.parse().map_err(|_| Refusal::missing(MISSING))?;
    let text = match known(app, &hash) {
        Some(Known::Here(text)) => text,
        Some(Known::Absent) => return Err(Refusal::missing(MISSING)),
        None => look_up(app, hash).await?,
    };
    Ok(answer(method, CONTENT_TYPE, text))
}

/// What is known of it at once; None: it has to be looked up.
pub fn known(app: &App, hash: &StoreHash) -> Option<Known> {
    if let Some(text) = app.narinfos.get(&app.depot, &(app.number, *hash)) {
        return Some(Known::Here(text));
    }
    let absent = app.depot.is_absent(&app.cache, hash);
    absent.then_some(Known::Absent)
}

async fn look_up(app: &App, hash: StoreHash) -> Result<Bytes, Refusal> {
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let make = move || {
        let mut made = Bytes::new();
        let kept = depot.keep(&cache, &hash, |entry| {
            made = render(&entry);
            made.clone()
        })?;
        Ok::<_, snowcache_depot::Error>(kept.map(|kept| (kept, made)))
    };
    let found = app.reads.run(make).await?;
    let (kept, text) = found.ok_or_else(|| Refusal::missing(MISSING))?;
    app.narinfos.put((app.number, hash), kept, text.len());
    Ok(text)
}

fn render(entry: &Entry) -> Bytes {
    let url = format!(
        "nar/{}",
        super::nar::current_name(&entry.info.nar_hash, &entry.encoding)
    );
    let size_bytes = Some(entry.encoding.size_bytes);
    entry.info.to_narinfo(&url, "zstd", size_bytes).into()
}

/// The published path of that hash part.
///
/// # Errors
/// 404
pub async fn entry(app: &App, hash: &str) -> Result<Entry, Refusal> {
    let missing = || Refusal::missing(MISSING);
    let hash: StoreHash = hash.parse().map_err(|_| missing())?;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    app.reads
        .run(move || depot.path(&cache, &hash))
        .await?
        .ok_or_else(missing)
}
