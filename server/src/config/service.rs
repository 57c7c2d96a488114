//! Configuration of how the server is reached, and of what it tells of itself.

use super::bind;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

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
    /// After SIGTERM new requests are served for so long, while `/readyz` says 503.
    pub drain_delay_s: u64,
    /// For requests under way to end after that.
    pub shutdown_grace_s: u64,
    /// Who may connect to unix sockets, as for chmod, in octal.
    pub unix_socket_mode: String,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tls {
    /// The certificate and its chain, PEM; empty: no TLS.
    pub certificate_file: PathBuf,
    /// The certificate's private key, PEM.
    pub key_file: PathBuf,
    /// Between looks whether the files have changed; 0: only at SIGHUP.
    pub reload_interval_s: u64,
    /// For a client to agree on a cipher.
    pub handshake_timeout_s: u64,
}

/// `[metrics]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Metrics {
    /// Whether there is a `/metrics`.
    pub enabled: bool,
    /// Where to listen for it, and it alone; none: where everything else is.
    #[serde(with = "bind")]
    pub listen: Vec<String>,
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

impl Default for Http {
    /// A nix opens 25 connections, so 1024 are 40 machines at full tilt; a connection idles at
    /// about 20 KB. The heads of Nix have 300 bytes, those of a browser behind three proxies 8 KiB.
    fn default() -> Http {
        Http {
            max_connections: 1024,
            max_head_bytes: 64 << 10,
            header_timeout_s: 30,
            write_timeout_s: 60,
            drain_delay_s: 0,
            shutdown_grace_s: 30,
            unix_socket_mode: "0660".to_owned(),
        }
    }
}

impl Default for Tls {
    /// Certificates are renewed days before they end, so a minute is soon enough. A handshake takes
    /// two round trips: 10 s are enough across the worst of networks.
    fn default() -> Tls {
        Tls {
            certificate_file: PathBuf::new(),
            key_file: PathBuf::new(),
            reload_interval_s: 60,
            handshake_timeout_s: 10,
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            enabled: true,
            listen: Vec::new(),
        }
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

    /// `drain_delay_s`
    pub fn drain_delay(&self) -> Duration {
        Duration::from_secs(self.drain_delay_s)
    }

    /// `shutdown_grace_s`
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_secs(self.shutdown_grace_s)
    }

    /// `unix_socket_mode` as a number, if it is one.
    pub fn unix_socket_mode(&self) -> Option<u32> {
        let mode = u32::from_str_radix(&self.unix_socket_mode, 8).ok();
        mode.filter(|mode| *mode <= 0o777)
    }
}

impl Tls {
    /// Whether connections over TCP are encrypted.
    pub fn is_on(&self) -> bool {
        !self.certificate_file.as_os_str().is_empty()
    }
}
