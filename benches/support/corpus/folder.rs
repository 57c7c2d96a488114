//! Binary caches as folders of files: written path by path, and read again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use snowcache_nix::{NarHash, PathInfo, StorePath, fingerprint};

use super::super::engine::catalog::Item;
use super::super::harness::nar::base32;

/// As `nix copy` compresses unless told otherwise.
const ZSTD_LEVEL: i32 = 3;

/// Writes the two folders of a corpus.
pub struct Writer {
    folder: PathBuf,
    key: snowcache_nix::SecretKey,
}

impl Writer {
    pub fn new(folder: &Path) -> Writer {
        for codec in ["zst", "raw"] {
            fs::create_dir_all(folder.join(codec).join("nar")).expect("the corpus's folder");
            let info = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
            fs::write(folder.join(codec).join("nix-cache-info"), info).expect("a small file");
        }
        Writer {
            folder: folder.to_owned(),
            key: super::key(),
        }
    }

    /// A path with its NAR; `references` are `<hash>-<name>`.
    pub fn path(&self, base_name: &str, nar: &[u8], references: &[String]) {
        let path = |name: &str| {
            let parsed = StorePath::from_absolute(&format!("/nix/store/{name}"));
            parsed.expect("a store path of ours")
        };
        let nar_hash = base32(&Sha256::digest(nar));
        let mut references: Vec<StorePath> = references.iter().map(|name| path(name)).collect();
        references.sort();
        references.dedup();
        let mut info = PathInfo {
            store_path: path(base_name),
            nar_hash: NarHash::from_base32(&nar_hash).expect("a hash"),
            nar_size: nar.len() as u64,
            references,
            deriver: None,
            ca: None,
            signatures: Vec::new(),
            unknown: Vec::new(),
        };
        info.add_signature(self.key.sign(&fingerprint(&info)));
        let packed = zstd::bulk::compress(nar, ZSTD_LEVEL).expect("zstd in memory");
        let file_hash = base32(&Sha256::digest(&packed));
        self.file(
            "zst",
            base_name,
            &info,
            &format!("nar/{file_hash}.nar.zst"),
            "zstd",
            &packed,
        );
        self.file(
            "raw",
            base_name,
            &info,
            &format!("nar/{nar_hash}.nar"),
            "none",
            nar,
        );
    }

    fn file(
        &self,
        folder: &str,
        base_name: &str,
        info: &PathInfo,
        url: &str,
        compression: &str,
        bytes: &[u8],
    ) {
        let folder = self.folder.join(folder);
        let narinfo = info.to_narinfo(url, compression, Some(bytes.len() as u64));
        let name = format!("{}.narinfo", &base_name[..32]);
        let written =
            fs::write(folder.join(url), bytes).and_then(|()| fs::write(folder.join(name), narinfo));
        written.expect("room for the corpus");
    }
}

/// The narinfo of this hash part.
pub fn read_item(folder: &Path, hash: &str) -> Item {
    let path = folder.join(format!("{hash}.narinfo"));
    let narinfo = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Item::parse(&narinfo).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Hash parts of the closure, what is referred to first.
pub fn closure(folder: &Path, top: &str) -> Vec<String> {
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    let mut stack = vec![(top.to_owned(), false)];
    while let Some((hash, all_below_are_there)) = stack.pop() {
        if all_below_are_there {
            order.push(hash);
        } else if seen.insert(hash.clone()) {
            let below = read_item(folder, &hash).references;
            stack.push((hash, true));
            stack.extend(below.into_iter().map(|hash| (hash, false)));
        }
    }
    order
}
