//! What an issuer says of itself, fetched: where its keys are, and the keys.
//!
//! Guarantees: every answer is bounded in bytes and time; nothing is believed that did not come
//! from the issuer's own certificate, or from this machine. Never: a redirect followed.

use super::keys::{Key, of_set};
use super::trust::Issuer;
use axum::http::{HeaderValue, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// Discovery documents have 1 to 2 KB, GitHub's keys 8.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// For a whole answer: a CI waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an issuer's keys are not to be had.
#[derive(Debug, Error)]
pub enum FetchError {
    /// No answer, or a broken one.
    #[error("{url} cannot be read")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        source: BoxError,
    },
    /// Nothing came for too long.
    #[error("{url} did not answer within {} s", TIMEOUT.as_secs())]
    TimedOut {
        /// What was asked for.
        url: String,
    },
    /// It answered something else.
    #[error("{url} answered {status}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// Not what it should be.
    #[error("{url} is no document as OpenID Connect has it: {problem}")]
    Document {
        /// What was asked for.
        url: String,
        /// Why not.
        problem: String,
    },
    /// A file of the configuration.
    #[error("{}: cannot be read", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// Asks one issuer.
pub struct Fetch {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    issuer: String,
    jwks_url: Option<String>,
    jwks_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
}

impl Fetch {
    /// Asks `issuer`, whose certificate is by the authorities that the system trusts, or by those
    /// of its `ca_file`.
    ///
    /// # Errors
    /// That file cannot be read.
    pub fn new(issuer: &Issuer) -> Result<Fetch, FetchError> {
        let mut roots = RootCertStore::empty();
        let own = match &issuer.ca_file {
            None => rustls_native_certs::load_native_certs().certs,
            Some(path) => certificates(path).map_err(|source| {
                let path = path.clone();
                FetchError::File { path, source }
            })?,
        };
        roots.add_parsable_certificates(own);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("invariant: ring has the ciphers of TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .build();
        Ok(Fetch {
            client: Client::builder(TokioExecutor::new()).build(connector),
            issuer: issuer.url.clone(),
            jwks_url: issuer.jwks_url.clone(),
            jwks_file: issuer.jwks_file.clone(),
            token_file: issuer.token_file.clone(),
        })
    }

    /// The keys that the issuer shows now.
    ///
    /// # Errors
    /// [`FetchError`]
    pub async fn keys(&self) -> Result<HashMap<String, Key>, FetchError> {
        if let Some(path) = &self.jwks_file {
            return kept(path).await;
        }
        let url = match &self.jwks_url {
            Some(url) => url.clone(),
            None => self.discovered().await?,
        };
        let json = self.get(&url).await?;
        of_set(&json).map_err(|error| FetchError::Document {
            problem: error.to_string(),
            url,
        })
    }

    async fn discovered(&self) -> Result<String, FetchError> {
        let base = self.issuer.trim_end_matches('/');
        let url = format!("{base}/.well-known/openid-configuration");
        let json = self.get(&url).await?;
        let wrong = |problem| FetchError::Document {
            problem,
            url: url.clone(),
        };
        let found: Discovery =
            serde_json::from_slice(&json).map_err(|error| wrong(error.to_string()))?;
        if found.issuer != self.issuer {
            return Err(wrong(format!("it is about {:?}", found.issuer)));
        }
        match is_private(&found.jwks_uri) {
            true => Ok(found.jwks_uri),
            false => Err(wrong(format!("its keys are at {:?}", found.jwks_uri))),
        }
    }

    async fn get(&self, url: &str) -> Result<Bytes, FetchError> {
        let timed_out = |_| FetchError::TimedOut {
            url: url.to_owned(),
        };
        let answer = tokio::time::timeout(TIMEOUT, self.answer(url)).await;
        answer.map_err(timed_out)?
    }

    async fn answer(&self, url: &str) -> Result<Bytes, FetchError> {
        let unreachable = |source: BoxError| FetchError::Unreachable {
            url: url.to_owned(),
            source,
        };
        let request = Request::get(url).header(header::ACCEPT, "application/json");
        let mut request = request
            .body(Empty::new())
            .map_err(|error| unreachable(error.into()))?;
        if let Some(path) = &self.token_file {
            // Kubernetes writes it anew all the time.
            let text = tokio::fs::read_to_string(path).await.map_err(|source| {
                let path = path.clone();
                FetchError::File { path, source }
            })?;
            let value = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
            let mut value = value.map_err(|error| unreachable(error.into()))?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| unreachable(error.into()))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status {
                url: url.to_owned(),
                status: answer.status(),
            });
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect();
        Ok(body.await.map_err(unreachable)?.to_bytes())
    }
}

/// Keys that somebody else fetches, for a server that has no way out.
async fn kept(path: &Path) -> Result<HashMap<String, Key>, FetchError> {
    let json = tokio::fs::read(path).await.map_err(|source| {
        let path = path.to_owned();
        FetchError::File { path, source }
    })?;
    of_set(&json).map_err(|error| FetchError::Document {
        url: path.display().to_string(),
        problem: error.to_string(),
    })
}

/// Whether nobody on the way can say something else: https, or this machine.
pub fn is_private(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let here = ["127.0.0.1", "[::1]", "localhost"];
    match uri.scheme_str() {
        Some("https") => uri.host().is_some(),
        Some("http") => uri.host().is_some_and(|host| here.contains(&host)),
        _ => false,
    }
}

fn certificates(path: &PathBuf) -> std::io::Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_file_iter(path).map_err(std::io::Error::other)?;
    let found: Result<Vec<_>, _> = found.collect();
    match found.map_err(std::io::Error::other)? {
        none if none.is_empty() => Err(std::io::Error::other("there is no certificate in it")),
        found => Ok(found),
    }
}
