//! Caches to prefetch from, and machines with a store and a daemon of their own to prefetch to,
//! with or without an agent.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures::executor::block_on;
use serde_json::Value;
use snowcache_nix::StorePath;

use super::corpus::{self, Generation};
use super::daemon::Daemon;
use super::nix::{Nix, Node, Ran, User};
use super::server::{Snowcached, binary};

/// A cache with a closure in it.
pub struct World {
    pub server: Snowcached,
    pub generation: &'static Generation,
}

impl World {
    fn with(generation: &'static Generation) -> World {
        let server = Snowcached::start_with(super::folder_on_disk(), "warn", &[]);
        let world = World { server, generation };
        world.push(generation);
        world
    }

    /// What was pushed at first stays.
    pub fn push(&self, generation: &Generation) {
        let mut user = User::of(&self.server);
        user.variable("TOP", &generation.top);
        let push = "nix copy --to \"$PUSH?compression=zstd\" $TOP";
        Node::this_machine().sh(&user, &Nix::installed(), push).ok();
    }

    /// A dozen paths.
    pub fn small() -> &'static World {
        static SMALL: OnceLock<World> = OnceLock::new();
        SMALL.get_or_init(|| World::for_all(corpus::small()))
    }

    /// A whole system.
    pub fn system() -> &'static World {
        static SYSTEM: OnceLock<World> = OnceLock::new();
        SYSTEM.get_or_init(|| World::for_all(&corpus::generations()[0]))
    }

    /// A server dies with the thread that started it; this one lives as long as the tests.
    fn for_all(generation: &'static Generation) -> World {
        let (give, take) = mpsc::channel();
        thread::spawn(move || {
            give.send(World::with(generation)).expect("somebody waits");
            loop {
                thread::park();
            }
        });
        take.recv().expect("a world")
    }

    /// Another server with the same depot and keys.
    pub fn twin(&self) -> Snowcached {
        self.twin_with(&[])
    }

    /// The same, told this besides.
    pub fn twin_with(&self, arguments: &[&str]) -> Snowcached {
        let folder = super::folder_on_disk();
        let copied = Command::new("cp")
            .arg("-a")
            .args([&self.server.data(), folder.path()])
            .status();
        assert!(copied.expect("cp runs").success());
        Snowcached::start_with(folder, "warn", arguments)
    }

    /// A node that trusts this cache, and has nothing.
    pub fn node(&self, nix: &Nix) -> Machine {
        Machine::new(nix, &self.server.public_key())
    }

    pub fn prefetch(&self, machine: &Machine, more: &str) -> Ran {
        let top = &self.generation.top;
        machine.snowcache(&format!(
            "prefetch {top} --from {} {more}",
            self.server.url()
        ))
    }
}

/// A cache with a closure in it, and with what that was before a rebuild.
pub struct Rebuilt {
    pub before: &'static Generation,
    pub after: &'static World,
}

impl Rebuilt {
    /// A dozen paths.
    pub fn small() -> &'static Rebuilt {
        static SMALL: OnceLock<Rebuilt> = OnceLock::new();
        SMALL.get_or_init(|| Rebuilt::of(corpus::small(), corpus::small_rebuilt()))
    }

    /// A whole system.
    pub fn system() -> &'static Rebuilt {
        static SYSTEM: OnceLock<Rebuilt> = OnceLock::new();
        SYSTEM.get_or_init(|| {
            let [before, after] = corpus::generations();
            Rebuilt::of(before, after)
        })
    }

    fn of(before: &'static Generation, after: &'static Generation) -> Rebuilt {
        let after = Box::leak(Box::new(World::for_all(after)));
        after.push(before);
        Rebuilt { before, after }
    }

    pub fn generations(&self) -> [&'static Generation; 2] {
        [self.before, self.after.generation]
    }
}

/// A node with its daemon.
pub struct Machine {
    pub node: Node,
    pub user: User,
    pub nix: Nix,
    pub daemon: Daemon,
}

impl Machine {
    pub fn new(nix: &Nix, trusted: &str) -> Machine {
        let (node, mut user) = (Node::empty(), User::new());
        user.set("trusted-public-keys", trusted);
        let state = user.home().join("snowcache").to_string_lossy().into_owned();
        user.variable("SNOWCACHE_STATE", &state);
        let daemon = Daemon::start(&node, &user, nix);
        let socket = daemon.socket().to_string_lossy().into_owned();
        user.variable("NIX_DAEMON_SOCKET_PATH", &socket);
        Machine {
            node,
            user,
            nix: nix.clone(),
            daemon,
        }
    }

    pub fn snowcache(&self, arguments: &str) -> Ran {
        let program = binary("snowcache");
        self.sh(&format!("{} {arguments}", program.display()))
    }

