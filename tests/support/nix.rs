//! Real Nix, old and new, on machines of their own.
//!
//! A [`Node`] is a machine: with `unshare -m` an empty folder lies over /nix, so that store paths
//! have their real names and the machine's own store is out of sight. A [`User`] is a home:
//! caches, netrc and settings. A [`Nix`] is a version of the programs. `node.sh(&user, &nix, "nix
//! copy …")` puts the three together.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::server::Snowcached;

/// A version of Nix: the folder with its programs.
#[derive(Clone, Debug)]
pub struct Nix {
    pub version: String,
    programs: PathBuf,
    /// What this installation needs in its nix.conf, whoever uses it.
    settings: &'static str,
}

impl Nix {
    /// The machine's own: 2.8 on Debian 12.
    pub fn installed() -> Nix {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).find(|folder| folder.join("nix").exists());
        Nix::at(
            found.expect("nix is not installed; run: make test-setup"),
            "",
        )
    }

    /// 2.26, unpacked beside it by tests/newer-nix.sh.
    pub fn newer() -> Nix {
        let programs = inputs().join("nix-2.26/bin");
        let there = programs.join("nix").exists();
        assert!(
            there,
            "{} is missing; run: make test-setup",
            programs.display()
        );
        // Started by its wrapper it does not find itself again to be its own build hook.
        Nix::at(programs, "build-hook =\n")
    }

    pub fn both() -> [Nix; 2] {
        [Nix::installed(), Nix::newer()]
    }

    fn at(programs: PathBuf, settings: &'static str) -> Nix {
        let output = Command::new(programs.join("nix"))
            .arg("--version")
            .output()
            .expect("nix runs");
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Nix {
            version,
            programs,
            settings,
        }
    }
}

/// Where `make test-setup` puts what the tests work on.
pub fn inputs() -> PathBuf {
    let home = std::env::var_os("HOME").map_or(PathBuf::from("/root"), PathBuf::from);
    home.join(".cache/snowcache-tests")
}

/// Someone with a home: what Nix remembers, the netrc, the settings.
pub struct User {
    home: tempfile::TempDir,
    settings: Vec<(String, String)>,
    variables: Vec<(String, String)>,
}

impl User {
    /// Someone who substitutes from nowhere and trusts nobody.
    pub fn new() -> User {
        let mut user = User {
            home: super::folder_for_files(),
            settings: Vec::new(),
            variables: Vec::new(),
        };
        user.set("experimental-features", "nix-command");
        user.set("sandbox", "false");
        user.set("build-users-group", "");
        user.set("substituters", "");
        user.set("trusted-public-keys", "");
        user.set("require-sigs", "true");
        user
    }

    /// Someone who has pasted into nix.conf what the server printed, and keeps its push token in a
    /// netrc. In scripts, `$URL` and `$PUSH` are the server's.
    pub fn of(server: &Snowcached) -> User {
        let mut user = User::new();
        user.set("substituters", &server.url());
        user.set("trusted-public-keys", &server.public_key());
        user.netrc(&server.push_token());
        user.variable("URL", &server.url());
        user.variable("PUSH", &server.push_url());
        user
    }

