//! Two generations of a system as folders that any web server can serve as a binary cache: once
//! with each NAR compressed (zstd -3, as `nix copy` writes it), once plain.
//!
//! ```text
//!   FOLDER/zst/<hash>.narinfo  FOLDER/zst/nar/….nar.zst      FOLDER/raw/…  the same, plain
//!   FOLDER/corpus.json         what it is, the tops of its generations
//! ```
//!
//! Made once and kept under target/bench; the same seed gives the same bytes.

mod content;
mod folder;
mod real;
mod synthetic;

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use snowcache_nix::{PublicKey, SecretKey};

use super::harness;
use super::settings::Settings;
pub use folder::{closure, read_item};

/// What a folder's layout depends on: a change makes old ones be made anew.
const LAYOUT: &str = "v1";

/// A corpus on disk.
#[derive(Debug, Clone)]
pub struct Corpus {
    pub what: String,
    pub folder: PathBuf,
    pub generations: Vec<Generation>,
}

/// A system: its top and everything that it needs.
#[derive(Debug, Clone)]
pub struct Generation {
    /// `/nix/store/…`
    pub top: String,
    /// Hash parts, what is referred to before what refers to it.
    pub hashes: Vec<String>,
}

impl Corpus {
    /// The one that was asked for, or the real one where it was made, or the synthetic one.
    pub fn of(settings: &Settings) -> Corpus {
        let made = |name: &str| harness::nix::inputs().join(name);
        let there = |folder: &Path| folder.join("top2").exists();
        match settings.corpus.as_deref() {
            Some("synthetic") => synthetic::corpus(settings.seed, settings.packages, 2),
            Some("real") => real::corpus(&made("corpus-120")),
            Some(folder) => real::corpus(Path::new(folder)),
            None if !settings.quick && there(&made("corpus-120")) => {
                real::corpus(&made("corpus-120"))
            }
            None => synthetic::corpus(settings.seed, settings.packages, 2),
        }
    }

    /// Many generations of a small system, a rebuild between each two.
    pub fn lineage(seed: u64, packages: usize, generations: usize) -> Corpus {
        synthetic::corpus(seed, packages, generations)
    }

    pub fn zst(&self) -> PathBuf {
        self.folder.join("zst")
    }

    pub fn raw(&self) -> PathBuf {
        self.folder.join("raw")
    }

    /// Hash parts of the generation that the one before it does not have.
    pub fn added(&self, generation: usize) -> Vec<String> {
        let before = generation
            .checked_sub(1)
            .map(|before| &self.generations[before].hashes);
        let new = |hash: &&String| !before.is_some_and(|before| before.contains(hash));
        let hashes = self.generations[generation].hashes.iter();
        hashes.filter(new).cloned().collect()
    }

    fn load(folder: &Path) -> Option<Corpus> {
        let text = fs::read_to_string(folder.join("corpus.json")).ok()?;
        let json: serde_json::Value = serde_json::from_str(&text).ok()?;
        let tops = json["tops"]
            .as_array()?
            .iter()
            .filter_map(|top| top.as_str());
        Some(Corpus {
            what: json["what"].as_str()?.to_owned(),
            folder: folder.to_owned(),
            generations: tops.map(|top| generation(folder, top)).collect(),
        })
    }

    fn finish(folder: &Path, what: &str, tops: &[String]) -> Corpus {
        let json = serde_json::json!({ "what": what, "tops": tops });
        let written = fs::write(folder.join("corpus.json"), format!("{json:#}\n"));
        written.expect("the corpus's folder");
        Corpus::load(folder).expect("invariant: just written")
    }
}

fn generation(folder: &Path, top: &str) -> Generation {
    let hash = &top["/nix/store/".len()..][..32];
    Generation {
        top: top.to_owned(),
        hashes: closure(&folder.join("zst"), hash),
    }
}

/// A folder under target/bench for the corpus of this name, empty unless it is complete.
fn folder_for(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or(harness::root().join("target"), PathBuf::from);
    let folder = target.join(format!("bench/corpus-{name}-{LAYOUT}"));
    if !folder.join("corpus.json").exists() {
        fs::remove_dir_all(&folder).ok();
        fs::create_dir_all(&folder).expect("a folder under target/");
    }
    folder
}

/// The same for `PREFIX` + `which`; folders of the same prefix that are for others are removed.
fn only_folder_for(prefix: &str, which: &str) -> PathBuf {
    let folder = folder_for(&format!("{prefix}{which}"));
    let siblings = folder.parent().and_then(|parent| fs::read_dir(parent).ok());
    for entry in siblings.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("corpus-{prefix}")) && entry.path() != folder {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
    folder
}

/// The key that signs every corpus. It is public and worth nothing: never trust it.
pub fn key() -> SecretKey {
    let seed = Sha256::digest("the key of Snowcache's benches").into();
    SecretKey::generate("snowcache-bench-1", seed).expect("invariant: a good name")
}

pub fn public_key() -> PublicKey {
    key().public()
}
