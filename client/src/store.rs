//! This node's /nix/store, through its nix-daemon, as a [`Cache`].
//!
//! ```text
//!   hold              one connection that stays open, with a temporary root for each path
//!   roots, questions  over the same one, in turn: a process of the daemon takes longer
//!   put               a connection from the pool: AddToStoreNar, the end withheld until verified
//!   nar               a connection from the pool
//! ```
//!
//! Guarantees: the contract of [`Cache`], except that putting a valid path again adds no
//! signatures. What was held is not collected while this value lives, also where it becomes valid
//! only later. An import runs in a task of its own, so that several use several cores.
//! Never: a byte written to the store behind the daemon's back; an unverified signature.

mod error;
mod reading;
mod stream;

pub use error::StoreError;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::StreamExt;
use rustix::net::sockopt::set_socket_send_buffer_size;
use snowcache_core::cache::{Cache, NarStream, Narinfo, WHOLE_BYTES};
use snowcache_core::error::Error;
use snowcache_core::path_info::Claimed;
use snowcache_nix::daemon::{self, DaemonError, ImportError, Trust, ValidPath};
use snowcache_nix::{StoreHash, StorePath};
use std::io;
use std::num::NonZero;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::available_parallelism;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::{MappedMutexGuard, MutexGuard, Semaphore};
use tokio::time::{Instant, sleep, timeout};

/// Where every Nix listens.
pub const DEFAULT_SOCKET: &str = "/nix/var/nix/daemon-socket/socket";

/// A daemon forks for each connection; a busy machine may take a moment.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);

/// A daemon takes some milliseconds to fork for one of those who wait.
const DOOR_WAIT: Duration = Duration::from_millis(5);

/// What the daemon has not read yet of a NAR: it has something to do whenever it gets a processor.
/// Linux doubles it, for its own part in it, and allows 208 KiB where nobody set `wmem_max`.
const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Times that one hangs up in the middle of its hello before that is believed: those who come first
/// to a new store make its database, and all but one may fail at that (Nix 2.8).
const HELLOS: u32 = 4;
/// Before the second; twice as long before the next.
const HELLO_WAIT: Duration = Duration::from_millis(50);

/// Paths asked for in one request: 4,096 of at most 272 bytes are 1.1 MB.
const PATHS_PER_REQUEST: usize = 4096;

/// Idle connections that are kept: as many as are under way by default, 8 that are fetched and four
/// times as many that come to their ends. A daemon takes some milliseconds of a processor for a new
/// one.
const MAX_IDLE: usize = 32;

/// NARs that are here whole and are imported at a time: within these as many as there are cores.
/// A process of the daemon that is sent one without a pause keeps one busy, and is soon done with
/// many.
const WHOLE_AT_A_TIME: RangeInclusive<usize> = 2..=8;

type Connection = daemon::Connection<stream::From, stream::To>;

/// The node's store. Clones share their connections.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    socket: PathBuf,
    idle: Mutex<Vec<Connection>>,
    keeper: tokio::sync::Mutex<Option<Connection>>,
    imported_bytes: Arc<AtomicU64>,
    /// For NARs that are here whole.
    doors: Semaphore,
}

/// What a daemon says of itself.
#[derive(Clone, Debug)]
pub struct About {
    /// The version of the protocol that is spoken with it.
    pub protocol: daemon::ProtocolVersion,
    /// Its own version.
    pub nix_version: Option<String>,
    /// What it lets this user do.
    pub trust: Trust,
}

impl Store {
    /// The store behind this socket. Nothing is opened yet.
    pub fn at(socket: PathBuf) -> Store {
        let (few, many) = (WHOLE_AT_A_TIME.start(), WHOLE_AT_A_TIME.end());
        let cores = available_parallelism().map_or(*few, NonZero::get);
        Store {
            shared: Arc::new(Shared {
                socket,
                idle: Mutex::default(),
                keeper: tokio::sync::Mutex::default(),
                imported_bytes: Arc::default(),
                doors: Semaphore::new(cores.clamp(*few, *many)),
            }),
        }
    }

