//! `PUT /push/<hash>.narinfo`: the claim that a NAR is a store path, checked, signed and made
//! visible.
//!
//! ```text
//!   text > parse > names an upload of this cache? > Claimed --computed hash, size--> Verified
//!        > content address? > Signed with all keys > published when its references are > durable
//! ```
//! Guarantees: nothing is signed that was not computed from bytes that are here; the first to
//! publish a path wins, and a later one with other bytes is answered 200 and recorded. Never: a NAR
//! read again, unless its content address asks.

use super::errors::Refusal;
use super::{App, Shared, body};
use crate::auth::subject::Subject;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use snowcache_core::path_info::Claimed;
use snowcache_depot::{NarReader, Published};
use snowcache_nix::ca::{Check, Verifier};
use snowcache_nix::{CaError, ContentAddress, Hash, HashAlgorithm, NarInfo, PathInfo, StoreHash};
use std::sync::atomic::Ordering;

/// `PUT`
pub async fn put(
    app: Shared,
    subject: Subject,
    hash: &str,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let hash: StoreHash = hash.parse().map_err(|error| {
        Refusal::malformed(format!("a narinfo's URL is <hash>.narinfo: {error}"))
    })?;
    tracing::debug!(phase = "receive", %hash, "a narinfo begins");
    let uploads = &app.config.uploads;
    let (limit_bytes, stall_s) = (uploads.max_narinfo_bytes, uploads.stall_timeout_s);
    let text = body::whole(
        headers,
        body,
        limit_bytes,
        stall_s,
        &app.commits,
        "the narinfo",
    )
    .await?;
    tracing::debug!(phase = "spool", %hash, "a narinfo has ended");
    let commits = app.commits.clone();
    commits
        .run(move || commit(&app, subject, &hash, &text))
        .await?;
    tracing::debug!(phase = "acknowledge", "a path is durable");
    Ok(StatusCode::OK.into_response())
}

fn commit(app: &App, subject: Subject, hash: &StoreHash, text: &[u8]) -> Result<(), Refusal> {
    let text = std::str::from_utf8(text).map_err(|error| {
        Refusal::malformed(format!(
            "the narinfo is not UTF-8 from byte {} on",
            error.valid_up_to()
        ))
    })?;
    let narinfo = NarInfo::parse(text)
        .map_err(|error| Refusal::malformed(format!("the narinfo, {error}")))?;
    let info = PathInfo::from(&narinfo);
    if info.store_path.hash() != *hash {
        return Err(Refusal::refused(format!(
            "StorePath is {}, but the URL says {hash}; put it to {}.narinfo",
            info.store_path,
            info.store_path.hash()
        )));
    }
    let nar = find_nar(app, narinfo.url, &info)?;
    let computed = nar.nar();
    let verified = Claimed::new(info)
        .verify(computed.nar_hash, computed.nar_size_bytes)
        .map_err(Refusal::refused)?;
    check_content_address(verified.info(), &nar)?;
    let content_addressed = verified.info().ca.is_some();
    let path = verified.info().store_path.clone();
    match app
        .depot
        .publish(&app.cache, verified.sign(&app.keys), subject.as_str())?
    {
        Published::New => tracing::info!(%path, subject = subject.as_str(), "published"),
        Published::Known => tracing::debug!(%path, "was published already"),
        Published::Conflict { winner } => {
            app.conflicts.fetch_add(1, Ordering::Relaxed);
            let (loser, subject) = (computed.nar_hash, subject.as_str());
            tracing::warn!(%path, %winner, %loser, subject, "put again with other bytes");
            if content_addressed {
                return Err(Refusal::new(
                    StatusCode::CONFLICT,
                    format!(
                        "{path} is content-addressed, but published here with other bytes \
                         ({winner})"
                    ),
                ));
            }
        }
    }
    app.events.ready(app.number, &[path.hash()]);
    Ok(())
}

/// The NAR that a narinfo is about: uploaded under the name in its URL, or published here already.
fn find_nar(app: &App, url: &str, info: &PathInfo) -> Result<NarReader, Refusal> {
    if let Some(name) = url.strip_prefix("nar/")
        && let Some(reader) = app.depot.uploaded_nar(&app.cache, name)?
    {
        return Ok(reader);
    }
    app.depot.nar(&app.cache, &info.nar_hash)?.ok_or_else(|| {
        Refusal::refused(format!(
            "URL is {url}, but no NAR was uploaded under that name (or its lease has ended); \
             upload the NAR first"
        ))
    })
}

pub(super) fn check_content_address(info: &PathInfo, nar: &NarReader) -> Result<(), Refusal> {
    let Some(ca) = &info.ca else { return Ok(()) };
    let wrong = |error: CaError| Refusal::refused(format!("{}: CA: {error}", info.store_path));
    let address: ContentAddress = ca.parse().map_err(wrong)?;
    let mut verifier =
        Verifier::new(&address, &info.store_path, &info.references).map_err(wrong)?;
    let computed = Hash::from(nar.nar().nar_hash);
    let refers_to_itself = info.references.contains(&info.store_path);
    // The commonest kind is over what has been hashed already, however large.
    if address.check(refers_to_itself).map_err(wrong)? == Check::Nar(HashAlgorithm::Sha256) {
        if address.hash() == computed {
            return Ok(());
        }
        let (claimed, computed) = (Box::new(address.hash()), Box::new(computed));
        return Err(wrong(CaError::WrongHash { claimed, computed }));
    }
    for chunk in nar.raw(0..nar.nar().nar_size_bytes) {
        verifier.feed(&chunk?).map_err(wrong)?;
    }
    verifier.finish().map_err(wrong)
}
