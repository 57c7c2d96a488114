//! The identity that a CI or a cluster gives to a job, for caches that exchange it for a token.
//!
//! ```text
//!   $SNOWCACHE_ID_TOKEN                     the identity            GitLab (id_tokens)
//!   $SNOWCACHE_ID_TOKEN_FILE                a file with it          Kubernetes (projected volume)
//!   $ACTIONS_ID_TOKEN_REQUEST_URL, _TOKEN   where it is asked for   GitHub (id-token: write)
//! ```
//! Guarantees: GitHub is asked for an identity that is good for this cache only:
//! `$SNOWCACHE_AUDIENCE`, or the cache's URL. Never: an identity in an error.

use crate::failure::Failure;
use crate::remote::{Endpoint, github_identity};
use std::env::var;
use std::fs;

/// The first there is; nothing outside of such a job.
///
/// # Errors
/// It is there, and cannot be had.
pub async fn of_environment(cache: &Endpoint) -> Result<Option<String>, Failure> {
    let said = |name: &str| var(name).ok().filter(|value| !value.trim().is_empty());
    if let Some(identity) = said("SNOWCACHE_ID_TOKEN") {
        return Ok(Some(identity));
    }
    if let Some(file) = said("SNOWCACHE_ID_TOKEN_FILE") {
        let cannot = |error| format!("$SNOWCACHE_ID_TOKEN_FILE, {file}, cannot be read: {error}");
        let identity = fs::read_to_string(&file);
        return Ok(Some(
            identity.map_err(|error| Failure::usage(cannot(error)))?,
        ));
    }
    let (url, token) = (
        said("ACTIONS_ID_TOKEN_REQUEST_URL"),
        said("ACTIONS_ID_TOKEN_REQUEST_TOKEN"),
    );
    let (Some(url), Some(token)) = (url, token) else {
        return Ok(None);
    };
    let audience = said("SNOWCACHE_AUDIENCE").unwrap_or_else(|| cache.to_string());
    let identity = github_identity(&url, &token, &audience).await;
    identity
        .map(Some)
        .map_err(|error| Failure::failed(format!("GitHub gives this job no identity: {error}")))
}
