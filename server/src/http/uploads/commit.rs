//! Publishing the paths whose NARs are here: each claim checked, all of them signed, then one turn
//! of the committer for as many as it takes. A reference may be left out where an upstream's
//! signature comes in its place.
//!
//! Guarantees: a path is signed only over the NarHash that was computed here; the answer says of
//! each path what became of it, and its status is the worst of these. A path that is refused takes
//! those along that refer to it, and no others.

use crate::auth::subject::Subject;
use crate::http::App;
use crate::http::errors::Refusal;
use crate::http::push_narinfo::check_content_address;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use snowcache_core::path_info::{Claimed, Signed};
use snowcache_core::upstream::Vouched;
use snowcache_depot::Published;
use snowcache_nix::PathInfo;
use std::sync::atomic::Ordering;

/// What is to be published.
#[derive(Deserialize)]
pub struct Asked {
    /// Narinfos without the lines about a file: StorePath, NarHash, NarSize, References and so on.
    pub paths: Vec<String>,
    /// The same of references that are not here, each with an upstream's signature.
    #[serde(default)]
    pub vouched: Vec<String>,
}

/// What became of it.
#[derive(Debug, Serialize)]
pub struct Committed {
    paths: Vec<Outcome>,
}

/// What became of one path.
#[derive(Debug, Serialize)]
struct Outcome {
    /// Its base name, or of what cannot be read its place in the request.
    path: String,
    /// 200 for what is here now, otherwise what a request of its own would have been answered.
    status: u16,
    /// Why, unless it is 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Committed {
    /// The worst of the answers, where the server's own faults come first.
    pub fn status(&self) -> StatusCode {
        let status = self.paths.iter().map(|path| path.status).max();
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        status.unwrap_or(StatusCode::OK)
    }
}

/// Publishes what can be.
///
/// # Errors
/// Where an upstream is said to vouch for a path, and does not: nothing is published then.
pub fn commit(app: &App, subject: &Subject, asked: &Asked) -> Result<Committed, Refusal> {
    let vouched = vouched(app, &asked.vouched)?;
    let (mut outcomes, mut places, mut signed) = (Vec::new(), Vec::new(), Vec::new());
    let mut ready = Vec::new();
    for (place, text) in asked.paths.iter().enumerate() {
        let (path, checked) = match PathInfo::from_record(text) {
            Ok(info) => (info.store_path.to_string(), check(app, info)),
            Err(error) => {
                let sentence = format!("path {place} of the request, {error}");
                (place.to_string(), Err(Refusal::malformed(sentence)))
            }
        };
        if let Ok(path) = &checked {
            places.push((place, path.info().store_path.hash()));
        }
        outcomes.push(Outcome::of(path, checked.as_ref().err()));
        signed.extend(checked);
    }
    let published = app
        .depot
        .publish_all(&app.cache, signed, vouched, subject.as_str());
    for ((place, hash), published) in places.into_iter().zip(published) {
        let path = std::mem::take(&mut outcomes[place].path);
        let refusal = match published {
            Ok(Published::New) => {
                tracing::info!(path, subject = subject.as_str(), "published");
                None
            }
            Ok(Published::Known) => None,
            Ok(Published::Conflict { winner }) => {
                app.conflicts.fetch_add(1, Ordering::Relaxed);
                let what = format!("{path} is published here with other bytes ({winner})");
                Some(Refusal::new(StatusCode::CONFLICT, what))
            }
            Err(error) => Some(error.into()),
        };
        if refusal.is_none() {
            ready.push(hash);
        }
        outcomes[place] = Outcome::of(path, refusal.as_ref());
    }
    app.events.ready(app.number, &ready);
    Ok(Committed { paths: outcomes })
}

fn vouched(app: &App, records: &[String]) -> Result<Vouched, Refusal> {
    let mut vouched = Vouched::default();
    for (place, text) in records.iter().enumerate() {
        let info = PathInfo::from_record(text);
        let info = info.map_err(|error| {
            Refusal::malformed(format!("vouched path {place} of the request, {error}"))
        })?;
        let added = vouched.add(&info, &app.upstreams);
        added.map_err(Refusal::refused)?;
    }
    Ok(vouched)
}

fn check(app: &App, info: PathInfo) -> Result<Signed, Refusal> {
    let nar = app.depot.held_nar(&app.cache, &info.nar_hash)?;
    let nar = nar.ok_or_else(|| {
        let (path, nar) = (&info.store_path, info.nar_hash);
        Refusal::refused(format!(
            "{path}: its NAR {nar} is not here; upload it first"
        ))
    })?;
    let computed = nar.nar();
    let verified = Claimed::new(info)
        .verify(computed.nar_hash, computed.nar_size_bytes)
        .map_err(Refusal::refused)?;
    check_content_address(verified.info(), &nar)?;
    Ok(verified.sign(&app.keys))
}

impl Outcome {
    fn of(path: String, refusal: Option<&Refusal>) -> Outcome {
        Outcome {
            path,
            status: refusal.map_or(StatusCode::OK, Refusal::status).as_u16(),
            error: refusal.map(|refusal| refusal.sentence().to_owned()),
        }
    }
}
