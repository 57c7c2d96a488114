//! Reading from the node's store: what it knows of paths, and their NARs.

use super::{Store, StoreError};
use bytes::Bytes;
use futures::stream::unfold;
use snowcache_core::cache::{NarStream, Narinfo};
use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::daemon::DaemonError;
use snowcache_nix::{Compression, StoreHash};
use std::collections::BTreeSet;

impl Store {
    pub(super) async fn read_narinfo(&self, hash: StoreHash) -> Result<Option<Narinfo>, Error> {
        let mut keeper = self.keeper().await?;
        let path = keeper.path_of(hash).await;
        let info = match path.map_err(|error| self.failed(error))? {
            None => None,
            Some(path) => {
                let info = keeper.path_info(&path).await;
                info.map_err(|error| self.failed(error))?
            }
        };
        Ok(info.map(|known| Narinfo {
            url: known.info.store_path.absolute(),
            file_size_bytes: Some(known.info.nar_size),
            compression: Compression::None,
            info: known.info,
        }))
    }

    pub(super) async fn read_nar(&self, narinfo: &Narinfo) -> Result<NarStream, Error> {
        let mut connection = self.take().await?;
        let info = &narinfo.info;
        let begun = connection.begin_nar(&info.store_path).await;
        begun.map_err(|error| match error {
            DaemonError::Refused(_) => {
                Error::new(Kind::Missing, Blame::Storage, self.failed(error))
            }
            error => self.failed(error).into(),
        })?;
        let reading = (self.clone(), connection);
        let chunks = unfold(Some(reading), |reading| async {
            let (store, mut connection) = reading?;
            match connection.next_of_nar().await {
                Ok(Some(chunk)) => Some((Ok(Bytes::from(chunk)), Some((store, connection)))),
                Ok(None) => {
                    store.give_back(connection);
                    None
                }
                Err(error) => Some((Err(store.failed(error).into()), None)),
            }
        });
        let (nar_hash, nar_size) = (info.nar_hash, info.nar_size);
        Ok(NarStream::new(nar_hash, nar_size, Blame::Storage, chunks))
    }

    pub(super) async fn ask_missing(&self, hashes: &[StoreHash]) -> Result<Vec<StoreHash>, Error> {
        let (mut missing, mut seen) = (Vec::new(), BTreeSet::new());
        let mut keeper = self.keeper().await?;
        for &hash in hashes.iter().filter(|&&hash| seen.insert(hash)) {
            let path = keeper.path_of(hash).await;
            if path.map_err(|error| self.failed(error))?.is_none() {
                missing.push(hash);
            }
        }
        Ok(missing)
    }
}

/// An import's task that ended without a result.
pub(super) fn died(error: tokio::task::JoinError) -> Error {
    Error::new(Kind::Unavailable, Blame::Storage, error)
}

impl StoreError {
    /// Whether the daemon, not the path, is the matter: what was going on can be done again once it
    /// is back.
    pub fn is_passing(&self) -> bool {
        match self {
            StoreError::Connect { .. } | StoreError::Silent { .. } => true,
            StoreError::Daemon { source, .. } | StoreError::Import { source, .. } => matches!(
                source,
                DaemonError::Io { .. } | DaemonError::Closed | DaemonError::Spent
            ),
            StoreError::Full { .. } | StoreError::Untrusted { .. } => false,
        }
    }
}
