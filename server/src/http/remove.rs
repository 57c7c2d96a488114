//! `POST /api/v1/remove`: paths that are to go now.
//!
//! Guarantees: what a pin keeps, or what a path refers to that stays, is not removed, and it is
//! said why; what was removed is durably invisible. The space comes back with the next collections.

use super::api::json;
use super::errors::Refusal;
use super::pins::store_path;
use super::{App, Shared, body};
use crate::auth::subject::Subject;
use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use snowcache_nix::{StoreHash, StorePath};
use std::collections::HashMap;

/// Paths in one request.
const MAX_PATHS: usize = 10_000;
/// 10,000 of `/nix/store/`, 244 bytes, quotes and a comma are 2.6 MB.
const MAX_QUESTION_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    paths: Vec<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Kept {
    path: String,
    why: String,
}

#[derive(Default, Serialize)]
struct Removal {
    removed: Vec<String>,
    kept: Vec<Kept>,
    /// As they were asked for.
    missing: Vec<String>,
}

/// What is to go: a path, or whatever has this hash.
enum Target {
    Path(StorePath),
    Hash(StoreHash),
}

impl Target {
    fn hash(&self) -> StoreHash {
        match self {
            Target::Path(path) => path.hash(),
            Target::Hash(hash) => *hash,
        }
    }
}

/// `POST`
pub async fn post(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (limit, stall_s) = (MAX_QUESTION_BYTES, app.config.uploads.stall_timeout_s);
    let what = "the list of paths";
    let text = body::whole(&headers, body, limit, stall_s, &app.commits, what).await?;
    let asked: Asked = body::parsed(&text, r#"{"paths": ["<store path>", …]}"#)?;
    if asked.paths.len() > MAX_PATHS {
        return Err(Refusal::too_large(format!(
            "name at most {MAX_PATHS} paths at once"
        )));
    }
    let targets = asked.paths.iter().map(|text| target(text));
    let targets: Vec<Target> = targets.collect::<Result<_, _>>()?;
    let commits = app.commits.clone();
    let remove = move || remove(&app, subject, targets, asked);
    Ok(json(&Method::POST, &commits.run(remove).await?))
}

fn target(text: &str) -> Result<Target, Refusal> {
    if let Ok(hash) = text.parse() {
        return Ok(Target::Hash(hash));
    }
    let path = store_path(text).map_err(Refusal::malformed)?;
    Ok(Target::Path(path))
}

fn remove(
    app: &App,
    subject: Subject,
    targets: Vec<Target>,
    asked: Asked,
) -> Result<Removal, Refusal> {
    let subject = subject.as_str();
    let hashes: Vec<StoreHash> = targets.iter().map(Target::hash).collect();
    // An ordinary look-up would count as a use of the path.
    let there = app.depot.remove_paths(&app.cache, &hashes, subject, true)?;
    let kept = there.kept.iter().map(|(path, _)| path);
    let there: HashMap<StoreHash, &StorePath> = there
        .removed
        .iter()
        .chain(kept)
        .map(|path| (path.hash(), path))
        .collect();
    let (mut hashes, mut removal) = (Vec::new(), Removal::default());
    for (target, text) in targets.iter().zip(asked.paths) {
        match (there.get(&target.hash()), target) {
            (Some(_), Target::Hash(hash)) => hashes.push(*hash),
            (Some(there), Target::Path(path)) if *there == path => hashes.push(path.hash()),
            _ => removal.missing.push(text),
        }
    }
    let done = app
        .depot
        .remove_paths(&app.cache, &hashes, subject, asked.dry_run)?;
    for path in &done.removed {
        tracing::info!(%path, subject, dry_run = asked.dry_run, "removed by command");
    }
    removal.removed = done.removed.iter().map(ToString::to_string).collect();
    let kept = done.kept.into_iter().map(|(path, why)| Kept {
        path: path.to_string(),
        why,
    });
    removal.kept = kept.collect();
    Ok(removal)
}
