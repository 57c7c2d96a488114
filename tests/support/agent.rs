//! Caches to prefetch from, and machines with a store and a daemon of their own to prefetch to.

use std::process::Command;
use std::sync::{OnceLock, mpsc};
use std::thread;

use futures::executor::block_on;
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
        let folder = super::folder_on_disk();
        let copied = Command::new("cp")
            .arg("-a")
            .args([&self.server.data(), folder.path()])
            .status();
        assert!(copied.expect("cp runs").success());
        Snowcached::start_with(folder, "warn", &[])
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
}
