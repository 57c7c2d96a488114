//! The worker protocol: how one talks to a nix-daemon, the one door to a node's store.
//!
//! Everything is numbers (little-endian u64) and strings (their length, the bytes, zeros up to a
//! multiple of eight). A client says hello once, then asks one thing after another:
//!
//! ```text
//!   client                                      daemon
//!   "nixc" <version>  ------------------------>
//!                     <------------------------ "dxio" <version>
//!   [features, from 1.38] 0 0  --------------->
//!                     <------------------------ [features] <nix's version> [trust, from 1.35]
//!                     <------------------------ messages LAST
//!   <operation> <arguments>  ----------------->
//!                     <------------------------ messages, then LAST <answer>, or ERROR <text>
//!   AddToStoreNar: <path's facts> { <length> <bytes> } 0  -->
//! ```
//!
//! Guarantees: works with protocol 1.32 (Nix 2.4) and newer; every length that comes from the
//! daemon is checked against a named limit before memory is taken for it; whatever bytes come, the
//! worst is an error; a daemon's refusal is told in the daemon's own words. Signatures are always
//! checked: there is no way here to ask the daemon not to.
//! Never: a connection of its own (the caller passes the two halves of a stream), a clock, or a
//! request on a connection on which another one was broken off.
//!
//! Source of numbers and orders: Nix, `src/libstore/worker-protocol{,-connection}.{hh,cc}`,
//! `remote-store.cc` and `daemon.cc` of 2.8.0, 2.26.3 and 2.35.2.

mod connection;
mod error;
mod export;
mod import;
mod messages;
mod wire;

pub use connection::{Connection, Trust, ValidPath};
pub use error::{DaemonError, ImportError};

/// `(major << 8) | minor`, as it goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion(u16);

impl ProtocolVersion {
    /// The newest that this client speaks: 1.38, of Nix 2.25 and everything since, which negotiates
    /// features instead of counting on. This client needs none of them.
    pub const NEWEST: Self = Self(1 << 8 | 38);
    /// The oldest: 1.32, of Nix 2.4.
    pub const OLDEST: Self = Self(1 << 8 | 32);

    /// The number before the dot.
    pub fn major(self) -> u16 {
        self.0 >> 8
    }

    /// The number behind it.
    pub fn minor(self) -> u16 {
        self.0 & 0xff
    }
}

impl std::fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())
    }
}

/// What a client can ask for, as far as this one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Operation {
    AddTempRoot = 11,
    AddIndirectRoot = 12,
    SetOptions = 19,
    QueryPathInfo = 26,
    QueryPathFromHashPart = 29,
    QueryValidPaths = 31,
    NarFromPath = 38,
    AddToStoreNar = 39,
}

#[cfg(test)]
mod tests;
