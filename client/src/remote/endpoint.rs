//! Where a cache is: `http://HOST[:PORT][/CACHE]`, `https://...`, or `unix:SOCKET[:/CACHE]`.
//!
//! Guarantees: URLs below an endpoint stay below it; a path in a narinfo cannot lead elsewhere.

use http::Uri;
use http::uri::{Authority, Scheme};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use thiserror::Error;

/// Where a cache is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    scheme: Scheme,
    authority: Authority,
    /// Empty, or `/cache`: no slash at the end.
    prefix: String,
    socket: Option<PathBuf>,
}

/// Why a text is not the URL of a cache.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// Not a URL at all.
    #[error("{text} is no URL of a cache: {source}; write it like http://127.0.0.1:8420")]
    NotAUrl {
        /// What was given.
        text: String,
        /// Why not.
        source: http::uri::InvalidUri,
    },
    /// A URL of something else.
    #[error("{text} is no URL of a cache: it must begin with http://, https:// or unix:")]
    Scheme {
        /// What was given.
        text: String,
    },
    /// `unix:` alone.
    #[error("unix: needs the path of a socket, like unix:/run/snowcached.sock")]
    NoSocket,
}

impl Endpoint {
    /// The socket to connect to instead of the host.
    pub fn socket(&self) -> Option<&PathBuf> {
        self.socket.as_ref()
    }

    /// The host alone, as netrc files have it.
    pub fn host(&self) -> &str {
        let host = self.authority.host();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The address of something in this cache; `path` is relative: `nar/x.nar`.
    pub fn join(&self, path: &str) -> String {
        format!("{}://{}{}/{path}", self.scheme, self.authority, self.prefix)
    }

    /// The same cache as it is written to: nix's clients remember what they uploaded by URL, so
    /// uploads have a URL of their own.
    pub fn push(&self) -> Endpoint {
        let mut push = self.clone();
        if !push.prefix.ends_with("/push") {
            push.prefix.push_str("/push");
        }
        push
    }

    /// Whether a URL, perhaps from a redirect, is on the same server.
    pub fn is_at(&self, url: &Uri) -> bool {
        url.scheme() == Some(&self.scheme) && url.authority() == Some(&self.authority)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return of_socket(rest.strip_prefix("//").unwrap_or(rest));
        }
        let not_a_url = |source| EndpointError::NotAUrl {
            text: text.to_owned(),
            source,
        };
        let uri: Uri = text.parse().map_err(not_a_url)?;
        let parts = uri.into_parts();
        match (parts.scheme, parts.authority) {
            (Some(scheme), Some(authority)) if matches!(scheme.as_str(), "http" | "https") => {
                // Nix's own parameters (?priority=10) are not part of the address.
                let path = parts.path_and_query.as_ref().map_or("", |it| it.path());
                let prefix = path.trim_end_matches('/').to_owned();
                Ok(Endpoint {
                    scheme,
                    authority,
                    prefix,
                    socket: None,
                })
            }
            _ => Err(EndpointError::Scheme {
                text: text.to_owned(),
            }),
        }
    }
}

fn of_socket(text: &str) -> Result<Endpoint, EndpointError> {
    let (socket, prefix) = match text.split_once(":/") {
        Some((socket, prefix)) => (socket, format!("/{prefix}")),
        None => (text, String::new()),
    };
    if socket.is_empty() {
        return Err(EndpointError::NoSocket);
    }
    Ok(Endpoint {
        scheme: Scheme::HTTP,
        authority: Authority::from_static("localhost"),
        prefix: prefix.trim_end_matches('/').to_owned(),
        socket: Some(PathBuf::from(socket)),
    })
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            None => write!(f, "{}://{}{}", self.scheme, self.authority, self.prefix),
            Some(socket) if self.prefix.is_empty() => write!(f, "unix:{}", socket.display()),
            Some(socket) => write!(f, "unix:{}:{}", socket.display(), self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_cache_leads_to_its_files() {
        for (text, shown, file) in [
            (
                "http://h:8420",
                "http://h:8420",
                "http://h:8420/nix-cache-info",
            ),
            (
                "http://h:8420/",
                "http://h:8420",
                "http://h:8420/nix-cache-info",
            ),
            (
                "https://h/team?priority=3",
                "https://h/team",
                "https://h/team/nix-cache-info",
            ),
            (
                "unix:/run/s",
                "unix:/run/s",
                "http://localhost/nix-cache-info",
            ),
            (
                "unix:///run/s",
                "unix:/run/s",
                "http://localhost/nix-cache-info",
            ),
            (
                "unix:s:/team",
                "unix:s:/team",
                "http://localhost/team/nix-cache-info",
            ),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(endpoint.join("nix-cache-info"), file);
        }
        let push = "http://h/team".parse::<Endpoint>().expect("a URL").push();
        assert_eq!(push.join("x.narinfo"), "http://h/team/push/x.narinfo");
        assert_eq!(push.push(), push);
    }

    #[test]
    fn what_is_no_cache_is_refused_with_an_example() {
        for (text, says) in [
            ("h:8420", "must begin with http://"),
            ("s3://bucket", "must begin with http://"),
            ("http://", "write it like http://127.0.0.1:8420"),
            ("unix:", "needs the path of a socket"),
        ] {
            let error = text.parse::<Endpoint>().expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
