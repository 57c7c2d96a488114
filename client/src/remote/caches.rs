//! The named caches of a snowcache, by the native API of the cache at `/`.

use super::Remote;
use super::error::RemoteError;
use http::{HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// 256 caches, the most of a server, with some keys each.
const MAX_CACHES_BYTES: usize = 4 << 20;
/// One of them.
const MAX_CACHE_BYTES: usize = 64 << 10;

/// A named cache.
#[derive(Debug, Serialize, Deserialize)]
pub struct NamedCache {
    /// What it is called.
    pub name: String,
    /// Where it is read; with `/push` behind it, written to.
    pub url: String,
    /// Whether reading takes no token.
    pub public: bool,
    /// The lower one is asked first.
    pub priority: u32,
    /// How long a path stays in any case; None: as the server's configuration says.
    pub grace_s: Option<u64>,
    /// After which a path goes that nobody used; 0: never; None: as the server says.
    pub max_age_s: Option<u64>,
    /// What it may hold.
    pub quota_bytes: Option<u64>,
    /// What it holds; None: it is being counted.
    pub holds: Option<Holding>,
    /// Those that it signs with.
    pub public_keys: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// Who made it.
    pub by: String,
}

/// What a cache holds.
#[derive(Debug, Serialize, Deserialize)]
pub struct Holding {
    /// Visible paths.
    pub paths: u64,
    /// Bytes of their NARs, unpacked.
    pub nar_bytes: u64,
}

/// What is to be decided about a cache; None: as it is.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheChange {
    /// Whether reading takes no token.
    pub public: Option<bool>,
    /// The lower one is asked first.
    pub priority: Option<u32>,
    /// See [`NamedCache`]; `Some(None)`: none of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_s: Option<Option<u64>>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_age_s: Option<Option<u64>>,
    /// The same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<Option<u64>>,
    /// The name of a new cache's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_name: Option<String>,
}

/// Which cache is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// One that is not there yet.
    New,
    /// One that is.
    Existing,
}

#[derive(Deserialize)]
struct Listed {
    caches: Vec<NamedCache>,
}

impl Remote {
    /// All named caches, by name.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn named_caches(&self) -> Result<Vec<NamedCache>, RemoteError> {
        let listed: Listed = self.get_json("api/v1/caches", MAX_CACHES_BYTES).await?;
        Ok(listed.caches)
    }

    /// One of them.
    ///
    /// # Errors
    /// When the server refuses, or has none of this name.
    pub async fn named_cache(&self, name: &str) -> Result<NamedCache, RemoteError> {
        self.get_json(&path(name), MAX_CACHE_BYTES).await
    }

    /// Makes a cache, or changes what is decided about one.
    ///
    /// # Errors
    /// When the server refuses, or it is not as `at` says.
    pub async fn put_cache(
        &self,
        name: &str,
        change: &CacheChange,
        at: Where,
    ) -> Result<NamedCache, RemoteError> {
        let any = HeaderValue::from_static("*");
        let condition = match at {
            Where::New => header::IF_NONE_MATCH,
            Where::Existing => header::IF_MATCH,
        };
        let ask = self.ask(Method::PUT, &path(name), Some(change))?;
        let ask = ask.header(condition, any);
        let answer = self.once(&ask).await?;
        self.read_json(&ask.url, answer, MAX_CACHE_BYTES).await
    }

    /// Deletes a cache: what it was.
    ///
    /// # Errors
    /// When the server refuses, or has none of this name.
    pub async fn delete_cache(&self, name: &str) -> Result<NamedCache, RemoteError> {
        let ask = self.ask(Method::DELETE, &path(name), None::<&Value>)?;
        let answer = self.once(&ask).await?;
        self.read_json(&ask.url, answer, MAX_CACHE_BYTES).await
    }
}

/// Names have been checked: nothing in them needs escaping.
fn path(name: &str) -> String {
    format!("api/v1/caches/{name}")
}
