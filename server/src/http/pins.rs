//! `/api/v1/pins`: names for what must stay.
//!
//! Guarantees: a pin that was answered 2xx is durable; the same change again makes no further
//! generation. Reading is open, setting and rolling back takes either token, removing the admin's.

use super::api::json;
use super::errors::Refusal;
use super::{Shared, body};
use crate::auth::subject::Subject;
use crate::clock::now_unix_s;
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method};
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use snowcache_depot::{Keep, Pin, PinChange, PinName};
use snowcache_nix::{STORE_DIR, StorePath, StorePathError};

/// 1,000 roots, the most of a generation, of `/nix/store/`, 244 bytes, quotes and a comma are
/// 258 KB.
const MAX_CHANGE_BYTES: u64 = 512 << 10;

/// A page of a list ends with the pin that takes it past so many bytes of roots.
const PAGE_BYTES: usize = 4 << 20;

/// Behind which pin to go on.
#[derive(Debug, Deserialize)]
pub struct After {
    after: Option<String>,
}

#[derive(Serialize)]
struct Pins {
    pins: Vec<Listed>,
    next: Option<String>,
}

/// A pin as it is listed: with what it stands for now.
#[derive(Serialize)]
struct Listed {
    name: String,
    current: u64,
    generations: u64,
    keep: Keep,
    expires: Option<u64>,
    time: u64,
    subject: String,
    roots: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    roots: Vec<String>,
    keep: Option<Keep>,
    expires_in_s: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rollback {
    to: Option<u64>,
}

/// `GET /api/v1/pins?after=NAME`
pub async fn list(
    State(app): State<Shared>,
    method: Method,
    Query(page): Query<After>,
) -> Result<Response, Refusal> {
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let mut pins = app.reads.run(move || depot.pins(&cache)).await?;
    pins.sort_by(|a, b| a.name.cmp(&b.name));
    let after = page.after.unwrap_or_default();
    let (mut listed, mut bytes, mut next) = (Vec::new(), 0, None);
    for pin in pins
        .into_iter()
        .filter(|pin| pin.name.as_str() > after.as_str())
    {
        if bytes > PAGE_BYTES {
            next = listed.last().map(|last: &Listed| last.name.clone());
            break;
        }
        let pin = Listed::of(pin);
        bytes += pin.name.len() + pin.roots.iter().map(String::len).sum::<usize>();
        listed.push(pin);
    }
    Ok(json(&method, &Pins { pins: listed, next }))
}

/// `GET /api/v1/pins/<name>`
pub async fn get(
    State(app): State<Shared>,
    method: Method,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let name = pin_name(&name)?;
    Ok(json(&method, &found(&app, &name).await?))
}

/// `PUT /api/v1/pins/<name>`
pub async fn put(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = pin_name(&name)?;
    let expected = "{\"roots\": [\"<store path>\", …], \"keep\": \"5\", \"expires_in_s\": null}";
    let change: Change = read(&app, &headers, body, expected).await?;
    let roots = change.roots.iter().map(|root| store_path(root));
    let roots: Result<Vec<StorePath>, _> = roots.collect();
    let change = PinChange {
        roots: roots.map_err(Refusal::malformed)?,
        keep: change.keep,
        expires: change.expires_in_s.map(|s| now_unix_s().saturating_add(s)),
    };
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let by = subject.clone();
    let set = move || depot.set_pin(&cache, &name, change, by.as_str());
    let pin = app.commits.run(set).await?;
    tracing::info!(pin = %pin.name, generation = pin.current, subject = subject.as_str(), "set");
    app.events.moved(app.number, &pin.name, pin.current);
    app.patcher.moved(&app.cache, &pin);
    Ok(json(&Method::PUT, &pin))
}

/// `POST /api/v1/pins/<name>/rollback`
pub async fn rollback(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let name = pin_name(&name)?;
    let Rollback { to } = read(&app, &headers, body, "{\"to\": 3}, or null").await?;
    found(&app, &name).await?;
    let (depot, cache) = (app.depot.clone(), app.cache.clone());
    let by = subject.clone();
    let roll = move || depot.rollback_pin(&cache, &name, to, by.as_str());
    let pin = app.commits.run(roll).await?;
    let (generation, subject) = (pin.current, subject.as_str());
    tracing::info!(pin = %pin.name, generation, subject, "rolled back");
    app.events.moved(app.number, &pin.name, generation);
    Ok(json(&Method::POST, &pin))
}

/// `DELETE /api/v1/pins/<name>`
pub async fn delete(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let name = pin_name(&name)?;
    let (depot, cache, pin) = (app.depot.clone(), app.cache.clone(), name.clone());
    let by = subject.clone();
    let remove = move || depot.remove_pin(&cache, &pin, by.as_str());
    if !app.commits.run(remove).await? {
        return Err(absent(&name));
    }
    tracing::info!(pin = %name, subject = subject.as_str(), "removed");
    Ok(json(
        &Method::DELETE,
        &serde_json::json!({ "removed": true }),
    ))
}

async fn found(app: &Shared, name: &PinName) -> Result<Pin, Refusal> {
    let (depot, cache, pin) = (app.depot.clone(), app.cache.clone(), name.clone());
    let pin = app.reads.run(move || depot.pin(&cache, &pin)).await?;
    pin.ok_or_else(|| absent(name))
}

fn absent(name: &PinName) -> Refusal {
    Refusal::missing(format!("there is no pin {name} in this cache"))
}

/// The name of a pin.
pub fn pin_name(name: &str) -> Result<PinName, Refusal> {
    name.parse::<PinName>().map_err(Refusal::malformed)
}

/// A store path, or its base name.
pub fn store_path(text: &str) -> Result<StorePath, StorePathError> {
    match text.starts_with(STORE_DIR) {
        true => StorePath::from_absolute(text),
        false => text.parse(),
    }
}

async fn read<T: DeserializeOwned>(
    app: &Shared,
    headers: &HeaderMap,
    body: Body,
    expected: &str,
) -> Result<T, Refusal> {
    let stall_s = app.config.uploads.stall_timeout_s;
    let what = "the change of a pin";
    let text = body::whole(headers, body, MAX_CHANGE_BYTES, stall_s, &app.commits, what).await?;
    body::parsed(&text, expected)
}

impl Listed {
    fn of(pin: Pin) -> Listed {
        let current = pin.current_generation();
        Listed {
            current: pin.current,
            generations: pin.generations.len() as u64,
            keep: pin.keep,
            expires: pin.expires,
            time: current.map_or(0, |it| it.time),
            subject: current.map_or(String::new(), |it| it.subject.clone()),
            roots: current
                .map_or(&[][..], |it| &it.roots)
                .iter()
                .map(ToString::to_string)
                .collect(),
            name: pin.name.into(),
        }
    }
}