    /// Counts the NAR bytes given to the daemon.
    pub fn imported_bytes(&self) -> Arc<AtomicU64> {
        self.shared.imported_bytes.clone()
    }

    /// Who answers.
    ///
    /// # Errors
    /// When nobody does.
    pub async fn about(&self) -> Result<About, StoreError> {
        let keeper = self.keeper().await?;
        Ok(About {
            protocol: keeper.version(),
            nix_version: keeper.nix_version().map(str::to_owned),
            trust: keeper.trust(),
        })
    }

    /// Makes one more connection, for what will be asked over it.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn open_ahead(&self) -> Result<(), StoreError> {
        let connection = self.connect().await?;
        self.give_back(connection);
        Ok(())
    }

    /// Keeps these paths from being collected until this value is dropped, whether they are valid
    /// or will be.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn hold(&self, paths: &[StorePath]) -> Result<(), StoreError> {
        let held = self.keeper().await?.add_temp_roots(paths).await;
        held.map_err(|error| self.failed(error))
    }

    /// Lets go of every connection, and so of what was held: those of a daemon that went away.
    pub async fn forget_connections(&self) {
        self.idle().clear();
        drop(self.shared.keeper.lock().await.take());
    }

    /// Those of `paths` that are not valid, in their order.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn invalid(&self, paths: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
        let mut invalid = Vec::new();
        let mut keeper = self.keeper().await?;
        for some in paths.chunks(PATHS_PER_REQUEST) {
            let valid = keeper.valid_paths(some).await;
            let mut valid = valid.map_err(|error| self.failed(error))?;
            valid.sort_unstable();
            let is_invalid = |path: &&StorePath| valid.binary_search(path).is_err();
            invalid.extend(some.iter().filter(is_invalid).cloned());
        }
        Ok(invalid)
    }

    /// What the store knows of each of these, in their order; nothing of those that are not valid.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn path_infos(
        &self,
        paths: &[StorePath],
    ) -> Result<Vec<Option<ValidPath>>, StoreError> {
        let infos = self.keeper().await?.path_infos(paths).await;
        infos.map_err(|error| self.failed(error))
    }

    /// What the store knows of a valid path.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn path_info(&self, path: &StorePath) -> Result<Option<ValidPath>, StoreError> {
        let infos = self.path_infos(std::slice::from_ref(path)).await?;
        Ok(infos.into_iter().next().flatten())
    }

    /// Makes what these symlinks point to stay for as long as the links do.
    ///
    /// # Errors
    /// When the daemon cannot be asked.
    pub async fn add_indirect_roots(&self, links: &[PathBuf]) -> Result<(), StoreError> {
        let texts = links.iter().map(|link| link.to_string_lossy().into_owned());
        let texts: Vec<String> = texts.collect();
        let added = self.keeper().await?.add_indirect_roots(&texts).await;
        added.map_err(|error| self.failed(error))
    }

    /// As [`Cache::put`]; the end of the NAR, upon which the daemon wants the path's references to
    /// be valid, is given to it only after `then`.
    ///
    /// # Errors
    /// As those of [`Cache::put`].
    pub async fn put_after(
        &self,
        then: impl Future<Output = ()> + Send + 'static,
        claimed: Claimed,
        nar: NarStream,
    ) -> Result<(), Error> {
        let store = self.clone();
        let import = tokio::spawn(async move { store.import(then, claimed, nar).await });
        let abort = AbortOnDrop(import.abort_handle());
        let imported = import.await;
        drop(abort);
        imported.unwrap_or_else(|error| Err(reading::died(error)))
    }

    async fn import(
        &self,
        then: impl Future<Output = ()> + Send + 'static,
        claimed: Claimed,
        nar: NarStream,
    ) -> Result<(), Error> {
        let counter = self.imported_bytes();
        let nar = nar.withheld_until(then).inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                counter.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
        });
        // A small NAR comes whole, and only when its references are there: until then no process of
        // the daemon need wait for it, and from then on none waits for another one.
        let mut nar = pin!(nar.peekable());
        if let Some(Err(_)) = nar.as_mut().peek().await
            && let Some(Err(error)) = nar.next().await
        {
            return Err(error);
        }
        let info = claimed.info();
        let _door = match info.nar_size <= WHOLE_BYTES {
            true => self.shared.doors.acquire().await.ok(),
            false => None,
        };
        let mut connection = self.take().await?;
        let imported = connection.add_to_store_nar(info, nar).await;
        self.give_back(connection);
        match imported {
            Ok(()) => Ok(()),
            Err(ImportError::Nar(error)) => Err(error),
            Err(ImportError::Daemon(error)) => {
                Err(StoreError::of_import(&info.store_path, error).into())
            }
        }
    }

    /// The connection that holds. After one that broke off there is a new one, which holds nothing.
    async fn keeper(&self) -> Result<MappedMutexGuard<'_, Connection>, StoreError> {
        let mut keeper = self.shared.keeper.lock().await;
        if keeper.as_ref().is_none_or(Connection::is_spent) {
            *keeper = None;
            *keeper = Some(self.connect().await?);
        }
        Ok(MutexGuard::map(keeper, |keeper| {
            keeper.as_mut().expect("invariant: there is one now")
        }))
    }

    async fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle().pop();
        match idle {
            Some(connection) => Ok(connection),
            None => self.connect().await,
        }
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = self.idle();
        if !connection.is_spent() && idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // A list whose holder panicked is whole: it was pushed to or popped from.
        self.shared
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<Connection, StoreError> {
        let mut wait = HELLO_WAIT;
        for _ in 1..HELLOS {
            match self.greet().await {
                Err(StoreError::Daemon { source, .. }) if source.is_hangup() => sleep(wait).await,
                result => return result,
            }
            wait *= 2;
        }
        self.greet().await
    }

    async fn greet(&self) -> Result<Connection, StoreError> {
        let socket = self.socket().to_owned();
        let cannot = |source| StoreError::Connect {
            socket: self.socket().to_owned(),
            source,
        };
        let stream = reach(&socket).await.map_err(cannot)?;
        let (from, to) = stream.into_split();
        let hello = Connection::open(stream::From(from), stream::To(to));
        match timeout(HELLO_TIMEOUT, hello).await {
            Ok(connection) => connection.map_err(|error| self.failed(error)),
            Err(_) => Err(StoreError::Silent {
                socket,
                seconds: HELLO_TIMEOUT.as_secs(),
            }),
        }
    }

    fn socket(&self) -> &Path {
        &self.shared.socket
    }

    fn failed(&self, source: DaemonError) -> StoreError {
        let socket = self.socket().to_owned();
        StoreError::Daemon { socket, source }
    }
}

