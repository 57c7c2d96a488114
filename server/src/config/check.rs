//! What the server cannot work with, although it is of the right type.

use super::bind;
use super::{Config, ConfigError};
use crate::observe::FILTER_RULE;
use snowcache_core::upstream;
use tracing_subscriber::EnvFilter;

impl Config {
    /// Refuses what the server cannot work with.
    ///
    /// # Errors
    /// [`ConfigError::Value`] for the first such key.
    pub fn checked(self) -> Result<Config, ConfigError> {
        self.at_least_one()?;
        self.within()?;
        let texts: [(bool, &'static str, &dyn std::fmt::Display, &'static str); 8] = [
            (
                ["text", "json"].contains(&self.log.format.as_str()),
                "log.format",
                &self.log.format,
                "it must be text or json",
            ),
            (
                EnvFilter::try_new(&self.log.filter).is_ok(),
                "log.filter",
                &self.log.filter,
                FILTER_RULE,
            ),
            (
                upstream::keys(&self.cache.upstream_keys).is_ok(),
                "cache.upstream_keys",
                &self.cache.upstream_keys,
                KEYS,
            ),
            (
                is_url_or_empty(&self.public_url),
                "public_url",
                &self.public_url,
                "it must be empty, or begin with http:// or https://",
            ),
            (
                self.http.unix_socket_mode().is_some(),
                "http.unix_socket_mode",
                &self.http.unix_socket_mode,
                "it must be permissions in octal, as for chmod: \"0660\"",
            ),
            (
                !self.listen.is_empty() && self.listen.iter().all(|one| bind::is_one(one)),
                "listen",
                &self.listen.join(", "),
                ADDRESSES,
            ),
            (
                self.metrics.listen.iter().all(|one| bind::is_one(one)),
                "metrics.listen",
                &self.metrics.listen.join(", "),
                ADDRESSES,
            ),
            (
                self.tls.is_on() != self.tls.key_file.as_os_str().is_empty(),
                "tls.key_file",
                &self.tls.key_file.display(),
                "tls.certificate_file and tls.key_file go together: set both or none",
            ),
        ];
        match texts.into_iter().find(|(right, ..)| !right) {
            None => {}
            Some((_, key, value, rule)) => return Err(wrong(key, value, rule)),
        }
        Ok(self)
    }

    fn within(&self) -> Result<(), ConfigError> {
        let percent = self.retention.max_garbage_percent;
        let (level, again) = (self.depot.zstd_level, self.recompression.level);
        let within: [(bool, &'static str, &dyn std::fmt::Display, &'static str); 3] = [
            (
                (1..=19).contains(&again),
                "recompression.level",
                &again,
                "it must be 1 to 19",
            ),
            (
                (1..=19).contains(&level),
                "depot.zstd_level",
                &level,
                "it must be 1 to 19",
            ),
            (
                (1..=90).contains(&percent),
                "retention.max_garbage_percent",
                &percent,
                "it must be 1 to 90",
            ),
        ];
        match within.into_iter().find(|(right, ..)| !right) {
            None => Ok(()),
            Some((_, key, value, rule)) => Err(wrong(key, value, rule)),
        }
    }

    fn at_least_one(&self) -> Result<(), ConfigError> {
        let Config { http, uploads, .. } = self;
        let at_least_one: [(&'static str, u64); 14] = [
            ("http.max_connections", http.max_connections as u64),
            ("http.max_head_bytes", http.max_head_bytes as u64),
            ("http.header_timeout_s", http.header_timeout_s),
            ("http.write_timeout_s", http.write_timeout_s),
            ("uploads.max_at_once", uploads.max_at_once as u64),
            ("uploads.stall_timeout_s", uploads.stall_timeout_s),
            ("uploads.lease_s", uploads.lease_s),
            ("uploads.max_nar_size_bytes", uploads.max_nar_size_bytes),
            ("uploads.max_expansion", uploads.max_expansion),
            ("uploads.max_leased_bytes", uploads.max_leased_bytes),
            ("reads.max_at_once", self.reads.max_at_once as u64),
            ("scrub.rate_bytes_per_s", self.scrub.rate_bytes_per_s),
            (
                "recompression.rate_bytes_per_s",
                self.recompression.rate_bytes_per_s,
            ),
            ("tls.handshake_timeout_s", self.tls.handshake_timeout_s),
        ];
        match at_least_one.iter().find(|(_, limit)| *limit == 0) {
            None => Ok(()),
            Some((key, zero)) => Err(wrong(key, zero, "it must be at least 1")),
        }
    }
}

const KEYS: &str = "it must be public keys, NAME:BASE64, separated by spaces, as nix.conf has them";

const ADDRESSES: &str =
    "it must be ADDRESS:PORT ([::]:8420 for IPv6), unix:PATH or systemd, or a list of such";

fn is_url_or_empty(url: &str) -> bool {
    url.is_empty() || url.starts_with("http://") || url.starts_with("https://")
}

fn wrong(key: &'static str, value: &dyn std::fmt::Display, rule: &'static str) -> ConfigError {
    let value = match value.to_string() {
        empty if empty.is_empty() => "empty".to_owned(),
        value => value,
    };
    ConfigError::Value {
        origin: None,
        key,
        value,
        rule,
    }
}
