//! Why a daemon could not be talked to, or what it refused.

use std::io;

use thiserror::Error;

use super::ProtocolVersion;
use crate::hash::HashError;
use crate::nar::NarError;
use crate::store_path::StorePathError;

/// What went wrong between here and a nix-daemon.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The connection failed.
    #[error("the connection to the nix-daemon failed while {doing}: {source}")]
    Io {
        /// Reading or writing.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The daemon hung up in the middle of something.
    #[error("the nix-daemon closed the connection; its log says why")]
    Closed,
    /// Something else listens there.
    #[error("what answered is no nix-daemon: it begins with 0x{found:x}")]
    NotADaemon {
        /// The first number that it sent.
        found: u64,
    },
    /// A daemon from another time.
    #[error(
        "the nix-daemon speaks protocol {found}, this needs {} to {}.x; use Nix 2.4 or newer",
        ProtocolVersion::OLDEST,
        ProtocolVersion::NEWEST.major()
    )]
    Version {
        /// What it speaks.
        found: ProtocolVersion,
    },
    /// The daemon said no, in its own words.
    #[error("the nix-daemon refused: {0}")]
    Refused(String),
    /// More than what is asked for can have.
    #[error("the nix-daemon sent {what} of {found}, the limit is {limit}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// Its length, in bytes or entries.
        found: u64,
        /// The most that is read.
        limit: u64,
    },
    /// Something that does not belong there.
    #[error("the nix-daemon sent 0x{found:x} where {expected} belongs")]
    Unexpected {
        /// What belongs there.
        expected: &'static str,
        /// What came.
        found: u64,
    },
    /// A string that is not what it should be.
    #[error("the nix-daemon sent a text that is no {expected}")]
    Text {
        /// What it should be.
        expected: &'static str,
    },
    /// A path that is none.
    #[error("the nix-daemon sent a bad store path: {0}")]
    Path(#[from] StorePathError),
    /// A hash that is none.
    #[error("the nix-daemon sent a bad hash: {0}")]
    Hash(#[from] HashError),
    /// Not the NAR that was asked for, nor any other.
    #[error("the nix-daemon sent a bad NAR: {0}")]
    Nar(#[from] NarError),
    /// A request on this connection was broken off, so nobody knows where it stands.
    #[error("this connection to the nix-daemon was left in the middle of a request; open another")]
    Spent,
}

impl DaemonError {
    /// Whether the other side hung up.
    pub fn is_hangup(&self) -> bool {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match self {
            Self::Closed => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
            }
            _ => false,
        }
    }

    /// Whether it was a clear no, after which the connection can be used on.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// Why a NAR was not imported.
#[derive(Debug)]
pub enum ImportError<E> {
    /// The NAR's own stream failed; the daemon has thrown away what it had of it.
    Nar(E),
    /// The daemon, or the way to it.
    Daemon(DaemonError),
}
