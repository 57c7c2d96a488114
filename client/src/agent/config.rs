//! The configuration of the agent: `agent.toml`.
//!
//! Guarantees: every key has a default, so that no file at all is a good one; a key that does not
//! exist is refused, with the one that was probably meant. Never: a token in it; it names a file.

use crate::frame_spool;
use crate::node::{Node, check_pin};
use crate::rate::BytesPerSecond;
use crate::remote::{Endpoint, Remote};
use crate::store::DEFAULT_SOCKET;
use serde::{Deserialize, Serialize};
use snowcache_core::nearest::nearest;
use snowcache_nix::PublicKey;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use thiserror::Error;
use toml::{Table, Value};

/// Where it is when nobody says otherwise.
pub const DEFAULT_FILE: &str = "/etc/snowcache/agent.toml";
/// A poll of a pin is one small request; more often than this is no use.
const MIN_INTERVAL_S: u64 = 1;
/// With 10 MB/s it is 6 TB, far more than a node has; 10 GB are read in 17 minutes of it, in which
/// a core that reads and hashes a GB in two seconds is busy with it for 2 %.
const WEEK_S: u64 = 7 * 24 * 3600;
/// A file of a token has a line of 100 characters or, of an issuer, a few KB.
const MAX_TOKEN_BYTES: usize = 64 << 10;

/// What the agent is told.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The control socket.
    pub socket: PathBuf,
    /// Whose members may command it, besides root; empty: nobody's.
    pub group: String,
    /// The folder of this node's pins, receipts and jobs; empty: the default.
    pub state: PathBuf,
    /// The nix-daemon's.
    pub store_socket: PathBuf,
    /// How closures are fetched.
    pub fetch: Fetch,
    /// How often what failed is tried.
    pub retry: Retry,
    /// How often what is here is hashed again.
    pub rehash: Rehash,
    /// Where it is measured.
    pub metrics: Metrics,
    /// Pins of a cache that are followed.
    pub follow: Vec<Follow>,
}

/// `[fetch]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// Any binary caches, in the order in which they are asked.
    pub caches: Vec<String>,
    /// The token for the first of them; empty: none.
    pub token_file: PathBuf,
    /// Of which one must have signed each path; none: those of nix.conf.
    pub trusted_public_keys: Vec<String>,
    /// Paths at a time.
    pub jobs: u16,
    /// `50MB/s`, or `unlimited`.
    pub rate: String,
    /// What is kept of paths under way; 0: nothing.
    pub spool_bytes: u64,
}

/// `[retry]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// The longest wait after the first failure; it doubles with each.
    pub first_wait_s: u64,
    /// And is never longer than this.
    pub longest_wait_s: u64,
    /// How long what nobody gave a deadline is tried again while no cache can be reached.
    pub patience_s: u64,
}

/// `[rehash]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rehash {
    /// From the beginning of a pass to the next one's, at most; 0: never.
    pub period_s: u64,
    /// `10MB/s`, or `unlimited`.
    pub rate: String,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// An address for Prometheus; empty: only the control socket has them.
    pub listen: String,
}

/// `[[follow]]`
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Follow {
    /// Its name in the cache.
    pub pin: String,
    /// Which cache; empty: the first.
    pub cache: String,
    /// The name of the node's own pin; empty: the same.
    #[serde(rename = "as")]
    pub name: String,
    /// How long to wait, on average, before it is looked at again.
    pub interval_s: u64,
    /// What it points to goes before what has a lower one.
    pub priority: i32,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            socket: super::default_socket(),
            group: String::new(),
            state: PathBuf::new(),
            store_socket: DEFAULT_SOCKET.into(),
            fetch: Fetch::default(),
            retry: Retry::default(),
            rehash: Rehash::default(),
            metrics: Metrics::default(),
            follow: Vec::new(),
        }
    }
}

impl Default for Fetch {
    fn default() -> Fetch {
        Fetch {
            caches: vec!["http://127.0.0.1:8420".to_owned()],
            token_file: PathBuf::new(),
            trusted_public_keys: Vec::new(),
            jobs: 8,
            rate: "unlimited".to_owned(),
            spool_bytes: frame_spool::DEFAULT_BUDGET_BYTES,
        }
    }
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            first_wait_s: 2,
            longest_wait_s: 60,
            patience_s: 3600,
        }
    }
}

impl Default for Rehash {
    fn default() -> Rehash {
        Rehash {
            period_s: WEEK_S,
            rate: "10MB/s".to_owned(),
        }
    }
}

impl Rehash {
    /// How fast it may read.
    pub fn rate(&self) -> BytesPerSecond {
        self.rate.parse().unwrap_or_default()
    }
}

