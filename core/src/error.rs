//! The one outward error of everything that is a [`Cache`](crate::cache::Cache).
//!
//! Guarantees: a [`Kind`] says what the caller can do about it, a [`Blame`] whose mistake it is,
//! and the source is the error that was really met, whose sentence is shown. Never: a string in
//! place of a source.

use std::error::Error as StdError;
use std::fmt;

/// What the caller can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was asked or sent is wrong: asking again gives the same answer.
    Invalid,
    /// The credentials do not allow it: use others.
    Denied,
    /// Something named is not there: bring it first, or look elsewhere.
    Missing,
    /// Bytes are not what they must be: throw them away and take them from elsewhere.
    Corrupt,
    /// It may work later: try again.
    Unavailable,
    /// A bound of this program or of the cache was reached: ask for less.
    TooMuch,
}

/// Who has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Whoever called or uploaded.
    Client,
    /// The cache's own disk or memory.
    Storage,
    /// Another cache, or the way to it.
    Upstream,
}

/// What went wrong with a cache: shown as the sentence of its source.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    blame: Blame,
    source: Box<dyn StdError + Send + Sync>,
}

impl Error {
    /// Wraps the error that was met.
    pub fn new(
        kind: Kind,
        blame: Blame,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Error {
        Error {
            kind,
            blame,
            source: source.into(),
        }
    }

    /// What the caller can do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The error that was met, for whoever knows its type.
    pub fn met(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self.source.as_ref()
    }

    /// Who has to mend it.
    pub fn blame(&self) -> Blame {
        self.blame
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

/// The source's sentence is this error's own, so a chain goes on with the source's source.
impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_speaks_with_the_sentence_of_its_source() {
        let source = std::fmt::Error;
        let error = Error::new(Kind::Unavailable, Blame::Upstream, source);
        assert_eq!(error.to_string(), source.to_string());
        assert_eq!(
            (error.kind(), error.blame()),
            (Kind::Unavailable, Blame::Upstream)
        );
    }
}
