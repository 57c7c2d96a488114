//! Systems of a node: a stand-in for NixOS's switch-to-configuration, which writes down that it
//! ran, and some paths that it needs, each different from system to system.

use super::nix::{Nix, Node, User};
use super::server::Snowcached;

/// Paths of a system beside itself, of 300 kB that do not compress, and one of 4 MB.
pub const PARTS: usize = 5;

/// A system, and everything that it needs.
pub struct System {
    pub top: String,
    pub closure: Vec<String>,
}

/// Some systems, in a cache, and where they were built.
pub struct Systems {
    pub all: Vec<System>,
    pub builder: Node,
    pub user: User,
}

impl Systems {
    /// So many of them, others for each seed.
    pub fn make(server: &Snowcached, seed: u64, count: usize) -> Systems {
        let mut user = User::of(server);
        user.set("substituters", "");
        let builder = Node::empty();
        let all = (0..count).map(|number| build(&builder, &user, number, seed));
        Systems {
            all: all.collect(),
            builder,
            user,
        }
    }
}

fn build(builder: &Node, user: &User, number: usize, seed: u64) -> System {
    let script = format!(
        "top=$(nix-build --no-out-link $FILES/system.nix --argstr name {number} \
         --argstr seed {seed} --arg parts {PARTS})\n\
         nix copy --to \"$PUSH?compression=zstd\" $top\nnix-store -qR $top\necho $top"
    );
    let said = builder.sh(user, &Nix::installed(), &script).ok();
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    let top = lines.pop().expect("a path");
    assert_eq!(lines.len(), PARTS + 1, "{said}");
    System {
        top,
        closure: lines,
    }
}
