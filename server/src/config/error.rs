//! What can be wrong with a configuration.
//!
//! Guarantees: each mistake names its place and the way out; all of them are told at once.

use crate::listen::tls::TlsError;
use crate::oidc::IssuersError;
use std::fmt;
use std::path::PathBuf;
use thiserror::Error;

/// Where a value comes from; later ones win.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// A line of the configuration file, the first one being 1.
    File(PathBuf, usize),
    /// An environment variable.
    Environment(String),
    /// An argument of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File(path, line) => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => write!(f, "${name}"),
            Origin::Flag(flag) => f.write_str(flag),
        }
    }
}

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
    /// The file is not TOML.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where in it and why.
        #[source]
        problem: toml::de::Error,
    },
    /// A key that does not exist.
    #[error("{origin}: there is no key `{key}`; did you mean `{nearest}`?")]
    UnknownKey {
        /// The line.
        origin: Origin,
        /// As written.
        key: String,
        /// The key that exists.
        nearest: String,
    },
    /// A variable that means nothing.
    #[error("${name} sets nothing; did you mean ${nearest}? (every SNOWCACHE_… is a key)")]
    UnknownVariable {
        /// As written.
        name: String,
        /// The variable that exists.
        nearest: String,
    },
    /// A value that is not of its key's type.
    #[error("{origin}: `{key}` is {value}: {problem}")]
    Type {
        /// Where it was said.
        origin: Origin,
        /// The key.
        key: String,
        /// As written.
        value: String,
        /// What was expected.
        problem: String,
    },
    /// A certificate that cannot be served with.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Issuers that cannot be worked with.
    #[error(transparent)]
    Issuers(#[from] IssuersError),
    /// A value that the server cannot work with.
    #[error("{}`{key}` is {value}: {rule}", place(.origin))]
    Value {
        /// Where it was said, if that is known.
        origin: Option<Origin>,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
}

fn place(origin: &Option<Origin>) -> String {
    origin
        .as_ref()
        .map_or_else(String::new, |origin| format!("{origin}: "))
}

/// All that is wrong, a line each.
#[derive(Debug)]
pub struct Mistakes(pub Vec<ConfigError>);

impl std::error::Error for Mistakes {}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, mistake) in self.0.iter().enumerate() {
            let line_break = if number > 0 { "\n" } else { "" };
            write!(f, "{line_break}{}", crate::observe::with_causes(mistake))?;
        }
        Ok(())
    }
}

impl From<ConfigError> for Mistakes {
    fn from(mistake: ConfigError) -> Mistakes {
        Mistakes(vec![mistake])
    }
}
