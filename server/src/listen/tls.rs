//! The server's certificate, which may change while it serves.
//!
//! ```text
//!   files --look every reload_interval_s, and at SIGHUP--> changed? --> fits its key? --> in use
//!                                                                           '-- no: the old one
//! ```
//! Guarantees: a connection keeps the certificate it began with; one that cannot be used never
//! takes the place of one that can. Never: a private key in a log line; TLS before 1.2.

use super::validity::not_after_unix_s;
use crate::config::Tls;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Why there is no certificate to serve with.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file without what it should hold.
    #[error("{}: no PEM {what} in it", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// A certificate or a key.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// They do not go together.
    #[error(
        "the certificate in {} and the key in {} cannot be used together",
        certificate.display(),
        key.display()
    )]
    Unusable {
        /// `tls.certificate_file`
        certificate: PathBuf,
        /// `tls.key_file`
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// What there is to tell of the certificate.
#[derive(Debug, Default)]
pub struct Told {
    /// New ones taken into use, since the start.
    pub reloaded: AtomicU64,
    /// New ones that could not be used, since the start.
    pub refused: AtomicU64,
    /// Whether the last look found one that cannot be used.
    pub fails: AtomicBool,
    /// When the one in use ends, in seconds since 1970; 0: it does not say.
    pub ends_unix_s: AtomicI64,
}

/// The certificate in use, and where the next one comes from.
pub struct Certificates {
    config: Tls,
    current: RwLock<Arc<ServerConfig>>,
    /// Both files, as they were at the last look.
    seen: Mutex<(Vec<u8>, Vec<u8>)>,
    told: Told,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn load(config: &Tls) -> Result<Arc<Certificates>, TlsError> {
        let seen = read(config)?;
        let (current, ends) = usable(config, &seen)?;
        let certificates = Certificates {
            config: config.clone(),
            current: RwLock::new(current),
            seen: Mutex::new(seen),
            told: Told::default(),
        };
        certificates.told.ends_unix_s.store(ends, Ordering::Relaxed);
        Ok(Arc::new(certificates))
    }

    /// Looks whether the files have changed, and takes the new ones if they can be used.
    pub fn look_again(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match read(&self.config) {
            Ok(found) if found == *seen => return,
            found => found,
        };
        let usable = found.and_then(|found| {
            let usable = usable(&self.config, &found);
            *seen = found;
            usable
        });
        self.told.fails.store(usable.is_err(), Ordering::Relaxed);
        match usable {
            Ok((config, ends)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = config;
                self.told.ends_unix_s.store(ends, Ordering::Relaxed);
                self.told.reloaded.fetch_add(1, Ordering::Relaxed);
                tracing::info!("a new certificate is in use");
            }
            Err(error) => {
                self.told.refused.fetch_add(1, Ordering::Relaxed);
                let why = crate::observe::with_causes(&error);
                tracing::error!(why, "the new certificate cannot be used; the old one stays");
            }
        }
    }

    /// What there is to tell.
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// Agrees with a client on a cipher.
    ///
    /// # Errors
    /// What the client did wrong; `TimedOut` when it takes longer than `tls.handshake_timeout_s`.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = self
            .current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let limit = Duration::from_secs(self.config.handshake_timeout_s);
        tokio::time::timeout(limit, TlsAcceptor::from(config).accept(stream)).await?
    }
}

fn read(config: &Tls) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let file = |path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::Unreadable {
            path: path.to_owned(),
            source,
        })
    };
    Ok((file(&config.certificate_file)?, file(&config.key_file)?))
}

/// What the two files make, and when it ends.
fn usable(
    config: &Tls,
    (certificate, key): &(Vec<u8>, Vec<u8>),
) -> Result<(Arc<ServerConfig>, i64), TlsError> {
    let no_pem = |path: &Path, what, source| TlsError::Pem {
        path: path.to_owned(),
        what,
        source,
    };
    let no_certificate = |source| no_pem(&config.certificate_file, "certificate", source);
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
    let chain = chain.map_err(no_certificate)?;
    let Some(first) = chain.first() else {
        return Err(no_certificate(pem::Error::NoItemsFound));
    };
    let ends = not_after_unix_s(first).unwrap_or(0);
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|source| no_pem(&config.key_file, "private key", source))?;
    let mut made = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("invariant: ring has the ciphers of TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|source| TlsError::Unusable {
            certificate: config.certificate_file.clone(),
            key: config.key_file.clone(),
            source,
        })?;
    // Clients that come again are spared a round trip and us a signature; nothing is kept for them.
    if let Ok(ticketer) = ring::Ticketer::new() {
        made.ticketer = ticketer;
    }
    made.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(made), ends))
}
