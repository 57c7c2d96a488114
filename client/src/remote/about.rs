//! What a cache says of itself and of what it holds, beside the four verbs.

use super::Remote;
use super::error::RemoteError;
use super::http::Ask;
use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use snowcache_nix::{Base32Error, KeyError, PublicKey, StoreHash, StorePath, StorePathError};
use std::collections::BTreeMap;

/// nix-cache-info has a handful of lines.
const MAX_CACHE_INFO_BYTES: usize = 64 << 10;
/// Some counters and lists of keys.
const MAX_STATS_BYTES: usize = 1 << 20;
/// A listing of 100,000 files at about 100 bytes each is 10 MB; the largest seen has 40 MB.
const MAX_LISTING_BYTES: usize = 128 << 20;
/// 10,000 base names at their longest, 244 bytes and JSON around them.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// As many as a snowcache gives at a time.
const PATHS_PER_PAGE: usize = 10_000;

/// The fields of nix-cache-info.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheInfo(BTreeMap<String, String>);

impl CacheInfo {
    fn parse(text: &str) -> CacheInfo {
        let field = |line: &str| {
            let (key, value) = line.split_once(':')?;
            Some((key.trim().to_owned(), value.trim().to_owned()))
        };
        CacheInfo(text.lines().filter_map(field).collect())
    }

    /// One field.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// All fields, by name.
    pub fn fields(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Some of the paths of a cache, in the order of their hashes.
#[derive(Debug)]
pub struct Page {
    /// The paths.
    pub paths: Vec<StorePath>,
    /// Where to go on; `None` at the end.
    pub next: Option<StoreHash>,
}

#[derive(Deserialize)]
struct Upstreams {
    public_keys: Vec<String>,
}

#[derive(Deserialize)]
struct PageText {
    paths: Vec<String>,
    next: Option<String>,
}

impl Remote {
    /// nix-cache-info; `None` when there is none, so no binary cache.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn cache_info(&self) -> Result<Option<CacheInfo>, RemoteError> {
        let body = self
            .http
            .fetch("nix-cache-info", MAX_CACHE_INFO_BYTES)
            .await?;
        Ok(body.map(|body| CacheInfo::parse(&String::from_utf8_lossy(&body))))
    }

    /// Whether anybody answers there, whatever they say: a question without a body to its answer,
    /// so that it costs nothing of a budget and leaves the connection for what comes next.
    pub async fn answers(&self) -> bool {
        let url = self.http.endpoint.join("nix-cache-info");
        self.http.send(&Ask::new(Method::HEAD, url)).await.is_ok()
    }

    /// What a snowcache counts; `None` of another sort of cache, and of one that does not tell
    /// everybody.
    ///
    /// # Errors
    /// When the cache cannot be asked, or answers no JSON.
    pub async fn stats(&self) -> Result<Option<serde_json::Value>, RemoteError> {
        let body = match self.http.fetch("api/v1/stats", MAX_STATS_BYTES).await {
            Err(error) if error.is_denial() => return Ok(None),
            body => body?,
        };
        let Some(body) = body else {
            return Ok(None);
        };
        self.json("api/v1/stats", &body).map(Some)
    }

    /// The keys that a snowcache signs with, as its front page shows them; none of other caches.
    ///
    /// # Errors
    /// When the cache cannot be asked, or shows something that is no key.
    pub async fn public_keys(&self) -> Result<Vec<PublicKey>, RemoteError> {
        let Some(page) = self.http.fetch("", MAX_CACHE_INFO_BYTES).await? else {
            return Ok(Vec::new());
        };
        let page = String::from_utf8_lossy(&page);
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("trusted-public-keys = "));
        let keys = line.unwrap_or_default().split_whitespace().map(str::parse);
        keys.collect::<Result<_, KeyError>>()
            .map_err(|error| RemoteError::Answer {
                url: self.http.endpoint.join(""),
                source: error.into(),
            })
    }

    /// The keys whose signature stands for a path that is not there; none of other caches, and of
    /// a snowcache that takes whole closures only.
    ///
    /// # Errors
    /// When the cache cannot be asked, or shows something that is no key.
    pub async fn upstreams(&self) -> Result<Vec<PublicKey>, RemoteError> {
        let path = "api/v1/upstreams";
        let Some(body) = self.http.fetch(path, MAX_CACHE_INFO_BYTES).await? else {
            return Ok(Vec::new());
        };
        let Upstreams { public_keys } = self.json(path, &body)?;
        let keys = public_keys.iter().map(|key| key.parse());
        keys.collect::<Result<_, KeyError>>()
            .map_err(|error| RemoteError::Answer {
                url: self.http.endpoint.join(path),
                source: error.into(),
            })
    }

    /// The listing of a path's files, as JSON; `None` when the cache has none.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn listing(&self, hash: StoreHash) -> Result<Option<Bytes>, RemoteError> {
        self.http
            .fetch(&format!("{hash}.ls"), MAX_LISTING_BYTES)
            .await
    }

    /// The paths after `after`; `None` when the cache does not list its paths.
    ///
    /// # Errors
    /// When the cache cannot be asked, or its answer is not a list of paths.
    pub async fn paths(&self, after: Option<StoreHash>) -> Result<Option<Page>, RemoteError> {
        let after = after
            .map(|hash| format!("&after={hash}"))
            .unwrap_or_default();
        let path = format!("api/v1/paths?limit={PATHS_PER_PAGE}{after}");
        let Some(body) = self.http.fetch(&path, MAX_PAGE_BYTES).await? else {
            return Ok(None);
        };
        let text: PageText = self.json(&path, &body)?;
        let not_a_path = |error| RemoteError::Answer {
            url: self.http.endpoint.join(&path),
            source: error,
        };
        let paths = text
            .paths
            .iter()
            .map(|path| path.parse())
            .collect::<Result<_, _>>();
        let next = text.next.map(|hash| hash.parse()).transpose();
        Ok(Some(Page {
            paths: paths.map_err(|error: StorePathError| not_a_path(error.into()))?,
            next: next.map_err(|error: Base32Error| not_a_path(error.into()))?,
        }))
    }

    fn json<T: for<'a> Deserialize<'a>>(&self, path: &str, body: &[u8]) -> Result<T, RemoteError> {
        serde_json::from_slice(body).map_err(|error| {
            let url = self.http.endpoint.join(path);
            RemoteError::Answer {
                url,
                source: error.into(),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_info_is_read_leniently() {
        let info = CacheInfo::parse("StoreDir: /nix/store\nPriority:30\n\nnonsense\nX: a: b\n");
        assert_eq!(info.get("StoreDir"), Some("/nix/store"));
        assert_eq!(info.get("Priority"), Some("30"));
        assert_eq!(info.get("X"), Some("a: b"));
        assert_eq!(info.fields().len(), 3);
    }
}
