//! `/api/v1/tokens`: tokens are made, listed and revoked, by whoever may do everything; and made
//! for whoever has an identity that a rule means.
//!
//! Guarantees: a token that was answered is durable; of one that was revoked no request that comes
//! later is let through. Never: the text of a token in a list or in the log.

use super::api::json;
use super::errors::Refusal;
use super::{Shared, body};
use crate::auth::subject::{Name, Scopes, Subject};
use crate::auth::tokens::{Token, TokenId, TokensError, Wish};
use crate::clock::now_unix_s;
use crate::oidc::{MAX_JWT_BYTES, Refused};
use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};

/// A name of 128 bytes, four scopes and a number, with slack.
const MAX_QUESTION_BYTES: u64 = 4 << 10;

/// The longest identity, in JSON.
const MAX_IDENTITY_BYTES: u64 = MAX_JWT_BYTES as u64 + 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    subject: Name,
    scopes: Scopes,
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
    about: Token,
}

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<Token>,
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
    Ok(json(&Method::POST, &Made { token, about }))
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
    let wish = app.issuers.exchange(identity.trim(), now_unix_s()).await?;
    make(&app, wish).await
}

/// `GET /api/v1/tokens`
pub async fn list(State(app): State<Shared>, method: Method) -> Response {
    let tokens = app.gate.tokens.list();
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
    Ok(json(&Method::DELETE, &token))
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
