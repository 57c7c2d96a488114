//! A snowcached of a test's own: the release binary, a data folder, a free port; stopped when it
//! goes out of scope.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::http::Http;
use super::running::free_port;

/// Longer than any start should take, also one that makes an index of a million records anew on a
/// busy machine; `ready_in` says how long it took.
const START_PATIENCE: Duration = Duration::from_secs(600);

/// A running (or, between `kill` and `start_again`, dead) server.
pub struct Snowcached {
    /// What is started.
    pub program: PathBuf,
    process: Option<Child>,
    /// Ends when nobody holds the server's stdout any more.
    listener: Option<thread::JoinHandle<()>>,
    folder: tempfile::TempDir,
    port: u16,
    arguments: Vec<String>,
    log_level: &'static str,
    /// What it wrote to stderr, over all its lives.
    pub log: Arc<Log>,
    /// What it wrote to stdout in its present life.
    pub said: Arc<Mutex<Vec<String>>>,
    /// From the start of the process to its readiness line.
    pub ready_in: Duration,
}

impl Snowcached {
    /// With an empty depot, as a person would start it.
    pub fn start() -> Snowcached {
        Self::start_with(super::folder_on_disk(), "info", &[])
    }

    /// In a folder that may hold a depot already, with a log level and further arguments.
    pub fn start_with(
        folder: tempfile::TempDir,
        log_level: &'static str,
        arguments: &[&str],
    ) -> Snowcached {
        let mut server = Self::stopped(folder, log_level, arguments);
        server.start_again();
        server
    }

    /// Like `start_with`, but not started yet.
    pub fn stopped(
        folder: tempfile::TempDir,
        log_level: &'static str,
        arguments: &[&str],
    ) -> Snowcached {
        Snowcached {
            program: binary("snowcached"),
            process: None,
            listener: None,
            folder,
            port: free_port(),
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            log_level,
            log: Arc::default(),
            said: Arc::default(),
            ready_in: Duration::ZERO,
        }
    }

    /// Starts the process and waits until it says that it is ready.
    pub fn start_again(&mut self) {
        if let Err(why) = self.try_start(&[]) {
            panic!("snowcached did not become ready: {why}");
        }
    }

