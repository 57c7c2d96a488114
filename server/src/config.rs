//! What can be configured, with its defaults: `config/snowcached.toml` is the same in prose, and a
//! test keeps them equal.
//!
//! Guarantees: a key or a variable that is misspelt is an error that names the nearest right one;
//! a flag wins over the environment, that over the file, the file over the default. Never: read
//! anywhere but here.

pub mod bind;
mod check;
mod error;
mod intake;
mod layers;
pub mod names;
mod service;
mod storage;

pub use error::{ConfigError, Mistakes, Origin};
pub use intake::{Reads, Uploads};
pub use layers::{Effective, Sources, addresses};
pub use service::{Http, Log, Metrics, Tls};
pub use storage::{Depot, Recompression, Retention, Scrub};

use serde::{Deserialize, Serialize};
use snowcache_core::upstream::NIXOS_KEY;
use std::path::PathBuf;

/// Everything that can be configured. Units are the last word of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where to listen: `ADDRESS:PORT` (port 0: any free one), `unix:PATH` or `systemd`.
    #[serde(with = "bind")]
    pub listen: Vec<String>,
    /// The folder of everything that is kept: keys, tokens, depot.
    pub data: PathBuf,
    /// The URL under which clients reach this server, when it is not `http://` + `listen` (a proxy
    /// in front, say).
    pub public_url: String,
    /// Whether nothing is taken in and nothing goes.
    pub read_only: bool,
    /// What the cache says of itself.
    pub cache: Cache,
    /// Who may write.
    pub auth: Auth,
    /// Connections.
    pub http: Http,
    /// Encryption of what comes by TCP.
    pub tls: Tls,
    /// What is taken in.
    pub uploads: Uploads,
    /// What is given out.
    pub reads: Reads,
    /// The storage engine.
    pub depot: Depot,
    /// What goes when.
    pub retention: Retention,
    /// Reading everything again, to find damage before a client does.
    pub scrub: Scrub,
    /// Compressing harder what nobody asks for.
    pub recompression: Recompression,
    /// What the server tells of its work.
    pub log: Log,
    /// What it counts.
    pub metrics: Metrics,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// `Priority` in nix-cache-info: lower is asked first (cache.nixos.org says 40).
    pub priority: u32,
    /// `WantMassQuery` in nix-cache-info.
    pub want_mass_query: bool,
    /// Whether anybody may read; otherwise reading takes a token, too.
    pub public: bool,
    /// The name of the key made at the first start; empty: `<hostname>-snowcache-1`.
    pub key_name: String,
    /// Public keys of caches that readers ask besides, separated by spaces: what one of them signed
    /// need not be here for what refers to it to be taken. Empty: closures are pushed whole.
    pub upstream_keys: String,
}

/// `[auth]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// Take writes over plain TCP from other machines, their token readable on the way.
    pub allow_plaintext_writes: bool,
    /// A file that says whose identities are exchanged for tokens; empty: nobody's.
    pub issuers_file: PathBuf,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: vec!["127.0.0.1:8420".to_owned()],
            data: PathBuf::from("./var"),
            public_url: String::new(),
            read_only: false,
            cache: Cache::default(),
            auth: Auth::default(),
            http: Http::default(),
            tls: Tls::default(),
            uploads: Uploads::default(),
            reads: Reads::default(),
            depot: Depot::default(),
            retention: Retention::default(),
            scrub: Scrub::default(),
            recompression: Recompression::default(),
            log: Log::default(),
            metrics: Metrics::default(),
        }
    }
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            priority: 30,
            want_mass_query: true,
            public: true,
            key_name: String::new(),
            upstream_keys: NIXOS_KEY.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
