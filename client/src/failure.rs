//! How a command ends when it does not end well: a code for scripts, a sentence for people.

use snowcache_core::error::{Error, Kind};
use std::fmt;
use std::process::ExitCode;

/// What the process says to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something that was asked for is not there, or did not pass verification.
    Failed = 1,
    /// The command line cannot be carried out.
    Usage = 2,
    /// The cache does not answer.
    Unreachable = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    sentence: Option<String>,
}

impl Failure {
    /// Something asked for is not there, or wrong.
    pub fn failed(sentence: impl fmt::Display) -> Failure {
        Failure {
            exit: Exit::Failed,
            sentence: Some(sentence.to_string()),
        }
    }

    /// The command line is wrong.
    pub fn usage(sentence: impl fmt::Display) -> Failure {
        Failure {
            exit: Exit::Usage,
            sentence: Some(sentence.to_string()),
        }
    }

    /// Something that ends with this code.
    pub fn with(exit: Exit, sentence: impl fmt::Display) -> Failure {
        Failure {
            exit,
            sentence: Some(sentence.to_string()),
        }
    }

    /// A failure of which the command's own output tells.
    pub fn told(exit: Exit) -> Failure {
        Failure {
            exit,
            sentence: None,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What remains to be said.
    pub fn sentence(&self) -> Option<&str> {
        self.sentence.as_deref()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match error.kind() {
            Kind::Unavailable => Exit::Unreachable,
            _ => Exit::Failed,
        };
        Failure {
            exit,
            sentence: Some(error.to_string()),
        }
    }
}

impl From<crate::remote::RemoteError> for Failure {
    fn from(error: crate::remote::RemoteError) -> Failure {
        Error::from(error).into()
    }
}