    /// A line of nix.conf.
    pub fn set(&mut self, name: &str, value: &str) -> &mut User {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves a setting to the files.
    pub fn unset(&mut self, name: &str) -> &mut User {
        self.settings.retain(|(known, _)| known != name);
        self
    }

    /// A variable that scripts may use.
    pub fn variable(&mut self, name: &str, value: &str) -> &mut User {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The token as the password of a netrc: stock clients know no other way.
    pub fn netrc(&mut self, token: &str) -> &mut User {
        let netrc = self.home.path().join("netrc");
        fs::write(
            &netrc,
            format!("machine 127.0.0.1\nlogin ci\npassword {token}\n"),
        )
        .expect("a netrc");
        self.set("netrc-file", &netrc.to_string_lossy())
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Forgets which narinfos it has seen, as after 30 days.
    pub fn forget(&self) {
        fs::remove_dir_all(self.home().join("cache")).ok();
    }

    fn environment(&self, nix: &Nix) -> Vec<(OsString, OsString)> {
        let home = self.home();
        let lines = self
            .settings
            .iter()
            .map(|(name, value)| format!("{name} = {value}\n"));
        let settings = lines.collect::<String>() + nix.settings;
        let path = format!(
            "{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            nix.programs.display()
        );
        let mut variables: Vec<(OsString, OsString)> = vec![
            ("PATH".into(), path.into()),
            ("NIX_CONFIG".into(), settings.into()),
            ("NIX_REMOTE".into(), "local".into()),
            ("NIX_PATH".into(), "".into()),
            ("NIX_CONF_DIR".into(), home.join("etc").into()),
            ("HOME".into(), home.into()),
            ("TMPDIR".into(), home.into()),
            ("USER".into(), "tester".into()),
            ("FILES".into(), super::root().join("tests/nix").into()),
        ];
        for (name, folder) in [
            ("CACHE", "cache"),
            ("CONFIG", "config"),
            ("DATA", "data"),
            ("STATE", "state"),
        ] {
            variables.push((format!("XDG_{name}_HOME").into(), home.join(folder).into()));
        }
        variables.extend(
            self.variables
                .iter()
                .map(|(name, value)| (name.into(), value.into())),
        );
        variables
    }
}

/// A machine with a /nix of its own, or the machine that the tests run on.
pub struct Node {
    nix: Option<tempfile::TempDir>,
}

impl Node {
    /// A machine whose store is empty.
    pub fn empty() -> Node {
        Node {
            nix: Some(super::folder_for_files()),
        }
    }

    /// This machine, whose store holds the corpus. Only read from.
    pub fn this_machine() -> Node {
        Node { nix: None }
    }

    /// Where a path of /nix of this node lies for everyone else.
    pub fn outside(&self, path: &str) -> PathBuf {
        match &self.nix {
            Some(folder) => folder.path().join(path.trim_start_matches("/nix/")),
            None => PathBuf::from(path),
        }
    }

    /// Runs a shell script there, which ends at its first failing command.
    pub fn sh(&self, user: &User, nix: &Nix, script: &str) -> Ran {
        let output = self
            .command(user, nix, script)
            .output()
            .expect("unshare (util-linux) runs");
        Ran {
            what: format!("{}: {script}", nix.version),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The same, to be run in another way: it dies with the thread that starts it.
    pub fn command(&self, user: &User, nix: &Nix, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare"]);
        if !is_root() {
            command.arg("--map-root-user");
        }
        command
            .arg("--mount")
            .args(["bash", "-euo", "pipefail", "-c"]);
        match &self.nix {
            Some(folder) => {
                fs::create_dir_all("/nix").expect("/nix, for a node's to lie over");
                let folder = folder.path().display();
                command.arg(format!("mount --bind {folder} /nix\n{script}"))
            }
            None => command.arg(script),
        };
        command
            .env_clear()
            .envs(user.environment(nix))
            .current_dir(user.home())
            .stdin(Stdio::null());
        command
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(folder) = &self.nix {
            // Store paths are read-only, also for whoever wants to remove them without being root.
            Command::new("chmod")
                .args(["-R", "u+w"])
                .arg(folder.path())
                .status()
                .ok();
        }
    }
}

/// How a script went.
pub struct Ran {
    what: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// It went well: what it printed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "{}\n{}{}",
            self.what, self.stdout, self.stderr
        );
        self.stdout.trim_end().to_owned()
    }

    /// It went wrong: what it complained of.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(
            self.code, 0,
            "should have failed: {}\n{}{}",
            self.what, self.stdout, self.stderr
        );
        self.stderr
    }

    pub fn failed(&self) -> bool {
        self.code != 0
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text}"))
    }
}

/// `nix path-info --json` prints a list until 2.18 and a map since: (store path, its facts),
/// sorted.
pub fn path_infos(printed: Value) -> Vec<(String, Value)> {
    let mut infos: Vec<(String, Value)> = match printed {
        Value::Array(list) => {
            let path = |info: &Value| info["path"].as_str().expect("a path").to_owned();
            list.into_iter().map(|info| (path(&info), info)).collect()
        }
        Value::Object(map) => map.into_iter().collect(),
        other => panic!("neither list nor map: {other}"),
    };
    infos.sort_by(|a, b| a.0.cmp(&b.0));
    infos
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id runs");
    output.stdout == b"0\n"
}
