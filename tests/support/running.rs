//! The process of another server: started, waited for until it listens, stopped when it goes out of
//! scope. What it prints is told where it does not start. When its owner dies, however it dies, so
//! does it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const START_PATIENCE: Duration = Duration::from_secs(20);
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// A process that listens on a port of this machine, and the folder that it works in.
pub struct Running {
    process: Child,
    _folder: tempfile::TempDir,
    port: u16,
}

impl Running {
    /// Starts `command`, a program made ready by [`tied`], and waits until it listens.
    pub fn start(
        mut command: Command,
        folder: tempfile::TempDir,
        port: u16,
    ) -> Result<Running, String> {
        let printed = folder.path().join("printed");
        let (out, error) = File::create(&printed)
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(|error| error.to_string())?;
        let process = command.stdin(Stdio::null()).stdout(out).stderr(error);
        let process = process.spawn().map_err(|error| error.to_string())?;
        let mut running = Running {
            process,
            _folder: folder,
            port,
        };
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = running.process.try_wait();
            if ended.map_err(|error| error.to_string())?.is_some() {
                let printed = fs::read_to_string(printed).unwrap_or_default();
                return Err(format!("it ended before it listened: {printed}"));
            }
            if begin.elapsed() > START_PATIENCE {
                return Err(format!("it did not listen within {START_PATIENCE:?}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(running)
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.pid().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().ok();
        let begin = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) && begin.elapsed() < STOP_PATIENCE {
            thread::sleep(Duration::from_millis(10));
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A command for this program that is told to stop when the bench ends.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program);
    command
}

/// A folder for a peer.
pub fn folder(peer: &str) -> Result<tempfile::TempDir, String> {
    let mut builder = tempfile::Builder::new();
    let folder = builder.prefix(&format!("snowcache-{peer}-")).tempdir();
    folder.map_err(|error| error.to_string())
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
