//! HTTP: the stock binary-cache protocol for reading at `/` and for writing at `/push`, and the
//! native API; and both again under the name of each cache.
//!
//! ```text
//!   listen --> doors: which cache? --> front: narinfos out of memory, and misses; else
//!     '--> observe::request --> head --> linger --> router
//!     +-- reading: cache_info narinfo nar listing documents api events;  operators: health
//!     +-- keeping: admit --> pins; the admin only: gc recompress remove scrub
//!     +-- native pushes: admit --> uploads;   identity: the admin only: tokens
//!     '-- /push: the same for the uploader's own names, and
//!           admit --> push_nar push_narinfo documents
//! ```

pub mod api;
pub mod batch;
pub mod body;
pub mod cache_info;
pub mod caches;
pub mod codec;
pub mod deltas;
pub mod documents;
pub mod doors;
pub mod errors;
pub mod events;
pub mod front;
pub mod gc;
pub mod head;
pub mod health;
pub mod kept_nars;
pub mod linger;
pub mod listing;
pub mod nar;
pub mod narinfo;
pub mod narinfos;
pub mod pins;
pub mod plans;
pub mod push_nar;
pub mod push_narinfo;
pub mod range;
pub mod recompress;
pub mod remove;
pub mod router;
pub mod scrub;
pub mod sending;
pub mod tokens;
pub mod uploads;

use crate::auth::Gate;
use crate::auth::subject::{Place, Scope, Subject};
use crate::caches::{Caches, DEFAULT_NUMBER, Name, Named};
use crate::collector::Collector;
use crate::config::Config;
use crate::events::Events;
use crate::listen::Peer;
use crate::listen::tls::Certificates;
use crate::metrics::Metrics;
use crate::oidc::Issuers;
use crate::patcher::Patcher;
use crate::recompressor::Recompressor;
use crate::scrubber::Scrubber;
use crate::turns::Turns;
use crate::workers::Workers;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use bytes::Bytes;
use errors::Refusal;
use kept_nars::{KeptNars, Small};
use narinfos::Narinfos;
use plans::Plans;
use sending::Windows;
use snowcache_depot::{CacheName, Depot, NarReader};
use snowcache_nix::{PublicKey, SecretKey};
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use uploads::UnderWay;

/// What all caches are served with.
pub struct Engine {
    /// Where everything is.
    pub depot: Depot,
    /// The caches beside the one at `/`.
    pub caches: Arc<Caches>,
    /// Whose signature stands for a path that is not here.
    pub upstreams: Vec<PublicKey>,
    /// Who may do what.
    pub gate: Gate,
    /// Whose identities are exchanged for tokens.
    pub issuers: Issuers,
    /// The limits.
    pub config: Config,
    /// The URL of the cache at `/`, without a slash at its end.
    pub public_url: String,
    /// For reading from the depot.
    pub reads: Workers,
    /// Places for what of NARs is held in memory to be sent.
    pub windows: Windows,
    /// One for each NAR that comes in.
    pub uploads: Workers,
    /// Those of them that come over the native API.
    pub under_way: UnderWay,
    /// For narinfos and documents on their way to the disk.
    pub commits: Workers,
    /// Runs collections.
    pub collector: Arc<Collector>,
    /// Runs scrubs.
    pub scrubber: Arc<Scrubber>,
    /// Runs recompressions.
    pub recompressor: Arc<Recompressor>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// With which TCP speaks TLS.
    pub certificates: Option<Arc<Certificates>>,
    /// Narinfos as they are sent, in memory.
    pub narinfos: Narinfos,
    /// Small NARs as they are sent, in memory.
    pub small_nars: KeptNars<Small>,
    /// Where the bytes of larger ones lie, in memory.
    pub layouts: KeptNars<NarReader>,
    /// How paths are made of others, as it was told.
    pub plans: Plans,
    /// For those who ask for much.
    pub turns: Turns,
    /// Tells who waits for pins and paths.
    pub events: Arc<Events>,
    /// Makes patches when a pin moves.
    pub patcher: Patcher,
    /// Paths that were put again with other bytes, since the start.
    pub conflicts: AtomicU64,
}

/// What every handler works with: one cache, and through it the engine.
pub struct App {
    /// What it shares with the others.
    engine: Arc<Engine>,
    /// Which one it is, in the depot.
    pub cache: CacheName,
    /// Which one it is, in memory.
    pub number: u32,
    /// All of these sign.
    pub keys: Vec<SecretKey>,
    /// Whether reading takes no token.
    pub is_public: bool,
    /// As nix-cache-info says it.
    pub priority: u32,
    /// The URL that refusals advise, without a slash at its end.
    pub public_url: String,
}

impl Deref for App {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl App {
    /// The cache at `/`.
    pub fn at_root(engine: Arc<Engine>, keys: Vec<SecretKey>) -> App {
        let config = &engine.config.cache;
        App {
            cache: CacheName::default_cache(),
            number: DEFAULT_NUMBER,
            keys,
            is_public: config.public,
            priority: config.priority,
            public_url: engine.public_url.clone(),
            engine,
        }
    }

    /// A named one.
    pub fn named(engine: Arc<Engine>, named: &Named) -> App {
        App {
            cache: named.cache.clone(),
            number: named.number,
            keys: named.keys.clone(),
            is_public: named.settings.public,
            priority: named.settings.priority,
            public_url: engine.url_of(&named.name),
            engine,
        }
    }

    /// What it shares with the others.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Who asks, if they may do what takes `scope`, in this cache.
    ///
    /// # Errors
    /// Those of [`Gate::admit`].
    pub fn admit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        scope: Scope,
    ) -> Result<Subject, Refusal> {
        let place = Place::Cache(&self.cache);
        self.gate.admit(peer, headers, scope, place)
    }
}

impl Engine {
    /// The URL of a named cache.
    pub fn url_of(&self, name: &Name) -> String {
        let base = &self.public_url;
        let colon = if base.starts_with("unix:") { ":" } else { "" };
        format!("{base}{colon}/{name}")
    }
}

/// Handlers share it.
pub type Shared = Arc<App>;

/// A whole answer of a type, with its length also where a HEAD leaves the bytes out.
pub fn answer(method: &Method, content_type: &'static str, bytes: impl Into<Bytes>) -> Response {
    let bytes = bytes.into();
    let length = HeaderValue::from(bytes.len());
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(bytes)
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CONTENT_LENGTH, length);
    response
}