    pub fn sh(&self, script: &str) -> Ran {
        self.node.sh(&self.user, &self.nix, script)
    }

    pub fn valid(&self, paths: &[String]) -> usize {
        let paths: Vec<_> = paths
            .iter()
            .map(|path| StorePath::from_absolute(path).expect("a path"))
            .collect();
        let mut client = self.daemon.connect();
        let valid = block_on(client.valid_paths(&paths));
        valid.expect("asked").len()
    }

    /// Everything that Nix believes to be in the store is, with the right bytes.
    #[track_caller]
    pub fn assert_sound(&self) {
        let said = self.sh("nix-store --verify --check-contents 2>&1").ok();
        let wrong = said.contains("error") || said.contains("modified");
        assert!(!wrong, "{said}");
    }

    /// All of it is signed by somebody who is trusted, too.
    #[track_caller]
    pub fn assert_signed(&self) {
        let verify = "nix store verify --all --extra-experimental-features nix-command 2>&1";
        let ran = self.sh(verify);
        assert_eq!(ran.code, 0, "{}", ran.stdout);
    }
}

/// Longer than anything of an agent should take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An agent of a node's own, which `snowcache` on this machine finds from then on.
pub struct Service {
    process: Option<Child>,
    folder: tempfile::TempDir,
}

impl Service {
    /// That asks these caches, with more lines of configuration before its tables, and after.
    pub fn start(machine: &mut Machine, caches: &[String], top: &str, more: &str) -> Service {
        let folder = super::folder_on_disk();
        // Others than root may want to talk to it.
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("our own folder");
        let service = Service {
            process: None,
            folder,
        };
        let state = machine.user.home().join("snowcache");
        let config = format!(
            "socket = {:?}\nstate = {state:?}\nstore_socket = {:?}\n{top}\n\
             [fetch]\ncaches = {caches:?}\n{more}\n",
            service.socket(),
            machine.daemon.socket()
        );
        fs::write(service.config(), config).expect("a configuration");
        let socket = service.socket().to_string_lossy().into_owned();
        machine.user.variable("SNOWCACHE_AGENT", &socket);
        let mut service = service;
        service.start_again(machine);
        service
    }

    pub fn start_again(&mut self, machine: &Machine) {
        assert!(self.process.is_none(), "it runs already");
        fs::remove_file(self.socket()).ok();
        let (program, config) = (binary("snowcache"), self.config());
        let script = format!(
            "exec {} agent --config {} 2>>{}",
            program.display(),
            config.display(),
            self.log_file().display()
        );
        let mut command = machine.node.command(&machine.user, &machine.nix, &script);
        let mut process = command.stdout(Stdio::null()).spawn().expect("setpriv runs");
        let begin = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = process.try_wait().expect("our own child");
            assert!(ended.is_none(), "the agent ended: {}", self.log());
            assert!(begin.elapsed() < PATIENCE, "no agent: {}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        self.process = Some(process);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("our own child");
            process.wait().expect("our own child");
        }
    }

    /// SIGTERM: how it ended.
    pub fn stop(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let pid = process.id().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.expect("kill runs").success());
        process.wait().expect("our own child")
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// What `snowcache status` says of the last job about a root.
    pub fn job(&self, machine: &Machine, root: &str) -> Option<Value> {
        let status = machine.snowcache("status --json").json();
        let mut jobs = status["jobs"].as_array().expect("a list").iter().rev();
        let about = |job: &&Value| {
            job["roots"]
                .as_array()
                .is_some_and(|all| all.iter().any(|it| it.as_str() == Some(root)))
        };
        jobs.find(about).cloned()
    }

    /// Waits until the last job about a root is so.
    #[track_caller]
    pub fn wait_for(&self, machine: &Machine, root: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begin = Instant::now();
        loop {
            let job = self.job(machine, root);
            if let Some(job) = job.as_ref().filter(|job| is(job)) {
                return job.clone();
            }
            assert!(begin.elapsed() < PATIENCE, "{job:?}: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the log of the agent:\n{}", self.log());
        }
    }
}

/// A file that only its owner reads.
pub fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("a file");
    let closed = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, closed).expect("our own file");
    path
}

/// A store on a disk of so many MiB.
pub fn on_a_small_disk(mib: u32, script: &str) -> String {
    on_a_disk(&format!("size={mib}m"), script)
}

/// A store on a tmpfs with these options.
pub fn on_a_disk(options: &str, script: &str) -> String {
    format!(
        "mount -t tmpfs -o {options} none /nix\nmkdir -p /nix/store /nix/var\n\
         nix-daemon 2>/dev/null & daemon=$!\n\
         trap \"kill $daemon\" EXIT\n\
         for _ in $(seq 500); do [ -S $NIX_DAEMON_SOCKET_PATH ] && break; sleep 0.02; done\n\
         {script}"
    )
}
