//! What can be configured, with its defaults: `config/snowcached.toml` is the same in prose, and a
//! test keeps them equal.
//!
//! Guarantees: a key that is misspelt is an error that names the nearest right one; a flag wins
//! over the file, the file over the default. Never: read anywhere but here.

mod names;
mod storage;

pub use storage::{Depot, Retention, Scrub};

use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// Why the configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot be read; give --config the path of a snowcached.toml", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value is not of its key's type.
    #[error("{}: {problem}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Where in it and why.
        #[source]
        problem: toml::de::Error,
    },
    /// A key that does not exist.
    #[error("{}: there is no key `{key}`; did you mean `{nearest}`?", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// As written.
        key: String,
        /// The key that exists.
        nearest: String,
    },
    /// A value that the server cannot work with.
    #[error("`{key}` is {value}: {rule}")]
    Value {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
}

/// Everything that can be configured. Units are the last word of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where to listen: `ADDRESS:PORT` (port 0: any free one) or `unix:PATH`.
    pub listen: String,
    /// The folder of everything that is kept: keys, tokens, depot.
    pub data: PathBuf,
    /// The URL under which clients reach this server, when it is not `http://` + `listen` (a proxy
    /// in front, say).
    pub public_url: String,
    /// What the cache says of itself.
    pub cache: Cache,
    /// Who may write.
    pub auth: Auth,
    /// Connections.
    pub http: Http,
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
    /// What the server tells of its work.
    pub log: Log,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cache {
    /// `Priority` in nix-cache-info: lower is asked first (cache.nixos.org says 40).
    pub priority: u32,
    /// `WantMassQuery` in nix-cache-info.
    pub want_mass_query: bool,
    /// The name of the key made at the first start; empty: `<hostname>-snowcache-1`.
    pub key_name: String,
}

/// `[auth]`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Auth {
    /// Take writes over plain TCP from other machines, their token readable on the way.
    pub allow_plaintext_writes: bool,
}

/// `[http]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Http {
    /// Connections served at once; more wait in the kernel's queue.
    pub max_connections: usize,
    /// The largest head of a request.
    pub max_head_bytes: usize,
    /// For a request's head to arrive, and for an idle connection to ask again.
    pub header_timeout_s: u64,
    /// A connection that takes no byte of its answer for so long is closed.
    pub write_timeout_s: u64,
    /// For requests under way to end after SIGTERM.
    pub shutdown_grace_s: u64,
}

/// `[uploads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Uploads {
    /// NARs taken in at once.
    pub max_at_once: usize,
    /// A NAR that finds no place waits so long for one before it is answered 503.
    pub wait_s: u64,
    /// An upload that sends no byte for so long is given up.
    pub stall_timeout_s: u64,
    /// How long a NAR without narinfo is kept.
    pub lease_s: u64,
    /// What one token may have uploaded that has no narinfo yet, unpacked.
    pub max_leased_bytes: u64,
    /// The largest NAR, unpacked; the packed one may not be larger either.
    pub max_nar_size_bytes: u64,
    /// Unpacked bytes allowed for each packed one, past the first GiB.
    pub max_expansion: u64,
    /// Memory that one decoder may take for its dictionary or window.
    pub decoder_memory_bytes: u64,
    /// The largest narinfo, realisation or build trace.
    pub max_narinfo_bytes: u64,
    /// The largest build log, unpacked.
    pub max_log_bytes: u64,
    /// The largest listing or debuginfo link, which is read and thrown away.
    pub max_listing_bytes: u64,
}

/// `[reads]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reads {
    /// Disk reads at once; a download holds one only while it fetches its next bytes.
    pub max_at_once: usize,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Log {
    /// `text` or `json`, one event a line on stderr.
    pub format: String,
    /// Which events: `error`, `warn`, `info`, `debug`, `trace`, or per module as in
    /// `info,snowcache_server=debug`.
    pub filter: String,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: "127.0.0.1:8420".to_owned(),
            data: PathBuf::from("./var"),
            public_url: String::new(),
            cache: Cache::default(),
            auth: Auth::default(),
            http: Http::default(),
            uploads: Uploads::default(),
            reads: Reads::default(),
            depot: Depot::default(),
            retention: Retention::default(),
            scrub: Scrub::default(),
            log: Log::default(),
        }
    }
}

impl Default for Cache {
    fn default() -> Cache {
        Cache {
            priority: 30,
            want_mass_query: true,
            key_name: String::new(),
        }
    }
}

impl Default for Http {
    /// A nix opens 25 connections, so 1024 are 40 machines at full tilt; a connection idles at
    /// about 20 KB. The heads of Nix have 300 bytes, those of a browser behind three proxies 8 KiB.
    fn default() -> Http {
        Http {
            max_connections: 1024,
            max_head_bytes: 64 << 10,
            header_timeout_s: 30,
            write_timeout_s: 60,
            shutdown_grace_s: 30,
        }
    }
}

