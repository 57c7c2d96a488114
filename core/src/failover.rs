//! What nix.conf must say so that a cache that is gone does not hold its clients up.
//!
//! Never: read from anywhere; server, client and documents tell the same.

/// A cache that died or stalls costs a client with another substituter less than 30 s: a download
/// of which no byte arrives is given up after 5 s, thrice, with pauses of at most 1.1 s in all, so
/// 16 s, measured 18 to 20; `fallback` makes Nix leave the cache alone for a minute then. With
/// Nix's own values it is 5 times 300 s, for every path anew.
pub const NIX_CONF: [&str; 4] = [
    "connect-timeout = 5",
    "stalled-download-timeout = 5",
    "download-attempts = 3",
    "fallback = true",
];
