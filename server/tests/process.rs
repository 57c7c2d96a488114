//! The real process: its command line, its environment, its signals, and what systemd is to it.

#![allow(clippy::unwrap_used, reason = "a failure here is the test's own")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SNOWCACHED: &str = env!("CARGO_BIN_EXE_snowcached");

/// snowcached as a command, on a free port, with a clean environment.
fn snowcached(data: &Path) -> Command {
    let mut command = Command::new(SNOWCACHED);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SNOWCACHE_")) {
        command.env_remove(name);
    }
    command
        .env("NO_COLOR", "1")
        .env_remove("RUST_LOG")
        .env("SNOWCACHE_DATA", data)
        .env("SNOWCACHE_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null());
    command
}

/// A process that serves; killed when dropped.
struct Daemon {
    child: Child,
    address: SocketAddr,
    log: Option<JoinHandle<String>>,
}

impl Daemon {
    fn start(command: &mut Command) -> Daemon {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let log = std::thread::spawn(move || {
            let mut log = String::new();
            stderr.read_to_string(&mut log).unwrap();
            log
        });
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first = String::new();
        stdout.read_line(&mut first).unwrap();
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
        let Some((_, address)) = first.split_once("http://") else {
            child.kill().unwrap();
            panic!("not ready: {first}{}", log.join().unwrap());
        };
        let address = address.trim().parse().unwrap();
        let log = Some(log);
        Daemon {
            child,
            address,
            log,
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.unwrap().success());
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let ask = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Its exit status and its log.
    fn ended(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().unwrap();
        (status, self.log.take().unwrap().join().unwrap())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().unwrap();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn check_config(command: &mut Command, arguments: &[&str]) -> Output {
    command
        .arg("check-config")
        .args(arguments)
        .output()
        .unwrap()
}

#[test]
fn check_config_prints_what_is_in_force_and_who_said_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    std::fs::write(&file, "# ours\n[http]\nmax_connections = 7\n").unwrap();
    let command = || {
        let mut command = snowcached(dir.path());
        command
            .env("SNOWCACHE_CONFIG", &file)
            .args(["--listen", "[::1]:9"]);
        command
    };
    let checked = check_config(&mut command(), &[]);
    let printed = text(&checked.stdout);
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    for line in [
        "listen = \"[::1]:9\"  # --listen".to_owned(),
        format!("data = \"{}\"  # $SNOWCACHE_DATA", dir.path().display()),
        format!("max_connections = 7  # {}:3", file.display()),
        "header_timeout_s = 30  # default".to_owned(),
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line}\n{printed}"
        );
    }
    // What is printed is a file that says the same.
    let printed_file = dir.path().join("printed.toml");
    std::fs::write(&printed_file, printed).unwrap();
    let mut again = Command::new(SNOWCACHED);
    again.arg("--config").arg(&printed_file);
    let again = check_config(&mut again, &["--json"]);
    let first = check_config(&mut command(), &["--json"]);
    let [first, again] = [first, again].map(|checked| {
        let json: Value = serde_json::from_slice(&checked.stdout).unwrap();
        json
    });
    assert_eq!(first["config"], again["config"]);
    assert_eq!(first["said_by"]["listen"], "--listen");
    assert!(!dir.path().join("depot").exists(), "nothing was started");
}

#[test]
fn check_config_names_every_mistake() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("s.toml");
    std::fs::write(&file, "[htttp]\nx = 1\n[log]\nformat = 3\n").unwrap();
    let wrong = |arguments: &[&str]| {
        let mut command = snowcached(dir.path());
        command
            .arg("--config")
            .arg(&file)
            .env("SNOWCACHE_LISTNE", "127.0.0.1:0");
        check_config(&mut command, arguments)
    };
    let told = wrong(&[]);
    assert_eq!(told.status.code(), Some(2));
    let place = file.display();
    for says in [
        format!("{place}:1: there is no key `htttp`; did you mean `http`?"),
        format!("{place}:4: `log.format` is 3: "),
        "$SNOWCACHE_LISTNE sets nothing; did you mean $SNOWCACHE_LISTEN?".to_owned(),
    ] {
        assert!(
            text(&told.stderr).contains(&says),
            "{says}\n{}",
            text(&told.stderr)
        );
    }
    let told: Value = serde_json::from_slice(&wrong(&["--json"]).stdout).unwrap();
    assert_eq!(told["errors"].as_array().unwrap().len(), 3, "{told}");
    // And such a server does not start.
    let mut server = snowcached(dir.path());
    let started = server.arg("--config").arg(&file).output().unwrap();
    assert!(!started.status.success());
    assert!(text(&started.stderr).contains("did you mean `http`?"));
}

#[test]
fn check_config_looks_at_the_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/server/tls");
    let with = |key: &str| {
        let mut command = snowcached(dir.path());
        command
            .env("SNOWCACHE_TLS_CERTIFICATE_FILE", made.join("first.pem"))
            .env("SNOWCACHE_TLS_KEY_FILE", made.join(key));
        check_config(&mut command, &[])
    };
    assert!(with("first.key").status.success());
    let refused = with("second.key");
    assert_eq!(refused.status.code(), Some(2));
    let why = text(&refused.stderr);
    assert!(why.contains("cannot be used together"), "{why}");
}

