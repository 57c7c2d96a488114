//! What can go wrong between here and this node's store, in sentences that say what to do.

use snowcache_core::error::{Blame, Error, Kind};
use snowcache_nix::StorePath;
use snowcache_nix::daemon::DaemonError;
use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// What went wrong with the node's store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Nobody listens.
    #[error(
        "cannot reach the nix-daemon at {}: {source}; is it running, and may you use it? \
         --store-socket or $NIX_DAEMON_SOCKET_PATH names another socket", .socket.display()
    )]
    Connect {
        /// Where it should be.
        socket: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It listens and does not answer.
    #[error("the nix-daemon at {} did not say hello within {seconds} s", .socket.display())]
    Silent {
        /// Where it is.
        socket: PathBuf,
        /// How long it was waited.
        seconds: u64,
    },
    /// A question that went wrong.
    #[error("the store at {}: {source}", .socket.display())]
    Daemon {
        /// Where it is.
        socket: PathBuf,
        /// What.
        source: DaemonError,
    },
    /// The node's disk.
    #[error(
        "the node's disk is full: {path} was not imported ({text}); make room \
         (nix-collect-garbage, or move what is not Nix's) and run the same again: what is valid \
         already stays (df -h shows what is free, df -i the inodes)"
    )]
    Full {
        /// What did not fit.
        path: StorePath,
        /// In the daemon's words.
        text: String,
    },
    /// The daemon does not trust the key.
    #[error(
        "the nix-daemon does not trust the signatures of {path}: {text}; its nix.conf must have \
         the cache's key among trusted-public-keys (and the daemon be restarted after a change)"
    )]
    Untrusted {
        /// What was refused.
        path: StorePath,
        /// In the daemon's words.
        text: String,
    },
    /// Any other import that went wrong.
    #[error("{path} was not imported: {source}")]
    Import {
        /// What was refused.
        path: StorePath,
        /// What.
        source: DaemonError,
    },
}

impl StoreError {
    /// What a failed import means. A daemon says everything in words only.
    pub(super) fn of_import(path: &StorePath, source: DaemonError) -> StoreError {
        let path = path.clone();
        match source {
            DaemonError::Refused(text) if text.contains("No space left on device") => {
                StoreError::Full { path, text }
            }
            DaemonError::Refused(text) if text.contains("Disk quota exceeded") => {
                StoreError::Full { path, text }
            }
            DaemonError::Refused(text)
                if text.contains("signature by a trusted key")
                    || text.contains("lacks a valid signature") =>
            {
                StoreError::Untrusted { path, text }
            }
            source => StoreError::Import { path, source },
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let kind = match &error {
            StoreError::Connect { .. } | StoreError::Silent { .. } => Kind::Unavailable,
            StoreError::Full { .. } => Kind::TooMuch,
            StoreError::Untrusted { .. } => Kind::Denied,
            StoreError::Daemon { source, .. } | StoreError::Import { source, .. } => match source {
                DaemonError::Io { .. } | DaemonError::Closed | DaemonError::Spent => {
                    Kind::Unavailable
                }
                _ => Kind::Invalid,
            },
        };
        Error::new(kind, Blame::Storage, error)
    }
}
