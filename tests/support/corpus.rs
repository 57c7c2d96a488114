//! Two generations of a small fake NixOS system, as real paths of this machine's /nix/store (see
//! tests/corpus/).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

use sha2::{Digest, Sha256};

use super::nix::{Nix, Node, User, inputs};

/// A top-level path and everything that it needs.
pub struct Generation {
    pub top: String,
    pub closure: Vec<String>,
}

/// The generations, or a panic that says how to make them.
pub fn generations() -> &'static [Generation; 2] {
    static GENERATIONS: OnceLock<[Generation; 2]> = OnceLock::new();
    GENERATIONS.get_or_init(|| {
        ["top1", "top2"].map(|name| {
            let link = inputs().join("corpus-120").join(name);
            let top = fs::canonicalize(&link).unwrap_or_else(|error| {
                panic!("{}: {error}; run: make test-setup", link.display())
            });
            let top = top.to_string_lossy().into_owned();
            Generation {
                closure: closure(&top),
                top,
            }
        })
    })
}

/// One path of the first generation with a closure of some 20 MB in a dozen paths: enough for one
/// codec.
pub fn small() -> &'static Generation {
    static SMALL: OnceLock<Generation> = OnceLock::new();
    SMALL.get_or_init(|| {
        let all = &generations()[0].closure;
        let wanted = all
            .iter()
            .find(|path| path.ends_with("-unit-libcurl3-gnutls.service"));
        let unit = || all.iter().find(|path| path.ends_with(".service"));
        let top = wanted.or_else(unit).expect("a unit in the corpus").clone();
        Generation {
            closure: closure(&top),
            top,
        }
    })
}

/// The same path of the second generation.
pub fn small_rebuilt() -> &'static Generation {
    static SMALL: OnceLock<Generation> = OnceLock::new();
    SMALL.get_or_init(|| {
        let name = |path: &str| path["/nix/store/".len() + 32..].to_owned();
        let wanted = name(&small().top);
        let mut all = generations()[1].closure.iter();
        let top = all.find(|path| name(path) == wanted);
        let top = top.expect("the same unit").clone();
        Generation {
            closure: closure(&top),
            top,
        }
    })
}

/// The closure of a path of this machine's store, sorted.
pub fn closure(path: &str) -> Vec<String> {
    let (user, script) = (User::new(), format!("nix-store -qR {path}"));
    let printed = Node::this_machine()
        .sh(&user, &Nix::installed(), &script)
        .ok();
    let mut paths: Vec<String> = printed.lines().map(str::to_owned).collect();
    paths.sort();
    paths
}

/// SHA-256 of the NAR that Nix makes of the files of a path of this machine's store. Remembered.
pub fn origin_sha256(path: &str) -> [u8; 32] {
    static KNOWN: Mutex<BTreeMap<String, [u8; 32]>> = Mutex::new(BTreeMap::new());
    if let Some(hash) = KNOWN.lock().expect("no poison").get(path) {
        return *hash;
    }
    let hash = dump_sha256(Path::new(path));
    KNOWN
        .lock()
        .expect("no poison")
        .insert(path.to_owned(), hash);
    hash
}

/// SHA-256 of the NAR that Nix makes of these files.
pub fn dump_sha256(path: &Path) -> [u8; 32] {
    let mut child = Command::new("nix-store")
        .arg("--dump")
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("nix-store runs");
    let hash = sha256(child.stdout.take().expect("a pipe"));
    assert!(
        child.wait().expect("nix-store ends").success(),
        "nix-store --dump {}",
        path.display()
    );
    hash
}

pub fn sha256(mut stream: impl Read) -> [u8; 32] {
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 18]);
    loop {
        match stream.read(&mut buffer).expect("a readable stream") {
            0 => return hash.finalize().into(),
            length => hash.update(&buffer[..length]),
        }
    }
}

/// Every one of `paths` is on the node, with the same bytes as on this machine.
#[track_caller]
pub fn assert_same_bytes(node: &Node, paths: &[String]) {
    for path in paths {
        let there = node.outside(path);
        assert!(there.symlink_metadata().is_ok(), "{path} did not arrive");
        assert_eq!(
            dump_sha256(&there),
            origin_sha256(path),
            "{path} arrived with other bytes"
        );
    }
}
