//! Tokens of a snowcache: made, listed and revoked by the native API.
//!
//! Guarantees: a token is asked for once, so that none is made of which nobody knows.

use super::endpoint::EndpointError;
use super::error::RemoteError;
use super::http::Ask;
use super::{BadToken, Remote};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// 10,000 tokens, the most of a server, at some 300 bytes.
const MAX_TOKENS_BYTES: usize = 8 << 20;
/// One of them, with its text.
const MAX_TOKEN_BYTES: usize = 16 << 10;
/// A CI's identity has 1 to 3 KB.
const MAX_IDENTITY_BYTES: usize = 64 << 10;

/// The identity of a job of GitHub Actions, for this audience. `token` is sent to the host of `url`
/// and nowhere else.
///
/// # Errors
/// When GitHub refuses.
pub async fn github_identity(
    url: &str,
    token: &str,
    audience: &str,
) -> Result<String, GitHubError> {
    let github = Remote::new(url.parse()?, Some(token))?;
    let plus = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{plus}audience={}", escaped(audience));
    let answer = github.http.send(&Ask::get(url.clone())).await?;
    let identity: Identity = github.read_json(&url, answer, MAX_IDENTITY_BYTES).await?;
    Ok(identity.value)
}

/// Why GitHub gives no identity.
#[derive(Debug, Error)]
pub enum GitHubError {
    /// The URL to ask is none.
    #[error("$ACTIONS_ID_TOKEN_REQUEST_URL: {0}")]
    Url(#[from] EndpointError),
    /// The token to ask with is none.
    #[error("$ACTIONS_ID_TOKEN_REQUEST_TOKEN has characters that cannot be sent")]
    Token(#[from] BadToken),
    /// It refused, or could not be asked.
    #[error("{0}; the job needs `permissions: id-token: write`")]
    Remote(#[from] RemoteError),
}

/// Text as a value in a URL's query.
fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let bytes = text.bytes().map(|byte| match plain(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

/// All about a token but its text. Times are seconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
pub struct Token {
    /// What it is called.
    pub id: String,
    /// Who bears it.
    pub subject: String,
    /// What it allows.
    pub scopes: Vec<String>,
    /// In which caches; none: the one at `/`, and where it allows everything, all.
    #[serde(default)]
    pub caches: Vec<String>,
    /// When it was made.
    pub created: u64,
    /// From when on it is refused.
    pub expires: u64,
    /// Who made it.
    pub by: String,
    /// When it was revoked.
    pub revoked: Option<u64>,
}

/// A token that was just made.
#[derive(Serialize, Deserialize)]
pub struct NewToken {
    /// Its text, which is not to be had again.
    pub token: String,
    /// The rest.
    #[serde(flatten)]
    pub about: Token,
}

/// A token to be made.
#[derive(Debug, Serialize)]
pub struct TokenWish {
    /// Who is to bear it.
    pub subject: String,
    /// What it is to allow.
    pub scopes: Vec<String>,
    /// In which caches; a server that knows of none is not asked about them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<String>,
    /// How long.
    pub expires_in_s: u64,
}

/// What GitHub answers a job that asks who it is.
#[derive(Deserialize)]
struct Identity {
    value: String,
}

#[derive(Deserialize)]
struct Listed {
    tokens: Vec<Token>,
}

impl Remote {
    /// Has a token made.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn create_token(&self, wish: &TokenWish) -> Result<NewToken, RemoteError> {
        let ask = self.ask(Method::POST, "api/v1/tokens", Some(wish))?;
        let answer = self.once(&ask).await?;
        self.read_json(&ask.url, answer, MAX_TOKEN_BYTES).await
    }

    /// All tokens, the newest first.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn tokens(&self) -> Result<Vec<Token>, RemoteError> {
        let listed: Listed = self.get_json("api/v1/tokens", MAX_TOKENS_BYTES).await?;
        Ok(listed.tokens)
    }

    /// Whether requests bear a token.
    pub fn has_token(&self) -> bool {
        self.http.has_token()
    }

    /// Has a token made for an identity that a CI or a cluster gave to this job. Once more makes
    /// another one, which ends as soon.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn exchange(&self, identity: &str) -> Result<NewToken, RemoteError> {
        let question = serde_json::json!({ "identity": identity.trim() });
        let ask = self.ask(Method::POST, "api/v1/tokens/exchange", Some(&question))?;
        let answer = self.http.send(&ask).await?;
        self.read_json(&ask.url, answer, MAX_TOKEN_BYTES).await
    }

    /// Revokes a token; nothing where there is none of this id. Again is as good as once.
    ///
    /// # Errors
    /// When the cache refuses.
    pub async fn revoke_token(&self, id: &str) -> Result<Option<Token>, RemoteError> {
        let path = format!("api/v1/tokens/{id}");
        let ask = self.ask(Method::DELETE, &path, None::<&Value>)?;
        let answer = self.http.send(&ask).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let token = self.read_json(&ask.url, answer, MAX_TOKEN_BYTES).await?;
        Ok(Some(token))
    }
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn an_audience_is_one_value_of_a_query() {
        let audience = escaped("https://cache.example.org/a b&c=d");
        assert_eq!(audience, "https%3A%2F%2Fcache.example.org%2Fa%20b%26c%3Dd");
        assert_eq!(escaped("az-AZ_0.9~"), "az-AZ_0.9~");
        assert_eq!(escaped("ü"), "%C3%BC");
    }
}
