//! Which URL is what.

use super::errors::Refusal;
use super::{
    Shared, api, batch, cache_info, caches, deltas, documents, events, gc, head, health, linger,
    listing, nar, narinfo, pins, push_nar, push_narinfo, recompress, remove, scrub, tokens,
    uploads,
};
use crate::auth::subject::{Place, Scope, Subject};
use crate::listen::Peer;
use crate::observe;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};
use axum::{Extension, Router};

/// The cache at `/`, and what is about the whole server.
pub fn router(app: Shared) -> Router {
    finished(of_cache(&app).merge(of_server(&app)), app)
}

/// A named cache, as if its name were no part of its URLs.
pub fn of_named(app: Shared) -> Router {
    let router = of_cache(&app).route("/api/v1/stats", get(api::holding));
    finished(router, app)
}

/// What each cache has.
fn of_cache(app: &Shared) -> Router<Shared> {
    Router::new()
        .merge(stock())
        .route("/nar/{file}", get(nar::get))
        .route("/", get(about))
        .route("/api/v1/paths", get(api::paths))
        .route("/api/v1/missing", post(api::missing))
        .route("/api/v1/upstreams", get(api::upstreams))
        .route("/api/v1/cost/{hash}", get(api::cost))
        .route("/api/v1/plan", post(deltas::plan))
        .route("/api/v1/frames", post(deltas::frames))
        .route("/api/v1/events", get(events::get))
        .merge(keeping(app))
        .merge(sending(app))
        .merge(exchange(app))
        .nest("/push", push(app))
}

/// What there is once.
fn of_server(app: &Shared) -> Router<Shared> {
    let metrics = &app.config.metrics;
    let here = metrics.enabled && metrics.listen.is_empty();
    Router::new()
        .merge(if here {
            health::metrics()
        } else {
            Router::new()
        })
        .merge(health::probes())
        .route("/api/v1/stats", get(api::stats))
        .route("/api/v1/recompress", get(recompress::get))
        .route("/api/v1/scrub", get(scrub::get))
        .merge(looking_after(app))
        .merge(identity(app))
}

fn finished(router: Router<Shared>, app: Shared) -> Router {
    router
        .fallback(no_such_url)
        .method_not_allowed_fallback(no_such_url)
        .layer(from_fn_with_state(app.clone(), admit_reader))
        // Every handler that reads a body says how much of it.
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn(linger::linger))
        .layer(from_fn_with_state(app.clone(), head::bounded))
        .layer(middleware::from_fn(observe::request))
        .with_state(app)
}

/// What is told at `metrics.listen`, and nothing else.
pub fn of_operators(app: Shared) -> Router {
    health::metrics()
        .merge(health::probes())
        .fallback(|| async { Refusal::missing("here are /metrics, /healthz and /readyz") })
        .layer(middleware::from_fn(observe::request))
        .with_state(app)
}

/// What reads the same under `/` and under `/push`.
fn stock() -> Router<Shared> {
    Router::new()
        .route("/nix-cache-info", get(cache_info::get))
        .route(&format!("/{}", batch::NAME), any(batch::query))
        .route("/{file}", get(file))
        .route("/log/{drv}", get(documents::get_log))
        .route("/realisations/{file}", get(documents::get_realisation))
        .route(
            "/build-trace-v2/{drv}/{file}",
            get(documents::get_build_trace),
        )
        .route("/debuginfo/{build_id}", get(documents::get_debuginfo))
}

fn push(app: &Shared) -> Router<Shared> {
    let writing = Router::new()
        .route("/nix-cache-info", put(cache_info::put))
        .route("/{file}", put(put_file))
        .route("/nar/{file}", put(push_nar::put))
        .route("/log/{drv}", put(documents::put_log))
        .route("/realisations/{file}", put(documents::put_realisation))
        .route(
            "/build-trace-v2/{drv}/{file}",
            put(documents::put_build_trace),
        )
        .route("/debuginfo/{build_id}", put(documents::discard))
        .route_layer(from_fn_with_state(Rule::new(app, Scope::Push), admit));
    stock()
        .route("/nar/{file}", get(nar::get_uploaded))
        .merge(writing)
}

