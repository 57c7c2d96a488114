//! The tools of fleets on a node that has prefetched: what nixos-rebuild, colmena, deploy-rs and
//! comin do on a node, as far as their sources and documentation were read, by real Nix over a
//! stand-in for ssh, with the cache dead. The tools themselves, and a NixOS, are not here.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use support::agent::{Machine, Service};
use support::nix::{Nix, Ran};
use support::server::{Snowcached, binary};
use support::systems::Systems;

/// What each tool does to bring a system to a node and to switch it: the calls that its sources
/// make, in their order, `HOST` and `SYSTEM` in place of what they are.
const TOOLS: [(&str, &[&str]); 4] = [
    (
        // nixos-rebuild.sh: copyToTarget, then the profile and the switch
        "nixos-rebuild --target-host",
        &[
            "nix-copy-closure --to HOST SYSTEM",
            "ssh HOST nix-env -p /nix/var/nix/profiles/system --set SYSTEM",
            "ssh HOST SYSTEM/bin/switch-to-configuration switch",
        ],
    ),
    (
        // src/nix/host/ssh.rs: nix_copy_closure, activate
        "colmena apply",
        &[
            "nix-copy-closure --to --use-substitutes HOST SYSTEM",
            "ssh HOST -- nix-env --profile /nix/var/nix/profiles/system --set SYSTEM",
            "ssh HOST -- SYSTEM/bin/switch-to-configuration switch",
        ],
    ),
    (
        // src/push.rs, and what activate-rs does in src/bin/activate.rs
        "deploy",
        &[
            "nix copy --substitute-on-destination --no-check-sigs --to ssh://HOST SYSTEM",
            "ssh HOST nix-env -p /nix/var/nix/profiles/system --set SYSTEM",
            "ssh HOST SYSTEM/bin/switch-to-configuration switch",
        ],
    ),
    (
        // internal/executor: it builds on the node, where there is nothing to build any more
        "comin",
        &[
            "ssh HOST nix-store --realise SYSTEM",
            "ssh HOST nix-env -p /nix/var/nix/profiles/system --set SYSTEM",
            "ssh HOST SYSTEM/bin/switch-to-configuration switch",
        ],
    ),
];

/// A cache, an agent on a node, and a machine with the systems from which the tools run.
struct Fleet {
    server: Snowcached,
    systems: Systems,
    node: Machine,
    _service: Service,
    programs: tempfile::TempDir,
}

impl Fleet {
    fn new(nix: &Nix) -> Fleet {
        let server = Snowcached::start_with(support::folder_on_disk(), "warn", &[]);
        let systems = Systems::make(&server, 7, TOOLS.len());
        let mut node = Machine::new(nix, &server.public_key());
        let service = Service::start(&mut node, &[server.url()], "", "");
        let fleet = Fleet {
            server,
            systems,
            node,
            _service: service,
            programs: support::folder_on_disk(),
        };
        fleet.write_ssh();
        fleet
    }

    /// What stands in for ssh: takes what Nix and the tools say, and runs it on the node.
    fn write_ssh(&self) {
        let nix = self.node.node.outside("/nix/");
        let home = self.node.user.home();
        let socket = self.node.daemon.socket().display();
        let state = home.join("snowcache");
        let agent = self._service.socket();
        let key = self.server.public_key();
        let script = format!(
            "#!/bin/bash\nset -eu\nhost=\n\
             while [ $# -gt 0 ]; do\n\
               case $1 in\n\
                 -oLocalCommand=*) echo started; shift ;;\n\
                 --) shift; [ -z \"$host\" ] || break ;;\n\
                 -o | -p | -i | -l | -F | -S) shift 2 ;;\n\
                 -*) shift ;;\n\
                 *) [ -z \"$host\" ] || break; host=$1; shift ;;\n\
               esac\n\
             done\n\
             [ \"$host\" = node ]\n\
             export NIX_REMOTE=daemon NIX_DAEMON_SOCKET_PATH={socket} HOME={home} \
             SNOWCACHE_STATE={state} SNOWCACHE_AGENT={agent} PATH={snowcache}:$PATH\n\
             export NIX_CONFIG='trusted-public-keys = {key}'\n\
             exec unshare --mount bash -euc 'mount --bind {nix} /nix; eval \"$*\"' -- \"$@\"\n",
            nix = nix.display(),
            home = home.display(),
            state = state.display(),
            agent = agent.display(),
            snowcache = binary("snowcache").parent().expect("a folder").display(),
        );
        let file = self.programs.path().join("ssh");
        fs::write(&file, script).expect("a program");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("our own file");
    }

    /// On the machine from which the fleet is run.
    fn run(&self, command: &str) -> Ran {
        let path = self.programs.path().display();
        let script = format!("export PATH={path}:$PATH\n{command}");
        let builder = &self.systems.builder;
        builder.sh(&self.systems.user, &Nix::newer(), &script)
    }

    fn configured(&self) -> Vec<String> {
        let log = self.node.user.home().join("configured");
        let text = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(&log).ok();
        text.lines().map(str::to_owned).collect()
    }

    fn prefetch_script() -> PathBuf {
        support::root().join("config/fleet/prefetch.sh")
    }
}

#[test]
fn what_the_tools_copy_is_there_already_and_the_switch_needs_no_cache() {
    for nix in Nix::both() {
        let mut fleet = Fleet::new(&nix);
        let script = Fleet::prefetch_script();
        for system in &fleet.systems.all {
            let hook = format!(
                "echo node {} | {} --deadline 600",
                system.top,
                script.display()
            );
            let said = fleet.run(&hook).ok();
            assert!(
                said.contains("node: ready: 6 paths, 6 of them fetched"),
                "{said}"
            );
        }
        // Each prefetch keeps what was prefetched last; nothing was collected meanwhile.
        fleet.server.kill();
        for ((tool, calls), system) in TOOLS.iter().zip(&fleet.systems.all) {
            for call in *calls {
                let call = call.replace("HOST", "node").replace("SYSTEM", &system.top);
                let ran = fleet.run(&call);
                let copied = ran.stderr.contains("copying path");
                assert!(!copied, "{tool}: {call}: {}", ran.stderr);
                ran.ok();
            }
            let told = format!("{}/bin/switch-to-configuration switch", system.top);
            assert_eq!(fleet.configured(), [told], "{tool}");
            let profile = "readlink -f /nix/var/nix/profiles/system";
            assert_eq!(fleet.node.sh(profile).ok(), system.top, "{tool}");
        }
        fleet.node.assert_sound();
    }
}

#[test]
fn a_node_that_is_not_ready_is_named_and_the_others_are_prefetched() {
    let fleet = Fleet::new(&Nix::newer());
    let absent = "/nix/store/00000000000000000000000000000000-absent";
    let script = Fleet::prefetch_script();
    let (good, script) = (&fleet.systems.all[0].top, script.display());
    let both = format!("printf 'node {absent}\\nnode {good}\\n' | {script} --deadline 8 --pin a");
    let ran = fleet.run(&both);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    assert!(ran.stderr.contains("not ready: node"), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("is in none of the caches"),
        "{}",
        ran.stdout
    );
    fleet
        .run(&format!("ssh node -- snowcache gate {good}"))
        .ok();
    let wrong = fleet.run(&format!("echo node nonsense | {script}"));
    assert_eq!(wrong.code, 2);
    let shell = Command::new("sh")
        .arg("-n")
        .arg(Fleet::prefetch_script())
        .status();
    assert!(shell.expect("sh runs").success());
}
