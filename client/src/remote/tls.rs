//! TLS for https URLs, with the certificate authorities that the system trusts.
//!
//! Guarantees: a server is who its certificate says, or there is no connection. $SSL_CERT_FILE
//! names other authorities, as it does for nix. They are read when the first https URL is met: that
//! takes longer than many a command. Never: a second TLS stack; C code but ring's.

use super::connect::{Connector, Stream};
use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tower_service::Service;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Makes connections, plain or encrypted, as the URL says.
#[derive(Clone)]
pub(super) struct Over {
    plain: Connector,
    encrypted: Arc<OnceLock<HttpsConnector<Connector>>>,
}

impl Over {
    /// Over the connections of this one.
    pub(super) fn new(plain: Connector) -> Over {
        Over {
            plain,
            encrypted: Arc::default(),
        }
    }
}

impl Service<Uri> for Over {
    type Response = MaybeHttpsStream<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.plain.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        if uri.scheme_str() != Some("https") {
            let connecting = self.plain.call(uri);
            return Box::pin(async { Ok(MaybeHttpsStream::Http(connecting.await?)) });
        }
        let encrypted = self.encrypted.get_or_init(|| encrypted(self.plain.clone()));
        let mut encrypted = encrypted.clone();
        Box::pin(async move {
            poll_fn(|cx| encrypted.poll_ready(cx)).await?;
            encrypted.call(uri).await
        })
    }
}

fn encrypted(connector: Connector) -> HttpsConnector<Connector> {
    let mut roots = RootCertStore::empty();
    // Without any, https fails with "unknown issuer".
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("invariant: ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_only()
        .enable_http1()
        .wrap_connector(connector)
}
