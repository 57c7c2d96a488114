//! `/api/v1/tokens`: tokens are made, listed and revoked, by whoever may do everything; and made
//! for whoever has an identity that a rule means.
//!
//! Guarantees: a token that was answered is durable; of one that was revoked no request that comes
//! later is let through. Never: the text of a token in a list or in the log.

use super::api::json;
use super::errors::Refusal;
use super::{App, Shared, body};
use crate::auth::subject::{Name, Scopes, Subject};
use crate::auth::tokens::{Token, TokenId, TokensError, Wish};
use crate::caches::{CachesError, title};
use crate::clock::now_unix_s;
use crate::oidc::{MAX_JWT_BYTES, Refused};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use snowcache_depot::CacheName;

/// A name of 128 bytes, four scopes, the names of 256 caches and a number, with slack.
const MAX_QUESTION_BYTES: u64 = 16 << 10;

/// The longest identity, in JSON.
const MAX_IDENTITY_BYTES: u64 = MAX_JWT_BYTES as u64 + 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    subject: Name,
    scopes: Scopes,
    /// By their names; none: the one at `/`, and with `admin` everything.
    #[serde(default)]
    caches: Vec<String>,
    expires_in_s: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    identity: String,
}

#[derive(Serialize)]
struct Made {
    /// Shown this once.
    token: String,
    #[serde(flatten)]
    about: About,
}

/// A token as people know it.
#[derive(Serialize)]
struct About {
    id: TokenId,
    subject: Name,
    scopes: Scopes,
    /// By name.
    caches: Vec<String>,
    created: u64,
    expires: u64,
    by: String,
    revoked: Option<u64>,
}

impl From<Token> for About {
    fn from(token: Token) -> About {
        About {
            id: token.id,
            subject: token.subject,
            scopes: token.scopes,
            caches: token.caches.iter().map(|it| title(it).to_owned()).collect(),
            created: token.created,
            expires: token.expires,
            by: token.by,
            revoked: token.revoked,
        }
    }
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<About>,
}

/// `POST /api/v1/tokens`
pub async fn create(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (limit, stall_s) = (MAX_QUESTION_BYTES, app.config.uploads.stall_timeout_s);
    let text = body::whole(&headers, body, limit, stall_s, &app.commits, "the wish").await?;
    let expected = r#"{"subject": "ci", "scopes": ["push"], "expires_in_s": 86400}"#;
    let asked: Asked = body::parsed(&text, expected)?;
    let wish = Wish {
        subject: asked.subject,
        scopes: asked.scopes,
        caches: in_depot(&app, &asked.caches)?,
        life_s: asked.expires_in_s,
        by: subject.as_str().to_owned(),
    };
    make(&app, wish).await
}

async fn make(app: &Shared, wish: Wish) -> Result<Response, Refusal> {
    let (app, commits) = (app.clone(), app.commits.clone());
    let make = move || app.gate.tokens.make(wish, now_unix_s());
    let (token, about) = commits.run(make).await?;
    let (id, scopes) = (String::from(about.id.clone()), about.scopes);
    tracing::info!(id, of = %about.subject, %scopes, by = about.by, "a token was made");
    let about = about.into();
    Ok(json(&Method::POST, &Made { token, about }))
}

/// What caches of these names are called in the depot.
fn in_depot(app: &App, names: &[String]) -> Result<Vec<CacheName>, CachesError> {
    names.iter().map(|name| app.caches.in_depot(name)).collect()
}

/// `POST /api/v1/tokens/exchange`: an identity of a CI or a cluster, for a token of its own.
pub async fn exchange(
    State(app): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let (limit, stall_s) = (MAX_IDENTITY_BYTES, app.config.uploads.stall_timeout_s);
    let text = body::whole(&headers, body, limit, stall_s, &app.commits, "the identity").await?;
    let Identity { identity } = body::parsed(&text, r#"{"identity": "<JSON Web Token>"}"#)?;
    let (rule, by) = app.issuers.exchange(identity.trim(), now_unix_s()).await?;
    let wish = Wish {
        caches: in_depot(&app, &rule.caches)?,
        subject: rule.subject,
        scopes: rule.scopes,
        life_s: rule.expires_in_s,
        by,
    };
    make(&app, wish).await
}

/// `GET /api/v1/tokens`
pub async fn list(State(app): State<Shared>, method: Method) -> Response {
    let tokens = app.gate.tokens.list();
    let tokens = tokens.into_iter().map(About::from).collect();
    json(&method, &Tokens { tokens })
}

/// `DELETE /api/v1/tokens/<id>`
pub async fn revoke(
    State(app): State<Shared>,
    Extension(subject): Extension<Subject>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let parsed: TokenId = id.parse().map_err(Refusal::malformed)?;
    let commits = app.commits.clone();
    let revoke = move || app.gate.tokens.revoke(&parsed, now_unix_s());
    let Some(token) = commits.run(revoke).await? else {
        return Err(Refusal::missing(format!(
            "there is no token {id}: it expired a day ago, or never was"
        )));
    };
    let by = subject.as_str();
    tracing::info!(id, of = %token.subject, by, "a token was revoked");
    Ok(json(&Method::DELETE, &About::from(token)))
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Refusal {
        let status = match &refused {
            Refused::NoIssuers => StatusCode::NOT_FOUND,
            Refused::Nobody(_) => StatusCode::FORBIDDEN,
            Refused::Wrong(_) | Refused::Issuer(_) | Refused::Key { .. } => {
                StatusCode::UNAUTHORIZED
            }
            Refused::Fetch(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Refusal::new(status, refused.to_string())
    }
}

impl From<TokensError> for Refusal {
    fn from(error: TokensError) -> Refusal {
        let later = |sentence| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, sentence).retry();
        match &error {
            TokensError::Life(_) => Refusal::refused(error),
            TokensError::TooMany | TokensError::TooManyOf(_) => later(error.to_string()),
            TokensError::File { .. } | TokensError::Random(_) => {
                let why = crate::observe::with_causes(&error);
                tracing::error!(why, "a token could not be written");
                later(
                    "the server's disk failed: no token was made; one that was to be revoked is \
                     refused until a restart only, revoke it again"
                        .to_owned(),
                )
            }
        }
    }
}
