//! An issuer of identities that is not ours: `tests/oidc/issuer.py`, in a process of its own; and
//! caches that trust it.

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use super::http::Response;
use super::server::{Snowcached, binary};

/// Longer than a signal takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub const RULES: &str = r#"
[[issuer.rule]]
subject = "main"
scopes = ["push", "pin"]
expires_in_s = 600
claims = { repository_id = 42, ref = "refs/heads/main" }

[[issuer.rule]]
subject = "branches"
scopes = ["push"]
claims = { repository_id = "42" }
"#;

/// A server that trusts an issuer.
pub struct Place {
    pub issuer: Issuer,
    pub server: Snowcached,
}

impl Place {
    pub fn new() -> Place {
        Place::with(Issuer::start(), "", RULES)
    }

    pub fn with(issuer: Issuer, more: &str, rules: &str) -> Place {
        let folder = super::folder_on_disk();
        let url = &issuer.url;
        let file = format!("[[issuer]]\nurl = \"{url}\"\naudience = \"snowcache\"\n{more}{rules}");
        let server = serving(folder, &file);
        Place { issuer, server }
    }

    /// Writes other rules, tells the server, and waits until it has looked.
    pub fn reloads(&self, rules: &str, says: &str) {
        let url = &self.issuer.url;
        let file = format!("[[issuer]]\nurl = \"{url}\"\naudience = \"snowcache\"\n{rules}");
        let data = self.server.data();
        let folder = data.parent().expect("a folder above");
        fs::write(folder.join("issuers.toml"), file).expect("written");
        let (log, pid) = (&self.server.log, self.server.pid().to_string());
        let before = log.len();
        let kill = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(kill.expect("kill runs").success());
        let seen = log.wait_for(before, PATIENCE, |line| line.contains(says));
        assert!(seen.is_some(), "no word of {says:?}: {}", log.tail(10));
    }

    pub fn exchange(&self, identity: &str) -> Response {
        let body = json!({ "identity": identity }).to_string();
        let http = self.server.http();
        let request = http.request("POST", "/api/v1/tokens/exchange");
        request.bytes(body.as_bytes()).send()
    }

    /// Exchanges an identity that is good but for these claims.
    pub fn says(&self, claims: Value) -> Response {
        self.exchange(&self.issuer.identity(claims))
    }

    /// What the client says in an environment, at this cache.
    pub fn client(&self, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
        let mut command = Command::new(binary("snowcache"));
        command
            .args(["--cache", &self.server.url()])
            .args(arguments);
        command.env_remove("SNOWCACHE_TOKEN");
        command.envs(environment.iter().copied());
        command.output().expect("snowcache runs")
    }
}

pub fn serving(folder: tempfile::TempDir, issuers: &str) -> Snowcached {
    let (file, config) = (
        folder.path().join("issuers.toml"),
        folder.path().join("snowcached.toml"),
    );
    fs::write(&file, issuers).expect("written");
    let text = format!("[auth]\nissuers_file = \"{}\"\n", file.display());
    fs::write(&config, text).expect("written");
    let config = config.to_str().expect("UTF-8").to_owned();
    Snowcached::start_with(folder, "info", &["--config", &config])
}

/// See the script; gone when dropped.
pub struct Issuer {
    pub url: String,
    process: Child,
    pipes: Mutex<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Issuer {
    /// Over plain http, on this machine.
    pub fn start() -> Issuer {
        Issuer::with(&[])
    }

    /// As a cluster has it: over TLS, by an authority that is written to `ca_file`, and only for
    /// who bears `kube`.
    pub fn of_a_cluster(ca_file: &Path) -> Issuer {
        Issuer::with(&[ca_file])
    }

    fn with(arguments: &[&Path]) -> Issuer {
        let python = super::nix::inputs().join("python/bin/python");
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&python)
            .arg(super::root().join("tests/oidc/issuer.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) runs");
        let pipes = (
            process.stdin.take().expect("a pipe"),
            BufReader::new(process.stdout.take().expect("a pipe")),
        );
        let mut issuer = Issuer {
            url: String::new(),
            process,
            pipes: Mutex::new(pipes),
        };
        let said = issuer.line();
        issuer.url = said["url"].as_str().expect("a URL").to_owned();
        issuer
    }

    /// An identity that differs from a good one by these claims; null leaves one out.
    pub fn identity(&self, claims: Value) -> String {
        self.jwt(json!({ "claims": claims }))
    }

    /// See the script.
    pub fn jwt(&self, wish: Value) -> String {
        self.tell(wish)["jwt"]
            .as_str()
            .expect("an identity")
            .to_owned()
    }

    /// See the script.
    pub fn tell(&self, wish: Value) -> Value {
        let mut pipes = self.pipes.lock().expect("nobody panicked");
        writeln!(pipes.0, "{wish}").expect("it reads");
        drop(pipes);
        self.line()
    }

    fn line(&self) -> Value {
        let mut line = String::new();
        let mut pipes = self.pipes.lock().expect("nobody panicked");
        pipes.1.read_line(&mut line).expect("it writes");
        serde_json::from_str(&line).expect("the issuer answers; run: make test-setup")
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
    }
}