#[test]
fn check_config_and_the_start_look_at_the_issuers() {
    let dir = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/issuers.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let file = dir.path().join("issuers.toml");
    let command = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = snowcached(dir.path());
        command.env("SNOWCACHE_AUTH_ISSUERS_FILE", &file);
        command
    };
    // The cluster's files are not on this machine, and it is said so.
    let elsewhere = command(&example).arg("check-config").output().unwrap();
    let why = text(&elsewhere.stderr);
    assert!(
        !elsewhere.status.success() && why.contains("serviceaccount/ca.crt"),
        "{why}"
    );
    let without: Vec<&str> = example
        .lines()
        .filter(|line| !line.starts_with("ca_file"))
        .collect();
    let without = without.join("\n");
    let checked = command(&without).arg("check-config").output().unwrap();
    assert!(checked.status.success(), "{}", text(&checked.stderr));
    let by_name = without.replace("repository_id = 123456789", "repository = \"a/b\"");
    for arguments in [&["check-config"][..], &[]] {
        let refused = command(&by_name).args(arguments).output().unwrap();
        let why = text(&refused.stderr);
        assert!(!refused.status.success(), "{arguments:?}");
        assert!(why.contains("rule 1: repository is a name"), "{why}");
    }
}

#[test]
fn the_first_key_is_called_as_configured() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = snowcached(dir.path());
    let server = Daemon::start(command.env("SNOWCACHE_CACHE_KEY_NAME", "our-cache-7"));
    assert!(
        server
            .get("/")
            .contains("trusted-public-keys = our-cache-7:")
    );
    assert!(dir.path().join("keys/our-cache-7.sec").exists());
}

#[test]
fn the_log_is_text_or_json_and_says_what_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let log_of = |format: &str, filter: &str| {
        let mut command = snowcached(dir.path());
        command
            .env("SNOWCACHE_LOG_FORMAT", format)
            .env("SNOWCACHE_LOG_FILTER", filter);
        let server = Daemon::start(&mut command);
        assert!(server.get("/healthz").contains("x-request-id: "));
        server.signal("TERM");
        let (status, log) = server.ended();
        assert!(status.success(), "{log}");
        log
    };
    let json = log_of("json", "info,snowcache_server::observe=debug");
    let events = json.lines().map(|line| serde_json::from_str(line).unwrap());
    let events: Vec<Value> = events.collect();
    let request = events
        .iter()
        .find(|event| event["fields"]["message"] == "answered");
    let request = request.unwrap_or_else(|| panic!("no request in {json}"));
    assert_eq!(request["fields"]["status"], 200);
    assert_eq!(request["span"]["path"], "/healthz");
    assert!(!request["span"]["id"].as_str().unwrap().is_empty());
    let plain = log_of("text", "info");
    assert!(
        plain.contains(" INFO ") && plain.contains("told to stop"),
        "{plain}"
    );
    assert!(
        !plain.contains("answered") && !plain.contains("WARN"),
        "{plain}"
    );
    assert_eq!(log_of("text", "error"), "");
}

#[test]
fn a_second_signal_ends_what_the_first_one_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = snowcached(dir.path());
    let server = Daemon::start(command.env("SNOWCACHE_HTTP_DRAIN_DELAY_S", "600"));
    server.signal("TERM");
    let begin = Instant::now();
    while !server.get("/readyz").starts_with("HTTP/1.1 503") {
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    server.signal("INT");
    let (status, log) = server.ended();
    assert!(status.success(), "{log}");
    assert!(begin.elapsed() < Duration::from_secs(300), "{log}");
}

#[test]
fn systemd_is_told_what_happens_and_that_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    let told = || {
        let mut buffer = [0; 1000];
        let length = socket.recv(&mut buffer).expect("systemd hears something");
        text(&buffer[..length]).to_owned()
    };
    let mut command = snowcached(&dir.path().join("var"));
    command
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000");
    let server = Daemon::start(&mut command);
    let mut heard = BTreeMap::from([(told(), 1), (told(), 1)]);
    while heard.get("WATCHDOG=1").is_none_or(|times| *times < 3) {
        *heard.entry(told()).or_insert(0) += 1;
    }
    assert_eq!(heard.get("READY=1\nSTATUS=serving"), Some(&1), "{heard:?}");
    let next = || loop {
        let told = told();
        if told != "WATCHDOG=1" {
            return told;
        }
    };
    server.signal("HUP");
    let reloading = next();
    assert!(
        reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
        "{reloading}"
    );
    assert_eq!(next(), "READY=1\nSTATUS=serving");
    server.signal("TERM");
    assert!(next().starts_with("STOPPING=1"));
    let (status, log) = server.ended();
    assert!(status.success(), "{log}");
}

/// Does what systemd does with a .socket unit.
const ACTIVATE: &str = "
import os, socket, sys
tcp = socket.create_server(('127.0.0.1', 0))
unix = socket.socket(socket.AF_UNIX)
unix.bind(sys.argv[1])
unix.listen()
sockets = [os.dup(tcp.fileno()), os.dup(unix.fileno())]
tcp.close(); unix.close()
for wanted, fd in enumerate(sockets, 3):
    os.dup2(fd, wanted, inheritable=True)
os.environ.update(LISTEN_FDS='2', LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn sockets_of_systemd_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let unix = dir.path().join("unix");
    let template = snowcached(&dir.path().join("var"));
    let mut command = Command::new("python3");
    command.args(["-c", ACTIVATE]).arg(&unix).arg(SNOWCACHED);
    for (name, value) in template.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    // Nobody says where to listen.
    command.env_remove("SNOWCACHE_LISTEN");
    let mut first = String::new();
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut first).unwrap();
    let (tcp, told_unix) = first.split_once(", unix:").unwrap();
    assert_eq!(Path::new(told_unix.trim()), unix);
    let (_, address) = tcp.split_once("http://").unwrap();
    let server = Daemon {
        child,
        address: address.parse().unwrap(),
        log: None,
    };
    assert!(server.get("/healthz").ends_with("ok\n"));
    let mut stream = std::os::unix::net::UnixStream::connect(&unix).unwrap();
    let ask = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(ask).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
}