    /// Starts the process as an argument of `wrapper` (a tracer, a limit) and waits until it is
    /// ready, or says how its log ended.
    pub fn try_start(&mut self, wrapper: &[String]) -> Result<(), String> {
        assert!(self.process.is_none(), "it runs already");
        let (begin, logged) = (Instant::now(), self.log.len());
        // When the test's thread dies, however it dies, so does its server.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if !wrapper.is_empty() {
            command
                .args(wrapper)
                .args(["setpriv", "--pdeathsig", "KILL"]);
        }
        let mut child = command
            .arg(&self.program)
            .arg("--data")
            .arg(self.data())
            .args(["--listen", &self.address().to_string()])
            .args(&self.arguments)
            .env("RUST_LOG", self.log_level)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) runs");
        let logging = self.log.follow(child.stderr.take().expect("a pipe"));
        self.said = Arc::default();
        let stdout = child.stdout.take().expect("a pipe");
        let (ready, listener) = follow_stdout(stdout, Arc::clone(&self.said));
        (self.process, self.listener) = (Some(child), Some(listener));
        if ready.recv_timeout(START_PATIENCE).is_err() {
            self.kill();
            logging.join().expect("the log's reader");
            return Err(self.log.since(logged).join("\n"));
        }
        self.ready_in = begin.elapsed();
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.process.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
        // Under a wrapper it is the wrapper's child, and dies a moment later.
        if let Some(listener) = self.listener.take() {
            listener.join().expect("the reader of its stdout");
        }
    }

    /// SIGSTOP, and waits until each of its threads has stopped.
    pub fn pause(&self) {
        let pid = self.pid().to_string();
        let stopped = Command::new("kill").args(["-STOP", &pid]).status();
        assert!(stopped.expect("kill runs").success());
        let begin = Instant::now();
        let threads = || fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
        // The state stands behind the name, which is in brackets: proc(5), stat.
        let is_stopped = |thread: PathBuf| {
            fs::read_to_string(thread.join("stat")).is_ok_and(|it| it.contains(") T "))
        };
        while !threads().flatten().all(|thread| is_stopped(thread.path())) {
            assert!(begin.elapsed() < START_PATIENCE, "it does not stop");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether the process is still there.
    pub fn runs(&mut self) -> bool {
        let status = self.process.as_mut().map(Child::try_wait);
        matches!(status, Some(Ok(None)))
    }

    /// SIGTERM, as an init system stops it; asserts that it goes, within 10 s, with code 0.
    pub fn stop(&mut self) {
        let status = self.terminate();
        assert!(
            status.success(),
            "stopped with {status}:\n{}",
            self.log.tail(30)
        );
    }

    /// SIGTERM; asserts that it goes within 10 s.
    pub fn terminate(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("it runs");
        let pid = child.id().to_string();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        let begin = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("our own child") {
                return status;
            }
            if begin.elapsed() > Duration::from_secs(10) {
                child.kill().expect("our own child");
                panic!(
                    "SIGTERM and 10 s later it still runs:\n{}",
                    self.log.tail(30)
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub fn http(&self) -> Http {
        Http(self.address())
    }

    /// Where one reads.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Where one writes.
    pub fn push_url(&self) -> String {
        format!("http://{}/push", self.address())
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn depot(&self) -> PathBuf {
        self.data().join("depot")
    }

    /// The token that collecting and removing need.
    pub fn admin_token(&self) -> String {
        read(&self.data().join("admin.token"))
    }

    pub fn push_token(&self) -> String {
        read(&self.data().join("push.token"))
    }

    /// The public half of the one key that the first start made.
    pub fn public_key(&self) -> String {
        let keys = fs::read_dir(self.data().join("keys")).expect("DIR/keys exists");
        let mut public = keys.flatten().map(|entry| entry.path());
        let key = public.find(|path| path.extension().is_some_and(|e| e == "pub"));
        read(&key.expect("DIR/keys/<name>.pub exists"))
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// A figure of /proc/PID/status, in KiB: VmHWM is the most memory that it ever held.
    pub fn memory_kib(&self, what: &str) -> u64 {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status
            .lines()
            .find(|line| line.starts_with(what))
            .expect("a known figure");
        line.split_whitespace()
            .nth(1)
            .and_then(|n| n.parse().ok())
            .expect("a number of KiB")
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()));
        tasks.expect("it runs").count()
    }

    /// CPU seconds of the process so far: utime and stime, fields 14 and 15 of proc(5)'s stat.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = read(Path::new(&format!("/proc/{}/stat", self.pid())));
        let behind_the_name = &stat[stat.rfind(')').expect("a name") + 1..];
        let fields = behind_the_name.split_whitespace().skip(11).take(2);
        let ticks: f64 = fields.map(|it| it.parse::<f64>().expect("a number")).sum();
        ticks / rustix::param::clock_ticks_per_second() as f64
    }

    /// What the data folder takes on disk.
    pub fn disk_kib(&self) -> u64 {
        let output = Command::new("du")
            .args(["-sk"])
            .arg(self.data())
            .output()
            .expect("du runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace()
            .next()
            .and_then(|n| n.parse().ok())
            .expect("du prints a number")
    }

    pub fn stats(&self) -> serde_json::Value {
        self.http().get("/api/v1/stats").is(200).json()
    }
}

impl Drop for Snowcached {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the log of snowcached ends:\n{}", self.log.tail(40));
        }
    }
}

/// A release binary of ours.
pub fn binary(name: &str) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or(super::root().join("target"), PathBuf::from);
    let binary = target.join("release").join(name);
    assert!(
        binary.exists(),
        "{} is missing; run: cargo build --release",
        binary.display()
    );
    binary
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

fn follow_stdout(
    stdout: impl Read + Send + 'static,
    said: Arc<Mutex<Vec<String>>>,
) -> (mpsc::Receiver<()>, thread::JoinHandle<()>) {
    let (ready, readiness) = mpsc::channel();
    let listener = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            said.lock().expect("no poison").push(line);
            ready.send(()).ok();
        }
    });
    (readiness, listener)
}

/// The lines of a log, which may be waited for.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Log {
    fn follow(self: &Arc<Log>, stderr: impl Read + Send + 'static) -> thread::JoinHandle<()> {
        let log = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                log.lines.lock().expect("no poison").push(line);
                log.grown.notify_all();
            }
        })
    }

    pub fn len(&self) -> usize {
        self.lines.lock().expect("no poison").len()
    }

    pub fn tail(&self, lines: usize) -> String {
        let all = self.lines.lock().expect("no poison");
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    pub fn since(&self, line: usize) -> Vec<String> {
        self.lines.lock().expect("no poison")[line..].to_vec()
    }

    /// Waits for a line that is `wanted`, from line number `from` on.
    pub fn wait_for(
        &self,
        from: usize,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut lines = self.lines.lock().expect("no poison");
        let mut next = from;
        loop {
            if let Some(line) = lines[next..].iter().find(|line| wanted(line)) {
                return Some(line.clone());
            }
            next = lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            lines = self.grown.wait_timeout(lines, left).expect("no poison").0;
        }
    }
}
