//! A real nix-daemon of a node's own, old or new.

use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use futures::io::AllowStdIo;
use snowcache_nix::daemon::Connection;

use super::nix::{Nix, Node, User};

/// Longer than a start should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection that this thread waits for.
pub type Client = Connection<AllowStdIo<UnixStream>, AllowStdIo<UnixStream>>;

/// A running nix-daemon; killed when it goes out of scope.
pub struct Daemon {
    process: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Of this node, with the user's settings as the machine's.
    pub fn start(node: &Node, user: &User, nix: &Nix) -> Daemon {
        let socket = user.home().join("daemon.socket");
        std::fs::remove_file(&socket).ok();
        let log = user.home().join("daemon.log");
        let script = format!(
            "export NIX_DAEMON_SOCKET_PATH={}\nexec nix-daemon 2>>{}",
            socket.display(),
            log.display()
        );
        let mut command = node.command(user, nix, &script);
        let process = command.stdout(Stdio::null()).spawn().expect("setpriv runs");
        let mut daemon = Daemon {
            process,
            socket,
            log,
        };
        let begin = Instant::now();
        while UnixStream::connect(&daemon.socket).is_err() {
            let ended = daemon.process.try_wait().expect("our own child");
            assert!(ended.is_none(), "nix-daemon ended: {}", daemon.said());
            assert!(
                begin.elapsed() < PATIENCE,
                "no nix-daemon: {}",
                daemon.said()
            );
            thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    /// Killed with all its connections, and started anew behind the same socket.
    pub fn restart(&mut self, node: &Node, user: &User, nix: &Nix) {
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
        for child in children.split_whitespace() {
            // One that has just gone by itself is gone.
            let killed = Command::new("kill").args(["-KILL", child]).status();
            killed.expect("kill runs");
        }
        *self = Daemon::start(node, user, nix);
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Another connection, hello said. Those who come first to a new store make its database; a
    /// daemon that fails at that, for another one does, hangs up and is greeted again.
    pub fn connect(&self) -> Client {
        let begin = Instant::now();
        loop {
            let stream = UnixStream::connect(&self.socket).expect("the daemon listens");
            let other = stream.try_clone().expect("a descriptor");
            let halves = (AllowStdIo::new(stream), AllowStdIo::new(other));
            match block_on(Connection::open(halves.0, halves.1)) {
                Ok(client) => return client,
                Err(error) if error.is_hangup() && begin.elapsed() < PATIENCE => {
                    eprintln!("nix-daemon hung up: {error}; it says: {}", self.said());
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error}; the daemon says: {}", self.said()),
            }
        }
    }

    /// What it wrote to its stderr.
    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Stands before a daemon, and hangs up on the first so many; counts the others.
pub fn hang_up_on(count: usize, daemon: PathBuf, socket: &Path) -> Arc<AtomicUsize> {
    let passed = Arc::new(AtomicUsize::new(0));
    let counter = passed.clone();
    let listener = UnixListener::bind(socket).expect("a socket");
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(socket, open).expect("our own");
    thread::spawn(move || {
        for near in listener.incoming().flatten().skip(count) {
            counter.fetch_add(1, Ordering::SeqCst);
            let far = UnixStream::connect(&daemon).expect("the daemon listens");
            let (near2, far2) = (near.try_clone(), far.try_clone());
            let halves = [(near, far2.expect("half")), (far, near2.expect("half"))];
            for (mut from, mut to) in halves {
                thread::spawn(move || {
                    io::copy(&mut from, &mut to).ok();
                    to.shutdown(Shutdown::Both).ok();
                });
            }
        }
    });
    passed
}