/// The native API's way in.
fn sending(app: &Shared) -> Router<Shared> {
    Router::new()
        .route("/api/v1/uploads", post(uploads::stream))
        .route("/api/v1/uploads/nars", post(uploads::nars))
        .route("/api/v1/uploads/frames", post(uploads::frames))
        .route("/api/v1/uploads/taken/{key}", get(uploads::taken))
        .route("/api/v1/uploads/commit", post(uploads::commit))
        .route_layer(from_fn_with_state(Rule::new(app, Scope::Push), admit))
}

/// What stays and what goes. Whoever pushes may pin; what takes something away is the admin's.
fn keeping(app: &Shared) -> Router<Shared> {
    let pinning = Router::new()
        .route("/api/v1/pins/{name}", put(pins::put))
        .route("/api/v1/pins/{name}/rollback", post(pins::rollback))
        .route_layer(from_fn_with_state(Rule::new(app, Scope::Pin), admit));
    let removing = Router::new()
        .route("/api/v1/pins/{name}", delete(pins::delete))
        .route("/api/v1/remove", post(remove::post))
        .route_layer(from_fn_with_state(Rule::new(app, Scope::Admin), admit));
    Router::new()
        .route("/api/v1/pins", get(pins::list))
        .route("/api/v1/pins/{name}", get(pins::get))
        .merge(pinning)
        .merge(removing)
}

/// What goes through all caches, and what makes and deletes them.
fn looking_after(app: &Shared) -> Router<Shared> {
    let changing = Router::new()
        .route("/api/v1/gc", post(gc::post))
        .route("/api/v1/recompress", post(recompress::post))
        .route("/api/v1/scrub", post(scrub::post))
        .route("/api/v1/caches/{name}", put(caches::put))
        .route("/api/v1/caches/{name}", delete(caches::delete))
        .route_layer(from_fn_with_state(Rule::of_server(app), admit));
    Router::new()
        .route("/api/v1/caches", get(caches::list))
        .route("/api/v1/caches/{name}", get(caches::get))
        .route_layer(from_fn_with_state(Rule::of_server(app), admit_always))
        .merge(changing)
}

/// Who may do what. A cache that is read-only has tokens, too, and lets them be revoked.
fn identity(app: &Shared) -> Router<Shared> {
    Router::new()
        .route("/api/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/api/v1/tokens/{id}", delete(tokens::revoke))
        .route_layer(from_fn_with_state(Rule::of_server(app), admit_always))
}

/// A job's way to a token; under the name of a cache it is the same.
fn exchange(app: &Shared) -> Router<Shared> {
    Router::new()
        .route("/api/v1/tokens/exchange", post(tokens::exchange))
        .route_layer(from_fn_with_state(app.clone(), admit_stranger))
}

/// What a route takes to be asked.
#[derive(Clone)]
struct Rule {
    app: Shared,
    scope: Scope,
    /// It is about all caches.
    is_server: bool,
}

impl Rule {
    /// Takes `scope`, in its cache.
    fn new(app: &Shared, scope: Scope) -> Rule {
        Rule {
            app: app.clone(),
            scope,
            is_server: false,
        }
    }

    /// Takes a token that allows everything everywhere.
    fn of_server(app: &Shared) -> Rule {
        Rule {
            is_server: true,
            ..Rule::new(app, Scope::Admin)
        }
    }

    fn admit(&self, request: &Request) -> Result<Subject, Refusal> {
        let app = &self.app;
        let place = match self.is_server {
            true => Place::Server,
            false => Place::Cache(&app.cache),
        };
        app.gate
            .admit(&peer(request), request.headers(), self.scope, place)
    }
}

/// Lets through whom the gate lets through, and says as whom; nobody while it is read-only.
async fn admit(State(rule): State<Rule>, request: Request, next: Next) -> Response {
    if let Err(refusal) = writable(&rule.app) {
        return refusal.into_response();
    }
    let collector = rule.app.collector.clone();
    let response = admit_always(State(rule), request, next).await;
    if response.status() == StatusCode::INSUFFICIENT_STORAGE {
        collector.want();
    }
    response
}

