//! A machine that builds with the post-build-hook in its nix.conf, and the cache that it pushes to.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::nix::{Nix, Node, Ran, User};
use super::server::{Snowcached, binary};

/// Longer than anything here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A builder with the hook in its nix.conf, a store of its own, and a cache elsewhere.
pub struct Builder {
    pub server: Snowcached,
    pub node: Node,
    pub user: User,
    pub nix: Nix,
}

impl Builder {
    pub fn new(nix: &Nix) -> Builder {
        let server = Snowcached::start();
        let mut user = User::of(&server);
        let program = binary("snowcache");
        user.variable("SNOWCACHE", &program.to_string_lossy());
        user.variable("SNOWCACHE_URL", &server.url());
        let token = user.home().join("push.token");
        fs::write(&token, server.push_token()).expect("a token");
        let spool = user.home().join("spool").to_string_lossy().into_owned();
        user.variable("SNOWCACHE_SPOOL", &spool);
        // The shipped one, but for what it says, which is kept.
        let shipped = super::root().join("config/ci/post-build-hook.sh");
        let (hook, said) = (user.home().join("hook"), user.home().join("hook.log"));
        let script = format!(
            "#!/bin/sh\nexec {} 2>>{}\n",
            shipped.display(),
            said.display()
        );
        fs::write(&hook, script).expect("a hook");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("a program");
        user.set("post-build-hook", &hook.to_string_lossy());
        // What is built is not asked for elsewhere.
        user.set("substituters", "");
        Builder {
            server,
            node: Node::empty(),
            user,
            nix: nix.clone(),
        }
    }

    pub fn sh(&self, script: &str) -> Ran {
        self.node.sh(&self.user, &self.nix, script)
    }

    pub fn snowcache(&self, arguments: &str) -> Ran {
        self.sh(&format!("$SNOWCACHE --token-file push.token {arguments}"))
    }

    /// Builds top, middle, bottom and extra; returns top.
    pub fn build(&self) -> String {
        let build = "nix-build --no-out-link $FILES/dependencies.nix";
        self.sh(build).ok()
    }

    pub fn status(&self) -> Value {
        self.snowcache("queue status --json").json()
    }

    pub fn waiting(&self) -> u64 {
        self.status()["waiting"].as_u64().expect("a number")
    }

    pub fn collect_garbage(&self) -> BTreeSet<String> {
        self.sh("nix-store --gc >/dev/null 2>&1").ok();
        let left = self.sh("ls /nix/store").ok();
        let outputs = left.lines().filter(|it| it.contains("dependencies-"));
        let outputs = outputs.filter(|it| !it.ends_with(".drv"));
        outputs.map(|it| it[33..].to_owned()).collect()
    }

    pub fn queue(&self) -> Queue {
        self.start("exec $SNOWCACHE --token-file push.token queue run 2>>queue.log")
    }

    /// A script that goes on until it is killed.
    pub fn start(&self, script: &str) -> Queue {
        let mut command = self.node.command(&self.user, &self.nix, script);
        command.stdout(Stdio::null());
        Queue(command.spawn().expect("setpriv runs"))
    }

    /// The paths that the cache has, by name.
    pub fn there(&self) -> usize {
        self.server.stats()["paths"].as_u64().expect("a number") as usize
    }
}

/// `snowcache queue run`, or the like, killed when it goes out of scope.
pub struct Queue(Child);

impl Queue {
    pub fn kill(&mut self) {
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.kill();
    }
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what} does not come true");
        thread::sleep(Duration::from_millis(50));
    }
}