impl Default for Follow {
    fn default() -> Follow {
        Follow {
            pin: String::new(),
            cache: String::new(),
            name: String::new(),
            interval_s: 60,
            priority: 0,
        }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}; give --config the path of an agent.toml", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML, or a value is of the wrong kind.
    #[error("{}: {source}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it, and why.
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("{}: there is no key `{key}`; did you mean `{nearest}`?", .path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// As written.
        key: String,
        /// What may have been meant.
        nearest: String,
    },
    /// A value that cannot be.
    #[error("{}: `{key}`: {problem}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Whose value.
        key: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
}

impl Config {
    /// What a file says; without one the default file, if it is there.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn read(file: Option<&Path>) -> Result<Config, ConfigError> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        match fs::read_to_string(path) {
            Ok(text) => Config::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {
                Ok(Config::default())
            }
            Err(source) => Err(ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            }),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Config, ConfigError> {
        let syntax = |source| ConfigError::Syntax {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let table: Table = text.parse().map_err(syntax)?;
        check_keys(&table, &known(), "", path)?;
        // From the text, so that what is of the wrong kind is shown where it stands.
        let mut config: Config = toml::from_str(text).map_err(syntax)?;
        config
            .check()
            .map_err(|(key, problem)| ConfigError::Value {
                path: path.to_owned(),
                key,
                problem,
            })?;
        for follow in &mut config.follow {
            if follow.name.is_empty() {
                follow.name.clone_from(&follow.pin);
            }
            if follow.cache.is_empty() {
                follow.cache.clone_from(&config.fetch.caches[0]);
            }
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |key: &str, problem: String| Err((key.to_owned(), problem));
        let fetch = &self.fetch;
        if fetch.caches.is_empty() {
            return wrong("fetch.caches", "name at least one cache".to_owned());
        }
        for url in fetch
            .caches
            .iter()
            .chain(self.follow.iter().map(|it| &it.cache))
        {
            if let Err(error) = url.parse::<Endpoint>()
                && !url.is_empty()
            {
                return wrong("fetch.caches", error.to_string());
            }
        }
        for key in &fetch.trusted_public_keys {
            if let Err(error) = key.parse::<PublicKey>() {
                return wrong("fetch.trusted_public_keys", format!("{key}: {error}"));
            }
        }
        if !(1..=64).contains(&fetch.jobs) {
            return wrong("fetch.jobs", "it must be from 1 to 64".to_owned());
        }
        if let Err(error) = fetch.rate.parse::<BytesPerSecond>() {
            return wrong("fetch.rate", error.to_string());
        }
        if let Err(error) = self.rehash.rate.parse::<BytesPerSecond>() {
            return wrong("rehash.rate", error.to_string());
        }
        if self.retry.first_wait_s == 0 || self.retry.longest_wait_s < self.retry.first_wait_s {
            let problem = "it must be at least 1, and longest_wait_s no less";
            return wrong("retry.first_wait_s", problem.to_owned());
        }
        if let Err(error) = self.metrics_address() {
            return wrong(
                "metrics.listen",
                format!("{error}: write it like [::1]:9421"),
            );
        }
        for follow in &self.follow {
            for (key, name) in [("follow.pin", &follow.pin), ("follow.as", &follow.name)] {
                if let Err(problem) = check_pin(name)
                    && !(key == "follow.as" && name.is_empty())
                {
                    return wrong(key, problem);
                }
            }
            if follow.interval_s < MIN_INTERVAL_S {
                let problem = format!("it must be at least {MIN_INTERVAL_S}");
                return wrong("follow.interval_s", problem);
            }
        }
        Ok(())
    }

    /// Where Prometheus is answered.
    ///
    /// # Errors
    /// When that is no address.
    pub fn metrics_address(&self) -> Result<Option<SocketAddr>, std::net::AddrParseError> {
        match self.metrics.listen.as_str() {
            "" => Ok(None),
            address => address.parse().map(Some),
        }
    }

    /// The node's folder.
    pub fn state_folder(&self) -> PathBuf {
        match self.state.as_os_str().is_empty() {
            true => Node::default_folder(),
            false => self.state.clone(),
        }
    }

    /// How fast it may fetch.
    pub fn rate(&self) -> BytesPerSecond {
        self.fetch.rate.parse().unwrap_or_default()
    }

    /// A cache, with the token if it is the first one.
    ///
    /// # Errors
    /// When it has no URL of a cache, or the token cannot be had.
    pub fn connect(&self, url: &str) -> Result<Remote, String> {
        let endpoint = url.parse::<Endpoint>().map_err(|error| error.to_string())?;
        let file = &self.fetch.token_file;
        let is_first = self.fetch.caches.first().is_some_and(|first| first == url);
        let token = match is_first && !file.as_os_str().is_empty() {
            false => None,
            true => {
                let shown = file.display();
                let text = fs::read_to_string(file);
                let text = text.map_err(|error| format!("the token file {shown}: {error}"))?;
                if text.len() > MAX_TOKEN_BYTES {
                    return Err(format!("the token file {shown} is too long to be one"));
                }
                Some(text.trim().to_owned())
            }
        };
        Remote::new(endpoint, token.as_deref()).map_err(|error| error.to_string())
    }
}

/// All keys, as tables in tables.
fn known() -> Table {
    let config = Config {
        follow: vec![Follow::default()],
        ..Config::default()
    };
    Table::try_from(config).expect("invariant: the default configuration can be written as TOML")
}

fn check_keys(said: &Table, known: &Table, section: &str, path: &Path) -> Result<(), ConfigError> {
    let whole = |name: &str| match section {
        "" => name.to_owned(),
        section => format!("{section}.{name}"),
    };
    for (name, value) in said {
        match (value, known.get(name)) {
            (_, None) => {
                let nearest = nearest(name, known.keys().map(String::as_str));
                return Err(ConfigError::UnknownKey {
                    path: path.to_owned(),
                    key: whole(name),
                    nearest: whole(&nearest),
                });
            }
            (Value::Table(said), Some(Value::Table(known))) => {
                check_keys(said, known, &whole(name), path)?;
            }
            (Value::Array(said), Some(Value::Array(known))) => {
                let known = known.first().and_then(Value::as_table);
                for said in said.iter().filter_map(Value::as_table) {
                    let known = known.unwrap_or(said);
                    check_keys(said, known, &whole(name), path)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("agent.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_shipped_file_has_every_key_with_its_default() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/agent.toml");
        let text = fs::read_to_string(file).expect("config/agent.toml");
        let mut shipped = parse(&text).expect("a configuration");
        // Who is root has its socket in /run.
        shipped.socket = Config::default().socket;
        assert_eq!(shipped, Config::default());
        // What is a comment there, as [[follow]] has no default, is right as well.
        let example: String = text
            .lines()
            .map(|line| {
                let key = line.strip_prefix("# ").unwrap_or(line);
                let is_example = key.starts_with("[[") || key.contains(" = ");
                if is_example {
                    format!("{key}\n")
                } else {
                    format!("{line}\n")
                }
            })
            .collect();
        let example: Table = example.parse().expect("TOML");
        check_keys(&example, &known(), "", Path::new("agent.toml")).expect("known keys");
        let missing = |said: &Table, known: &Table| -> Vec<String> {
            let absent = known.keys().filter(|key| !said.contains_key(*key));
            absent.cloned().collect()
        };
        assert_eq!(missing(&example, &known()), Vec::<String>::new());
        for (name, value) in &known() {
            let inner = |value: &Value| match value {
                Value::Table(table) => Some(table.clone()),
                Value::Array(all) => all.first().and_then(Value::as_table).cloned(),
                _ => None,
            };
            if let (Some(said), Some(known)) = (inner(&example[name]), inner(value)) {
                assert_eq!(missing(&said, &known), Vec::<String>::new(), "{name}");
            }
        }
    }

    #[test]
    fn a_misspelt_key_names_the_nearest_right_one() {
        for (text, says) in [
            ("sockt = \"/x\"", "no key `sockt`; did you mean `socket`?"),
            (
                "[fetch]\ncache = []",
                "no key `fetch.cache`; did you mean `fetch.caches`?",
            ),
            ("[retry]\nwait = 1", "did you mean `retry.first_wait_s`?"),
            (
                "[[follow]]\npin = \"a\"\ninterval = 1",
                "did you mean `follow.interval_s`?",
            ),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_value_that_cannot_be_is_named_with_its_key() {
        for (text, says) in [
            ("[fetch]\ncaches = []", "`fetch.caches`: name at least one"),
            ("[fetch]\ncaches = [\"s3://x\"]", "must begin with http://"),
            ("[fetch]\njobs = 0", "`fetch.jobs`: it must be from 1 to 64"),
            ("[fetch]\nrate = \"fast\"", "`fetch.rate`"),
            ("[fetch]\njobs = \"8\"", "line 2"),
            (
                "[fetch]\ntrusted_public_keys = [\"x\"]",
                "`fetch.trusted_public_keys`",
            ),
            ("[retry]\nfirst_wait_s = 0", "`retry.first_wait_s`"),
            ("[metrics]\nlisten = \"9421\"", "`metrics.listen`"),
            ("[[follow]]\npin = \"../x\"", "`follow.pin`"),
            (
                "[[follow]]\npin = \"x\"\ninterval_s = 0",
                "`follow.interval_s`",
            ),
            ("nonsense", "agent.toml"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn what_follows_a_pin_has_its_name_and_the_first_cache() {
        let text = "[fetch]\ncaches = [\"http://a\", \"http://b\"]\n[[follow]]\npin = \"web\"\n\
                    [[follow]]\npin = \"web\"\nas = \"system\"\ncache = \"http://b\"\n";
        let follow = parse(text).expect("a configuration").follow;
        let seen = |follow: &Follow| (follow.name.clone(), follow.cache.clone());
        assert_eq!(seen(&follow[0]), ("web".to_owned(), "http://a".to_owned()));
        assert_eq!(
            seen(&follow[1]),
            ("system".to_owned(), "http://b".to_owned())
        );
    }
}
