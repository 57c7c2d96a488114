//! A cache on the other end of HTTP, as a [`Cache`].
//!
//! ```text
//!   narinfo   GET  <hash>.narinfo
//!             QUERY get-narinfos-v1, of many at once, where the cache offers it
//!   nar       GET  <URL of the narinfo>, unpacked, resumed where it broke
//!   missing   POST api/v1/missing; of other caches HEAD <hash>.narinfo
//!   put       PUT  push/nar/<name>, then PUT push/<hash>.narinfo
//! ```
//! Of our own server also the native upload API, and plans: see `uploads`, `plan`.
//!
//! Guarantees: the contract of [`Cache`], as far as the server keeps it; what a stock nix client
//! would ask for is asked for, so what is read here is what nix would read. Every wait, retry and
//! body is bounded. Never: a byte believed that was not hashed.

mod about;
mod admin;
mod batch;
mod body;
mod caches;
mod connect;
mod decode;
mod elsewhere;
mod endpoint;
mod error;
mod events;
mod http;
mod missing;
mod plan;
mod put;
mod retry;
mod taken;
mod tls;
mod tokens;
mod uploads;

pub use about::{CacheInfo, Page};
pub use admin::{Generation, Kept, Listed, Pin, PinChange, Removal, Report};
pub use batch::{Batch, HASHES_PER_REQUEST};
pub use caches::{CacheChange, Holding, NamedCache, Where};
pub use elsewhere::{DOUBT, Elsewhere, STALL};
pub use endpoint::{Endpoint, EndpointError};
pub use error::RemoteError;
pub use events::{Listening, Told, Wanted};
pub use taken::Waits;
pub use tokens::{GitHubError, NewToken, Token, TokenWish, github_identity};
pub use uploads::{NarFate, Next, PathFate, Sending, wait_after};

use self::body::{Again, Keep};
use self::http::Http;
use crate::frame_spool::{FrameSpool, Part};
use crate::rate::Rate;
use ::http::HeaderValue;
use futures::FutureExt;
use futures::future::BoxFuture;
use snowcache_core::cache::{Cache, NarStream, Narinfo};
use snowcache_core::error::{Blame, Error};
use snowcache_core::path_info::Claimed;
use snowcache_nix::{NarInfo, PathInfo, StoreHash};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use thiserror::Error;

/// A narinfo of 10,000 references with names of 60 bytes has 1 MB; of the longest names 2.5 MB.
const MAX_NARINFO_BYTES: usize = 4 << 20;

/// A cache over HTTP. Clones share their connections.
#[derive(Clone)]
pub struct Remote {
    http: Http,
    /// The server does not know `api/v1/missing`: it is another sort of cache.
    asks_by_head: Arc<AtomicBool>,
}

/// A token that cannot stand in a header.
#[derive(Debug, Error)]
#[error("the token has characters that cannot be sent; give it as it stands in push.token")]
pub struct BadToken;

impl Remote {
    /// A cache at this address. `token` is sent to it and to nobody else.
    ///
    /// # Errors
    /// When the token is none.
    pub fn new(endpoint: Endpoint, token: Option<&str>) -> Result<Remote, BadToken> {
        let header = |token: &str| {
            let mut header =
                HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| BadToken)?;
            header.set_sensitive(true);
            Ok(header)
        };
        let authorization = token.map(header).transpose()?;
        Ok(Remote {
            http: Http::new(endpoint, authorization),
            asks_by_head: Arc::default(),
        })
    }

    /// The same cache, of which no more comes a second than this budget allows.
    #[must_use]
    pub fn at_rate(mut self, rate: Rate) -> Remote {
        self.http.rate = rate;
        self
    }

    /// The same cache, of which this keeps what comes until it is imported.
    #[must_use]
    pub fn spooled(mut self, spool: FrameSpool) -> Remote {
        self.http.spool = spool;
        self
    }

    /// The same cache, of which nothing is asked twice: somebody else can be asked instead.
    #[must_use]
    pub fn impatient(mut self) -> Remote {
        self.http.attempts = 1;
        self
    }

    /// The same cache, which is left when it stalls and somebody else has what it was to give.
    #[must_use]
    pub fn or(mut self, elsewhere: Elsewhere) -> Remote {
        self.http.elsewhere = Some(elsewhere);
        self
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.http.endpoint
    }

    /// A narinfo as it is served, byte for byte.
    ///
    /// # Errors
    /// When the cache cannot be asked.
    pub async fn narinfo_text(&self, hash: StoreHash) -> Result<Option<String>, RemoteError> {
        let path = format!("{hash}.narinfo");
        let Some(body) = self.http.fetch(&path, MAX_NARINFO_BYTES).await? else {
            return Ok(None);
        };
        let url = self.http.endpoint.join(&path);
        let text = String::from_utf8(body.into()).map_err(|error| RemoteError::Answer {
            url,
            source: error.into(),
        })?;
        Ok(Some(text))
    }

    /// What a narinfo says, if it is one and about this path.
    ///
    /// # Errors
    /// When it is not.
    pub fn parse_narinfo(&self, hash: StoreHash, text: &str) -> Result<Narinfo, RemoteError> {
        let url = || self.http.endpoint.join(&format!("{hash}.narinfo"));
        let narinfo =
            NarInfo::parse(text).map_err(|source| RemoteError::Narinfo { url: url(), source })?;
        if narinfo.store_path.hash() != hash {
            let found = narinfo.store_path.absolute();
            return Err(RemoteError::OtherPath { url: url(), found });
        }
        Ok(Narinfo {
            info: PathInfo::from(&narinfo),
            url: narinfo.url.to_owned(),
            compression: narinfo.compression,
            file_size_bytes: narinfo.file_size,
        })
    }

    async fn open_nar(&self, narinfo: &Narinfo) -> Result<NarStream, Error> {
        let url = self.http.endpoint.join(&narinfo.url);
        let again = Again::Get(url.clone());
        let keep = Keep {
            hash: narinfo.info.store_path.hash(),
            part: Part::Nar,
        };
        let (size_bytes, likely_bytes) = (narinfo.file_size_bytes, narinfo.info.nar_size);
        let packed = body::open(self.http.clone(), again, size_bytes, likely_bytes, keep).await?;
        let nar = decode::unpack(url, narinfo.compression, packed)?;
        let PathInfo {
            nar_hash, nar_size, ..
        } = narinfo.info;
        Ok(NarStream::new(nar_hash, nar_size, Blame::Upstream, nar))
    }
}

impl Cache for Remote {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        async move {
            let Some(text) = self.narinfo_text(hash).await? else {
                return Ok(None);
            };
            Ok(Some(self.parse_narinfo(hash, &text)?))
        }
        .boxed()
    }

    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        self.open_nar(narinfo).boxed()
    }

    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        async move { Ok(self.ask_missing(hashes).await?) }.boxed()
    }

    fn put(&self, claimed: Claimed, nar: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        self.upload(claimed, nar).boxed()
    }
}
