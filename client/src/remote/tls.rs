//! TLS for https URLs, with the certificate authorities that the system trusts.
//!
//! Guarantees: a server is who its certificate says, or there is no connection. $SSL_CERT_FILE
//! names other authorities, as it does for nix. Never: a second TLS stack; C code but ring's.

use super::connect::Connector;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// Plain or encrypted, as the URL says.
pub(super) fn over(connector: Connector) -> HttpsConnector<Connector> {
    let mut roots = RootCertStore::empty();
    // Without any, https fails with "unknown issuer", and plain http works on.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("invariant: ring has the ciphers of TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    HttpsConnectorBuilder::new()
        .with_tls_config(config)
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector)
}
