//! An issuer of identities that is not ours: `tests/oidc/issuer.py`, in a process of its own.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

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
