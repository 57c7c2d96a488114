//! The whole server, put together top-down.
//!
//! ```text
//!   data folder --lock--> keys and tokens --> depot --> sockets --> router --> serve until stopped
//!                                           '--> collector, scrubber, recompressor, by the clock
//! ```

use crate::auth::Gate;
use crate::auth::tokens::{Tokens, TokensError};
use crate::banner::{banner, public_url};
use crate::caches::{Caches, CachesError};
use crate::clock::now_unix_s;
use crate::collector::Collector;
use crate::config::{Config, ConfigError};
use crate::events::Events;
use crate::first_start::{FirstStartError, Identity};
use crate::http::doors::Doors;
use crate::http::front::Front;
use crate::http::kept_nars::KeptNars;
use crate::http::narinfos::Narinfos;
use crate::http::plans::Plans;
use crate::http::sending::Windows;
use crate::http::uploads::UnderWay;
use crate::http::{App, Engine, Shared, router};
use crate::listen::tls::{Certificates, TlsError};
use crate::listen::{self, BindError, Binding, Bound, Listener, Passed, Service};
use crate::lock::{DataLock, LockError};
use crate::oidc::{Issuers, IssuersError};
use crate::patcher::Patcher;
use crate::recompressor::Recompressor;
use crate::scrubber::Scrubber;
use crate::turns::Turns;
use crate::workers::Workers;
use crate::{reload, systemd};
use futures::FutureExt;
use rustix::process::{Resource, getrlimit, setrlimit};
use snowcache_core::upstream;
use snowcache_depot::{Depot, Options};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use thiserror::Error;
use tokio::signal::unix::Signal;
use tokio::task::JoinHandle;

/// Narinfos and documents that wait for a group commit at once: each holds a thread and at most its
/// body's 1 MiB (logs up to max_log_bytes), and one fsync serves all of them.
const COMMITS_AT_ONCE: usize = 64;

