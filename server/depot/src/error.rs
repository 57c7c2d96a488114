//! The depot's one error: a kind that tells the caller what to do, a sentence, and the cause.

use std::fmt;
use std::io;

/// What the caller can do about an [`Error`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The client sent bytes that are no canonical NAR: refuse them (4xx), a retry will not help.
    BadNar,
    /// The client's request is well-formed but must not be carried out (4xx): the sentence says
    /// why.
    Refused,
    /// The disk is full: answer 507, reads go on.
    Full,
    /// The disk failed: nothing was acknowledged, the failed segment is out of use, a retry may
    /// work.
    Storage,
    /// Stored bytes are not what was written: do not serve them.
    Corrupt,
    /// The depot is shutting down: answer 503.
    Closed,
    /// Another of its kind runs, a collection or a scrub: wait for its end (409).
    Busy,
}

/// A failed depot operation.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The depot's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error {
            kind,
            message: message.into(),
            source: None,
        }
    }

    pub(crate) fn caused(
        kind: ErrorKind,
        message: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        Error {
            kind,
            message: message.into(),
            source: Some(Box::new(source)),
        }
    }

    /// An I/O failure while `doing` something; a full disk or quota is told apart from a broken
    /// one.
    pub(crate) fn io(doing: impl fmt::Display, source: io::Error) -> Error {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => ErrorKind::Full,
            _ => ErrorKind::Storage,
        };
        Error::caused(kind, format!("{doing} failed"), source)
    }

    pub(crate) fn refused(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Refused, message)
    }

    pub(crate) fn corrupt(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, message)
    }

    pub(crate) fn closed() -> Error {
        Error::new(ErrorKind::Closed, "the depot is shutting down")
    }

    /// The same failure, told to one more waiter of the same group commit.
    pub(crate) fn again(&self) -> Error {
        Error::new(self.kind, self.to_string())
    }

    /// Whether a file was not there: its segment was rewritten since it was looked up.
    pub(crate) fn is_gone(&self) -> bool {
        let source = self.source.as_ref();
        let io = source.and_then(|source| source.downcast_ref::<io::Error>());
        io.is_some_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source.as_ref() as _)
    }
}
