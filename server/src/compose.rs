//! The whole server, put together top-down.
//!
//! ```text
//!   data folder --lock--> keys and tokens --> depot --> socket --> router --> serve until stopped
//!                                               '--> collector, scrubber, by the clock
//! ```

use crate::auth::Gate;
use crate::banner::{banner, public_url};
use crate::collector::Collector;
use crate::config::{Config, ConfigError};
use crate::first_start::{FirstStartError, Identity};
use crate::http::{App, Shared, router};
use crate::listen::{self, Bound, Listener};
use crate::lock::{DataLock, LockError};
use crate::scrubber::Scrubber;
use crate::workers::Workers;
use rustix::process::{Resource, getrlimit, setrlimit};
use snowcache_depot::{CacheName, Depot, Options};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use thiserror::Error;

/// Narinfos and documents that wait for a group commit at once: each holds a thread and at most its
/// body's 1 MiB (logs up to max_log_bytes), and one fsync serves all of them.
const COMMITS_AT_ONCE: usize = 64;

/// Threads for a collection, for what was used, for name lookups and the like, beside the pools'.
const SPARE_THREADS: usize = 8;

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Keys and tokens.
    #[error(transparent)]
    FirstStart(#[from] FirstStartError),
    /// The depot.
    #[error("the depot in {dir} cannot be opened")]
    Depot {
        /// Its folder.
        dir: String,
        /// Why.
        source: snowcache_depot::Error,
    },
    /// The socket.
    #[error("cannot listen on {listen}; give --listen a free ADDRESS:PORT or unix:PATH")]
    Listen {
        /// As configured.
        listen: String,
        /// Why.
        source: std::io::Error,
    },
}

/// A server that is ready: its depot open, its socket bound.
pub struct Server {
    app: Shared,
    listener: Listener,
    banner: String,
    /// Given up last.
    lock: DataLock,
}

/// Threads that block at once, at most: what the runtime must allow.
pub fn blocking_threads(config: &Config) -> usize {
    config.reads.max_at_once + config.uploads.max_at_once + COMMITS_AT_ONCE + SPARE_THREADS
}

impl Server {
    /// Opens everything.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn open(config: Config) -> Result<Server, StartError> {
        let config = config.checked()?;
        raise_descriptor_limit();
        let lock = DataLock::take(&config.data)?;
        let identity = Identity::in_folder(&config.data, &config.cache.key_name)?;
        let depot = open_depot(&config).await?;
        let listener = Listener::bind(&config.listen).await.map_err(|source| {
            let listen = config.listen.clone();
            StartError::Listen { listen, source }
        })?;
        let banner = banner(&config, listener.bound(), &identity);
        let policy = config.retention.policy();
        let interval = config.retention.gc_interval();
        let app = App {
            scrubber: Scrubber::new(depot.clone(), config.scrub.clone()),
            collector: Collector::new(depot.clone(), policy, interval),
            depot,
            cache: CacheName::default_cache(),
            gate: Gate::new(&identity, config.auth.allow_plaintext_writes),
            keys: identity.keys,
            public_url: public_url(&config, listener.bound()),
            reads: Workers::new(config.reads.max_at_once),
            uploads: Workers::new(config.uploads.max_at_once),
            commits: Workers::new(COMMITS_AT_ONCE),
            conflicts: AtomicU64::new(0),
            config,
        };
        Ok(Server {
            app: Arc::new(app),
            listener,
            banner,
            lock,
        })
    }

    /// Where it listens.
    pub fn bound(&self) -> &Bound {
        self.listener.bound()
    }

    /// What to print now.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Serves until `stop` is ready, then lets what is under way end.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let router = router::router(self.app.clone());
        let (collector, scrubber) = (self.app.collector.clone(), self.app.scrubber.clone());
        let background = [
            tokio::spawn(scrubber.clone().by_itself()),
            tokio::spawn(collector.clone().by_itself()),
            tokio::spawn(collector.clone().note()),
        ];
        let ending = scrubber.clone();
        let stop = async move {
            stop.await;
            ending.halt(); // its client would be waited for
        };
        listen::serve(self.listener, router, &self.app.config.http, stop).await;
        background.iter().for_each(|task| task.abort());
        scrubber.stop().await;
        collector.stop().await;
        drop(self.app);
        drop(self.lock);
    }
}

/// Connections and segments want more descriptors than the 1024 that a shell's soft limit allows;
/// the hard limit is the administrator's word.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}

async fn open_depot(config: &Config) -> Result<Depot, StartError> {
    let dir = config.data.join("depot");
    let options = Options {
        zstd_level: config.depot.zstd_level,
        max_nar_bytes: config.uploads.max_nar_size_bytes,
        max_size_bytes: (config.depot.max_size_bytes > 0).then_some(config.depot.max_size_bytes),
        reserve_bytes: config.depot.reserve_bytes,
        max_leased_bytes: Some(config.uploads.max_leased_bytes),
        ..Options::new(&dir)
    };
    let opened = tokio::task::spawn_blocking(|| Depot::open(options)).await;
    let opened = opened.expect("invariant: opening a depot returns its errors");
    opened.map_err(|source| StartError::Depot {
        dir: dir.display().to_string(),
        source,
    })
}