impl Cache for Store {
    fn narinfo(&self, hash: StoreHash) -> BoxFuture<'_, Result<Option<Narinfo>, Error>> {
        self.read_narinfo(hash).boxed()
    }

    fn nar<'a>(&'a self, narinfo: &'a Narinfo) -> BoxFuture<'a, Result<NarStream, Error>> {
        self.read_nar(narinfo).boxed()
    }

    fn missing<'a>(
        &'a self,
        hashes: &'a [StoreHash],
    ) -> BoxFuture<'a, Result<Vec<StoreHash>, Error>> {
        self.ask_missing(hashes).boxed()
    }

    fn put(&self, claimed: Claimed, nar: NarStream) -> BoxFuture<'_, Result<(), Error>> {
        self.put_after(std::future::ready(()), claimed, nar).boxed()
    }
}

/// Connects. A daemon lets five wait at its door (Nix 2.8: `listen(fd, 5)`); whoever comes while
/// they do is told to come again, which is no failure.
async fn reach(socket: &Path) -> io::Result<UnixStream> {
    let begin = Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => {
                // A smaller one serves, too.
                let _smaller = set_socket_send_buffer_size(&stream, SEND_BUFFER_BYTES);
                return Ok(stream);
            }
            Err(error)
                if error.kind() == io::ErrorKind::WouldBlock && begin.elapsed() < HELLO_TIMEOUT =>
            {
                sleep(DOOR_WAIT).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whoever is no longer interested in an import ends it.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