impl Default for Uploads {
    /// 64 uploads x (1 MiB of queued body + 0.25 MiB of decoded bytes + the codec's 1..8 MiB) are
    /// at most 600 MiB with the codecs' usual settings. 256 GiB is ten times the largest NAR we
    /// know of. gzip packs at most 1032:1, xz about 7000:1, so 10,000:1 is what only bzip2, br and
    /// zstd bombs reach. A narinfo with 10,000 references has 0.6 MB. Nix 2.36 sends all NARs of a
    /// closure before the first narinfo, so a lease quota is for whole closures: 512 GiB are two of
    /// the largest NARs.
    fn default() -> Uploads {
        Uploads {
            max_at_once: 64,
            wait_s: 60,
            stall_timeout_s: 60,
            lease_s: 24 * 60 * 60,
            max_leased_bytes: 512 << 30,
            max_nar_size_bytes: 256 << 30,
            max_expansion: 40_000,
            decoder_memory_bytes: 128 << 20,
            max_narinfo_bytes: 1 << 20,
            max_log_bytes: 64 << 20,
            max_listing_bytes: 256 << 20,
        }
    }
}

impl Default for Reads {
    /// Enough to keep a disk's queue full. A download holds at most one extent of 2 MiB: 256 of
    /// them at full speed are half a GiB.
    fn default() -> Reads {
        Reads { max_at_once: 32 }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            format: "text".to_owned(),
            filter: "info".to_owned(),
        }
    }
}

impl Http {
    /// `header_timeout_s`
    pub fn header_timeout(&self) -> Duration {
        Duration::from_secs(self.header_timeout_s)
    }

    /// `write_timeout_s`
    pub fn write_timeout(&self) -> Duration {
        Duration::from_secs(self.write_timeout_s)
    }

    /// `shutdown_grace_s`
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_s)
    }
}

impl Config {
    /// Reads a file and fills what it leaves out with the defaults.
    ///
    /// # Errors
    /// [`ConfigError`], naming the file and the key.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        Config::parse(&text, path)
    }

    fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let invalid = |problem| ConfigError::Invalid {
            path: path.to_owned(),
            problem,
        };
        let table: toml::Table = toml::from_str(text).map_err(invalid)?;
        if let Some((key, nearest)) = names::unknown(&table, &names::known()) {
            return Err(ConfigError::UnknownKey {
                path: path.to_owned(),
                key,
                nearest,
            });
        }
        toml::from_str(text).map_err(invalid)
    }

    /// Refuses what the server cannot work with.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first such key.
    pub fn checked(self) -> Result<Config, ConfigError> {
        let at_least_one: [(&'static str, u64); 12] = [
            ("http.max_connections", self.http.max_connections as u64),
            ("http.max_head_bytes", self.http.max_head_bytes as u64),
            ("http.header_timeout_s", self.http.header_timeout_s),
            ("http.write_timeout_s", self.http.write_timeout_s),
            ("uploads.max_at_once", self.uploads.max_at_once as u64),
            ("uploads.stall_timeout_s", self.uploads.stall_timeout_s),
            ("uploads.lease_s", self.uploads.lease_s),
            (
                "uploads.max_nar_size_bytes",
                self.uploads.max_nar_size_bytes,
            ),
            ("uploads.max_expansion", self.uploads.max_expansion),
            ("uploads.max_leased_bytes", self.uploads.max_leased_bytes),
            ("reads.max_at_once", self.reads.max_at_once as u64),
            ("scrub.rate_bytes_per_s", self.scrub.rate_bytes_per_s),
        ];
        let value = |key, value: &dyn std::fmt::Display, rule| ConfigError::Value {
            key,
            value: value.to_string(),
            rule,
        };
        if let Some((key, zero)) = at_least_one.iter().find(|(_, limit)| *limit == 0) {
            return Err(value(key, zero, "it must be at least 1"));
        }
        if !(1..=19).contains(&self.depot.zstd_level) {
            return Err(value(
                "depot.zstd_level",
                &self.depot.zstd_level,
                "it must be 1 to 19",
            ));
        }
        if !(1..=90).contains(&self.retention.max_garbage_percent) {
            return Err(value(
                "retention.max_garbage_percent",
                &self.retention.max_garbage_percent,
                "it must be 1 to 90",
            ));
        }
        if !["text", "json"].contains(&self.log.format.as_str()) {
            return Err(value(
                "log.format",
                &self.log.format,
                "it must be text or json",
            ));
        }
        let url = &self.public_url;
        if !(url.is_empty() || url.starts_with("http://") || url.starts_with("https://")) {
            return Err(value(
                "public_url",
                url,
                "it must be empty, or begin with http:// or https://",
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests;
