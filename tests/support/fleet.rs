//! A node that is switched from one system to another, which write down how they were configured in
//! place of NixOS's.

use std::fs;

use super::agent::Machine;
use super::nix::{Nix, Node, Ran, User};
use super::server::Snowcached;

/// What stands in for NixOS's program: writes down who was told what, fails where it is told to.
const STAND_IN: &str = "#!/bin/sh\n\
    name=$(basename $(dirname $(dirname $0)) | cut -c34-)\n\
    touch $HOME/began-$name\n\
    while [ -e $HOME/hold-$name ]; do sleep 0.02; done\n\
    echo \"$name $1\" >> $HOME/configured\n\
    [ ! -e $HOME/fail-$name ]\n";

/// About.
const KERNEL_BYTES: usize = 100_000;

/// A cache with two systems, and a node with a daemon.
pub struct Fleet {
    pub server: Snowcached,
    pub machine: Machine,
    pub old: String,
    pub new: String,
}

/// Makes a system that is a path of this machine's store, and pushes it.
fn system(server: &Snowcached, name: &str) -> String {
    let mut user = User::of(server);
    let folder = user.home().join(name);
    fs::create_dir_all(folder.join("bin")).expect("a folder");
    let program = folder.join("bin/switch-to-configuration");
    fs::write(&program, STAND_IN).expect("a program");
    for part in ["kernel", "initrd", "kernel-modules"] {
        let content = match part {
            // As different as those of different systems, and of some size.
            "kernel" => name.repeat(KERNEL_BYTES / name.len()),
            same => same.to_owned(),
        };
        fs::write(folder.join(part), content).expect("a file");
    }
    let builder = Node::empty();
    user.variable("FOLDER", &folder.to_string_lossy());
    let push = "chmod +x $FOLDER/bin/*\ntop=$(nix-store --add $FOLDER)\n\
                nix copy --to $PUSH $top\necho $top";
    builder.sh(&user, &Nix::installed(), push).ok()
}

impl Fleet {
    pub fn new(nix: &Nix) -> Fleet {
        let server = Snowcached::start_with(super::folder_on_disk(), "warn", &[]);
        let [old, new] = ["old", "new"].map(|name| system(&server, name));
        let machine = Machine::new(nix, &server.public_key());
        Fleet {
            server,
            machine,
            old,
            new,
        }
    }

    pub fn prefetch(&self, root: &str) {
        let url = self.server.url();
        let fetch = format!("prefetch {root} --from {url} --pin {}", &root[44..]);
        self.machine.snowcache(&fetch).ok();
    }

    pub fn switch(&self, root: &str, more: &str) -> Ran {
        self.machine.snowcache(&format!("switch {root} {more}"))
    }

    /// What the profile points to.
    pub fn profile(&self) -> String {
        self.machine
            .sh("readlink -f /nix/var/nix/profiles/system")
            .ok()
    }

    /// Who was told what, since the last time.
    pub fn configured(&self) -> Vec<String> {
        let log = self.machine.user.home().join("configured");
        let text = fs::read_to_string(&log).unwrap_or_default();
        fs::remove_file(&log).ok();
        text.lines().map(str::to_owned).collect()
    }

    pub fn let_fail(&self, name: &str) {
        let flag = self.machine.user.home().join(format!("fail-{name}"));
        fs::write(flag, "").expect("a flag");
    }
}