/// The same, also while it is read-only.
async fn admit_always(State(rule): State<Rule>, mut request: Request, next: Next) -> Response {
    match rule.admit(&request) {
        Ok(subject) => {
            request.extensions_mut().insert(subject);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

/// What is open also where reading takes a token: whether the server lives, and where an identity
/// is exchanged for one.
const ALWAYS_OPEN: [&str; 3] = ["/healthz", "/readyz", "/api/v1/tokens/exchange"];

/// What tells of all caches together: of what others have, too, and so, where there are named ones,
/// to those that may read the one at `/` by their token.
const OF_ALL: [&str; 4] = [
    "/metrics",
    "/api/v1/stats",
    "/api/v1/recompress",
    "/api/v1/scrub",
];

/// Lets through everybody, or where the cache is private whoever may read.
async fn admit_reader(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_of_all = app.cache.is_default() && OF_ALL.contains(&path);
    let is_private = !app.is_public || (is_of_all && app.caches.are_there());
    let is_open = !is_private || ALWAYS_OPEN.contains(&path);
    if is_open {
        return next.run(request).await;
    }
    match app.admit(&peer(&request), request.headers(), Scope::Pull) {
        Ok(_) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Lets through whoever sends their secrets in a way that does not show them to others.
async fn admit_stranger(State(app): State<Shared>, request: Request, next: Next) -> Response {
    match app.gate.admit_secret(&peer(&request)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Whatever the token: a cache that is read-only takes nothing in, and nothing of it goes.
fn writable(app: &Shared) -> Result<(), Refusal> {
    match app.config.read_only {
        false => Ok(()),
        true => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this cache is read-only at present: push elsewhere, or ask its operator (read_only \
             in its configuration)",
        )),
    }
}

/// Who asks.
pub fn peer(request: &Request) -> Peer {
    // Whoever cannot be told is treated as somebody far away.
    let unknown = || Peer::Tcp(([255, 255, 255, 255], 0).into());
    let peer = request.extensions().get::<Peer>().cloned();
    peer.unwrap_or_else(unknown)
}

async fn file(
    State(app): State<Shared>,
    method: Method,
    Path(file): Path<String>,
) -> Result<Response, Refusal> {
    match file.rsplit_once('.') {
        Some((hash, "narinfo")) => narinfo::get(&app, &method, hash).await,
        Some((hash, "ls")) => listing::get(&app, &method, hash).await,
        _ => Err(Refusal::missing(
            "there is nothing of this name in a binary cache",
        )),
    }
}

async fn put_file(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(file): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    match file.rsplit_once('.') {
        Some((hash, "narinfo")) => push_narinfo::put(app, subject, hash, &headers, body).await,
        Some((_, "ls")) => documents::discard(State(app), headers, body).await,
        _ => Err(Refusal::missing(
            "a binary cache has no file of this name; put <hash>.narinfo, <hash>.ls, nar/, log/, \
             realisations/ or build-trace-v2/",
        )),
    }
}

async fn no_such_url(State(app): State<Shared>, method: Method, request: Request) -> Refusal {
    let path = request.uri().path();
    if method == Method::GET || method == Method::HEAD {
        return Refusal::missing("there is nothing at this URL");
    }
    let base = &app.public_url;
    let (sentence, allow) = match path.strip_prefix("/push") {
        Some(_) => (
            format!("{method} is not for this URL; {base}/push takes GET, HEAD and PUT"),
            "GET, HEAD, PUT",
        ),
        None if path.starts_with("/api/") => (
            format!("{method} is not for this URL of the API"),
            "GET, HEAD, POST, PUT, DELETE",
        ),
        None => (
            format!(
                "this URL is for reading; write to {base}/push{path} (nix copy --to {base}/push)"
            ),
            "GET, HEAD",
        ),
    };
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, sentence)
        .with(header::ALLOW, HeaderValue::from_static(allow))
}

async fn about(State(app): State<Shared>) -> String {
    let base = &app.public_url;
    let keys: Vec<String> = app
        .keys
        .iter()
        .map(|key| key.public().to_string())
        .collect();
    format!(
        "This is a Nix binary cache.\n\n\
         substituters = {base} https://cache.nixos.org\n\
         trusted-public-keys = {}\n\n\
         Push to {base}/push.\n",
        keys.join(" ")
    )
}
