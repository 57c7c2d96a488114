//! Systems of a node: a stand-in for NixOS's switch-to-configuration, which writes down that it
//! ran, and some paths that it needs, each different from system to system.

use std::fs;

use super::nix::{Nix, Node, User};
use super::server::Snowcached;

/// Paths of a system beside itself, of 300 kB that do not compress.
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
        let expression = user.home().join("systems.nix");
        fs::write(&expression, EXPRESSION).expect("an expression");
        user.variable("EXPRESSION", &expression.to_string_lossy());
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
        "top=$(nix-build --no-out-link $EXPRESSION --argstr name {number} \
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

const EXPRESSION: &str = r#"{ name, seed, parts }:
let
  make = name: script: derivation {
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-ec" script ];
  };
  key = text: builtins.hashString "md5" text;
  part = number: make "part-${toString number}" ''
    mkdir $out
    head -c 300000 /dev/zero | openssl enc -aes-128-ctr -nosalt \
      -K ${key "${seed}-${name}-${toString number}"} -iv 00 >$out/data 2>/dev/null
  '';
in
make "system" ''
  mkdir -p $out/bin
  echo '${toString (builtins.genList part parts)}' >$out/parts
  echo ${name} >$out/kernel
  cat >$out/bin/switch-to-configuration <<'END'
  #!/bin/sh
  echo "$0 $1" >>$HOME/configured
  sleep 0.05
  END
  chmod +x $out/bin/switch-to-configuration
''
"#;
