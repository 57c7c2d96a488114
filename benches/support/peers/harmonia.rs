//! harmonia, when its binary is given: it serves this machine's own store, so only the real corpus.

use std::fs;
use std::path::Path;

use super::free_port;
use super::{Running, folder, tied};

/// Starts this binary with its defaults, on a free port.
pub fn start(binary: &Path) -> Result<Running, String> {
    let (folder, port) = (folder("harmonia")?, free_port());
    let (config, key) = (
        folder.path().join("config.toml"),
        folder.path().join("key.sec"),
    );
    let text = format!("bind = \"127.0.0.1:{port}\"\nsign_key_paths = [{key:?}]\n");
    fs::write(&key, super::super::corpus::key().to_string())
        .and_then(|()| fs::write(&config, text))
        .map_err(|error| error.to_string())?;
    let mut command = tied(binary);
    command.env("CONFIG_FILE", &config).env("RUST_LOG", "warn");
    let started = Running::start(command, folder, port);
    started.map_err(|why| format!("{}: {why}", binary.display()))
}
