//! A certificate for 127.0.0.1 that lives a day, made by openssl; every server gets the same.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A certificate and its key, as PEM files.
pub struct Certificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Certificate {
    /// In this folder. ECDSA on P-256, as Let's Encrypt gives them.
    pub fn make(folder: &Path) -> Result<Certificate, String> {
        let made = Certificate {
            certificate: folder.join("tls.crt"),
            key: folder.join("tls.key"),
        };
        let output = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "1", "-subj", "/CN=snowcache-bench"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
            .arg("-keyout")
            .arg(&made.key)
            .arg("-out")
            .arg(&made.certificate)
            .output()
            .map_err(|error| format!("openssl is not installed: {error}"))?;
        match output.status.success() {
            true => Ok(made),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}
