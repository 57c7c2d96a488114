//! Who is asked: the URL of a binary cache, over TCP or TLS.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

use super::wire::Wire;

/// For a connection to stand: the kernel knocks three times in it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A binary cache.
#[derive(Clone)]
pub struct Target {
    pub url: String,
    address: SocketAddr,
    host: String,
    prefix: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    /// `http://HOST[:PORT][/PREFIX]` or `https://…`; `trusted` is a PEM file of the certificates
    /// that are believed besides the machine's.
    pub fn parse(url: &str, trusted: Option<&Path>) -> io::Result<Target> {
        let refused = |why: &str| io::Error::other(format!("{url}: {why}"));
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| refused("not a URL like http://HOST:PORT"))?;
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let (port, secure) = match scheme {
            "http" => (80, false),
            "https" => (443, true),
            _ => return Err(refused("only http:// and https:// are spoken here")),
        };
        let has_port = host
            .rsplit_once(':')
            .is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port {
            host.to_owned()
        } else {
            format!("{host}:{port}")
        };
        let address = with_port.to_socket_addrs()?.next();
        let name = with_port.rsplit_once(':').map_or(host, |(name, _)| name);
        let name = name.trim_matches(['[', ']']).to_owned();
        let tls = match secure {
            true => {
                let server = ServerName::try_from(name).map_err(|_| refused("no server's name"))?;
                Some((connector(trusted)?, server))
            }
            false => None,
        };
        Ok(Target {
            url: url.trim_end_matches('/').to_owned(),
            address: address.ok_or_else(|| refused("has no address"))?,
            host: host.to_owned(),
            prefix: if prefix.is_empty() {
                String::new()
            } else {
                format!("/{prefix}")
            },
            tls,
        })
    }

    pub fn plain(url: &str) -> Target {
        Target::parse(url, None).expect("a URL of ours")
    }

    pub async fn connect(&self) -> io::Result<Wire> {
        self.connect_with(None).await
    }

    /// With a receive buffer of so many bytes.
    pub async fn connect_with(&self, receive_bytes: Option<u32>) -> io::Result<Wire> {
        let socket = match self.address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let connected = tokio::time::timeout(PATIENCE, socket.connect(self.address));
        let stream = connected.await??;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(Wire::over(stream)),
            Some((connector, name)) => {
                Ok(Wire::over(connector.connect(name.clone(), stream).await?))
            }
        }
    }

    /// The bytes of a request without a body; `path` begins after the URL's last slash.
    pub fn request(&self, method: &str, path: &str, more: &str) -> Box<[u8]> {
        let (prefix, host) = (&self.prefix, &self.host);
        let head = format!("{method} {prefix}/{path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n");
        head.into_bytes().into()
    }
}

fn connector(trusted: Option<&Path>) -> io::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    match trusted {
        Some(path) => {
            let file = BufReader::new(File::open(path)?);
            for certificate in CertificateDer::pem_reader_iter(file) {
                let certificate = certificate.map_err(io::Error::other)?;
                roots.add(certificate).map_err(io::Error::other)?;
            }
        }
        None => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                roots.add(certificate).ok();
            }
        }
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
