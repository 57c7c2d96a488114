//! With which token a cache is asked: the one that was given, else one that it makes for the
//! identity of this job.
//!
//! Guarantees: a token that was given is used, whatever the job is. One that was made is asked with
//! again for a while, so that a queue that works all day does not fill the cache with them, and one
//! that was revoked is not used for long. Never: a token written anywhere.

use crate::failure::Failure;
use crate::identity;
use crate::remote::Remote;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Half of a life of 20 min, the shortest that leaves time for a large push: six an hour.
const REUSED: Duration = Duration::from_secs(600);

/// What is known of tokens that were made.
#[derive(Default)]
pub(super) struct Admission(Mutex<Option<Made>>);

struct Made {
    token: String,
    /// Until when it is used again.
    until: Instant,
}

impl Admission {
    /// The same cache, asked with a token where there can be one.
    ///
    /// # Errors
    /// When this job has an identity, and gets no token for it.
    pub async fn admitted(&self, remote: Remote) -> Result<Remote, Failure> {
        if remote.has_token() {
            return Ok(remote);
        }
        let mut made = self.0.lock().await;
        let endpoint = remote.endpoint().clone();
        if let Some(made) = made.as_ref().filter(|made| Instant::now() < made.until) {
            return Remote::new(endpoint, Some(&made.token)).map_err(Failure::failed);
        }
        let Some(identity) = identity::of_environment(&endpoint).await? else {
            return Ok(remote);
        };
        let new = remote.exchange(&identity).await?;
        let life = new.about.expires.saturating_sub(new.about.created);
        let until = Instant::now() + REUSED.min(Duration::from_secs(life / 2));
        let admitted = Remote::new(endpoint, Some(&new.token)).map_err(Failure::failed);
        let token = new.token;
        *made = Some(Made { token, until });
        admitted
    }
}