/// Threads for a collection, for what was used, for name lookups, probes, scrapes and the like,
/// beside the pools'.
const SPARE_THREADS: usize = 16;

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
    /// Whose identities are exchanged.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// Tokens that were made.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The named caches.
    #[error(transparent)]
    Caches(#[from] CachesError),
    /// The depot.
    #[error("the depot in {dir} cannot be opened")]
    Depot {
        /// Its folder.
        dir: String,
        /// Why.
        source: snowcache_depot::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A socket.
    #[error(transparent)]
    Listen(#[from] BindError),
    /// SIGHUP cannot be listened to.
    #[error("the system allows no handler of SIGHUP")]
    Signal(#[source] std::io::Error),
}

/// A server that is ready: its depot open, its sockets bound.
pub struct Server {
    app: Shared,
    listeners: Vec<Listener>,
    /// For operators alone.
    metrics_listeners: Vec<Listener>,
    hangups: Signal,
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
        Server::open_with(config, Passed::none()).await
    }

    /// The same, with sockets that systemd has bound.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn open_with(config: Config, mut passed: Passed) -> Result<Server, StartError> {
        let config = config.checked()?;
        raise_descriptor_limit();
        let lock = DataLock::take(&config.data)?;
        let identity = Identity::in_folder(&config.data, &config.cache.key_name)?;
        let issuers = Issuers::open(&config.auth.issuers_file)?;
        let tokens = Tokens::open(&config.data, now_unix_s())?;
        let caches = Arc::new(Caches::open(&config.data)?.beside(&identity.keys));
        let gate = Gate::new(&identity, tokens, config.auth.allow_plaintext_writes);
        let certificates = match config.tls.is_on() {
            true => Some(Certificates::load(&config.tls)?),
            false => None,
        };
        let hangups = listen::reload_signal().map_err(StartError::Signal)?;
        let depot = open_depot(&config).await?;
        let mut binding = Binding {
            addresses: &config.listen,
            unix_mode: config.http.unix_socket_mode().unwrap_or_default(),
            certificates: certificates.clone(),
        };
        let listeners = Listener::bind(&binding, &mut passed).await?;
        binding.addresses = &config.metrics.listen;
        let metrics_listeners = Listener::bind(&binding, &mut passed).await?;
        passed.warn_if_idle();
        let bound: Vec<&Bound> = listeners.iter().map(Listener::bound).collect();
        let to_a_person = std::io::stdout().is_terminal();
        let banner = banner(&config, &bound, &identity, to_a_person);
        let public_url = public_url(&config, bound[0]);
        let who = (gate, issuers, caches);
        let engine = engine(config, depot, who, certificates, public_url);
        Ok(Server {
            app: Arc::new(App::at_root(Arc::new(engine), identity.keys)),
            listeners,
            metrics_listeners,
            hangups,
            banner,
            lock,
        })
    }

    /// Where it listens.
    pub fn bound(&self) -> impl Iterator<Item = &Bound> {
        self.listeners.iter().map(Listener::bound)
    }

    /// Where operators are told how it is, if not there.
    pub fn metrics_bound(&self) -> impl Iterator<Item = &Bound> {
        self.metrics_listeners.iter().map(Listener::bound)
    }

    /// What its handlers work with.
    pub fn app(&self) -> &Shared {
        &self.app
    }

    /// What to print now.
    pub fn banner(&self) -> &str {
        &self.banner
    }

    /// Serves until `stop` is ready; then, unless `hurry` is ready before, lets those who send
    /// requests notice, and what is under way end.
    pub async fn serve(
        self,
        stop: impl Future<Output = ()>,
        hurry: impl Future<Output = ()> + Send,
    ) {
        let (app, hurry) = (self.app, hurry.shared());
        let service = |router| Service::new(router, &app.config.http, &app.metrics, &app.turns);
        let (front, doors) = (Front::new(app.clone()), Doors::new(app.clone()));
        let serving = service(router::router(app.clone())).behind(front, doors);
        let serving = serving.on(self.listeners);
        let operators = service(router::of_operators(app.clone())).on(self.metrics_listeners);
        count(&app);
        let background = background(&app, self.hangups);
        systemd::ready();
        stop.await;
        systemd::stopping();
        app.metrics.drain();
        app.events.end(); // who listens would be waited for
        tracing::info!("told to stop");
        tokio::select! {
            () = tokio::time::sleep(app.config.http.drain_delay()) => {},
            () = hurry.clone() => {},
        }
        app.scrubber.halt(); // its client would be waited for
        app.recompressor.halt();
        serving.end(hurry).await;
        background.iter().for_each(|task| task.abort());
        app.scrubber.stop().await;
        app.recompressor.stop().await;
        app.collector.stop().await;
        drop(operators); // until here they were told that it drains
        drop(app);
        drop(self.lock);
    }
}

fn engine(
    config: Config,
    depot: Depot,
    (gate, issuers, caches): (Gate, Issuers, Arc<Caches>),
    certificates: Option<Arc<Certificates>>,
    public_url: String,
) -> Engine {
    let (policy, interval) = (config.retention.policy(), config.retention.gc_interval());
    Engine {
        scrubber: Scrubber::new(depot.clone(), config.scrub.clone()),
        recompressor: Recompressor::new(
            depot.clone(),
            caches.clone(),
            config.recompression.clone(),
        ),
        collector: Collector::new(depot.clone(), policy, caches.clone(), interval),
        depot,
        caches,
        gate,
        issuers,
        // Looked at when the configuration was.
        upstreams: upstream::keys(&config.cache.upstream_keys).unwrap_or_default(),
        public_url,
        reads: Workers::new(config.reads.max_at_once),
        windows: Windows::default(),
        uploads: Workers::new(config.uploads.max_at_once),
        under_way: UnderWay::default(),
        commits: Workers::new(COMMITS_AT_ONCE),
        metrics: Arc::default(),
        certificates,
        narinfos: Narinfos::new(config.reads.narinfo_cache_bytes),
        small_nars: KeptNars::default(),
        layouts: KeptNars::default(),
        plans: Plans::default(),
        turns: Turns::default(),
        // So that those who listen leave as many connections to those who ask.
        events: Arc::new(Events::new(config.http.max_connections / 2)),
        patcher: Patcher::default(),
        conflicts: AtomicU64::new(0),
        config,
    }
}

/// Has what the named caches hold counted, from now on.
fn count(app: &Shared) {
    for named in app.caches.list() {
        let quota_bytes = named.settings.quota_bytes;
        app.depot.watch_holding(&named.cache, quota_bytes);
    }
    let depot = app.depot.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = depot.count_holdings() {
            tracing::error!(%error, "quotas are not kept until the next start or change of one");
        }
    });
}

/// What runs beside serving, until it is aborted. A cache that is read-only notes what is asked
/// for, and leaves the rest.
fn background(app: &Shared, hangups: Signal) -> Vec<JoinHandle<()>> {
    let mut tasks = vec![
        tokio::spawn(app.collector.clone().note()),
        tokio::spawn(systemd::keep_watch(app.depot.clone())),
        tokio::spawn(reload::keep_up(app.clone(), hangups)),
    ];
    if !app.config.read_only {
        tasks.push(tokio::spawn(app.scrubber.clone().by_itself()));
        tasks.push(tokio::spawn(app.recompressor.clone().by_itself()));
        tasks.push(tokio::spawn(app.collector.clone().by_itself()));
        let app = app.clone();
        tasks.push(tokio::spawn(async move {
            let named = app.caches.list();
            let named = named.iter().map(|named| named.cache.clone());
            let caches = std::iter::once(app.cache.clone()).chain(named).collect();
            app.patcher.by_itself(app.depot.clone(), caches).await;
        }));
    }
    tasks
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
        url_grace_s: config.retention.grace_s,
        max_patch_bytes: config.depot.patch_bytes,
        ..Options::new(&dir)
    };
    let opened = tokio::task::spawn_blocking(|| Depot::open(options)).await;
    let opened = opened.expect("invariant: opening a depot returns its errors");
    opened.map_err(|source| StartError::Depot {
        dir: dir.display().to_string(),
        source,
    })
}
