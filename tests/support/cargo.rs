//! Store paths on their way into another store: their facts, signed, and their NARs in memory.

use std::process::Command;

use snowcache_nix::{NarHash, PathInfo, SecretKey, StorePath, fingerprint};

use super::corpus;
use super::nix::{Nix, Node, User};

/// A path.
pub struct Cargo {
    pub info: PathInfo,
    pub nar: Vec<u8>,
}

impl Cargo {
    /// Signed by `key`.
    pub fn new(
        store_path: StorePath,
        mut references: Vec<StorePath>,
        nar: Vec<u8>,
        key: &SecretKey,
    ) -> Cargo {
        references.sort();
        let mut info = PathInfo {
            store_path,
            nar_hash: NarHash::from_bytes(corpus::sha256(nar.as_slice())),
            nar_size: nar.len() as u64,
            references,
            deriver: None,
            ca: None,
            signatures: Vec::new(),
            unknown: Vec::new(),
        };
        info.add_signature(key.sign(&fingerprint(&info)));
        Cargo { info, nar }
    }

    /// A path of this machine's store.
    pub fn of(path: &str, key: &SecretKey) -> Cargo {
        let dump = Command::new("nix-store").args(["--dump", path]).output();
        let nar = dump.expect("nix-store runs").stdout;
        let (user, here) = (User::new(), Node::this_machine());
        let references = format!("nix-store --query --references {path}");
        let references = here.sh(&user, &Nix::installed(), &references).ok();
        let references = references.lines().map(parse).collect();
        Cargo::new(parse(path), references, nar, key)
    }
}

fn parse(path: &str) -> StorePath {
    StorePath::from_absolute(path).expect("a store path")
}
