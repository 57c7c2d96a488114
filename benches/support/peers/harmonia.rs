//! harmonia, when its binary is given: it serves this machine's own store, so only the real corpus.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::free_port;

const START_PATIENCE: Duration = Duration::from_secs(20);

/// A running harmonia.
pub struct Harmonia {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Harmonia {
    /// Starts this binary with its defaults, on a free port.
    pub fn start(binary: &Path) -> Result<Harmonia, String> {
        let folder = tempfile::Builder::new()
            .prefix("snowcache-harmonia-")
            .tempdir();
        let folder = folder.map_err(|error| error.to_string())?;
        let port = free_port();
        let (config, key) = (
            folder.path().join("config.toml"),
            folder.path().join("key.sec"),
        );
        let text = format!(
            "bind = \"127.0.0.1:{port}\"\nsign_key_paths = [{:?}]\n",
            key
        );
        fs::write(&key, super::super::corpus::key().to_string())
            .and_then(|()| fs::write(&config, text))
            .map_err(|error| error.to_string())?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "TERM"])
            .arg(binary)
            .env("CONFIG_FILE", &config)
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", binary.display()))?;
        let mut harmonia = Harmonia {
            process,
            port,
            _folder: folder,
        };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let gone = harmonia
                .process
                .try_wait()
                .map_err(|error| error.to_string())?
                .is_some();
            if gone || begin.elapsed() > START_PATIENCE {
                return Err(format!("{} does not start", binary.display()));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(harmonia)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Harmonia {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}
