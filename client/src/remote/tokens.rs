//! Tokens of a snowcache: made, listed and revoked by the native API.
//!
//! Guarantees: a token is asked for once, so that none is made of which nobody knows.

use super::Remote;
use super::error::RemoteError;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// 10,000 tokens, the most of a server, at some 300 bytes.
const MAX_TOKENS_BYTES: usize = 8 << 20;
/// One of them, with its text.
const MAX_TOKEN_BYTES: usize = 16 << 10;

/// All about a token but its text. Times are seconds since 1970.
#[derive(Debug, Serialize, Deserialize)]
pub struct Token {
    /// What it is called.
    pub id: String,
    /// Who bears it.
    pub subject: String,
    /// What it allows.
    pub scopes: Vec<String>,
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
    /// How long.
    pub expires_in_s: u64,
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
