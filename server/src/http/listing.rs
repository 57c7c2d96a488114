//! `<hash>.ls`: what is in a path, made from the verified NAR, never from what an uploader says of
//! it.

use super::errors::Refusal;
use super::{App, answer, narinfo};
use axum::http::Method;
use axum::response::Response;
use snowcache_depot::NarReader;
use snowcache_nix::Listing;
use snowcache_nix::nar::{NarError, Parser};

/// File contents of this length and more are skipped, not read: as long as a chunk of the depot is.
const WORTH_SKIPPING_BYTES: u64 = 256 << 10;

/// `GET`, `HEAD`
pub async fn get(app: &App, method: &Method, hash: &str) -> Result<Response, Refusal> {
    let info = narinfo::entry(app, hash).await?.info;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let json = app
        .reads
        .run(move || match depot.nar(&cache, &info.nar_hash)? {
            Some(reader) => list(&reader),
            None => Err(Refusal::missing(
                "the NAR of this path is not in this cache",
            )),
        })
        .await?;
    Ok(answer(method, "application/json", json))
}

fn list(reader: &NarReader) -> Result<String, Refusal> {
    let size_bytes = reader.nar().nar_size_bytes;
    let mut parser = Parser::new();
    let mut listing = Listing::new();
    'seek: loop {
        for chunk in reader.raw(parser.offset()..size_bytes) {
            parser
                .feed(&chunk?, &mut |event| listing.event(event))
                .map_err(damaged)?;
            let left_bytes = parser.file_remaining();
            if left_bytes >= WORTH_SKIPPING_BYTES {
                parser.skip_file_data(left_bytes).map_err(damaged)?;
                continue 'seek;
            }
        }
        break;
    }
    parser.finish().map_err(damaged)?;
    listing.to_json().map_err(Refusal::missing)
}

fn damaged(error: NarError) -> Refusal {
    tracing::error!(%error, "a verified NAR does not parse any more");
    Refusal::internal()
}
