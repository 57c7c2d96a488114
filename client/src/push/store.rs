//! What the local store knows of a closure, as `nix path-info` tells it.
//!
//! Guarantees: read from nix's own tools, so that it works with every version, with a daemon or
//! without one; what cannot be read is an error that names the path. Never: nix's database opened.

use serde::Deserialize;
use serde_json::Value;
use snowcache_nix::{NarHash, PathInfo, STORE_DIR, Signature, StorePath};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use thiserror::Error;

/// Paths named in one call: 100 bytes each, a tenth of what Linux takes.
const PATHS_PER_CALL: usize = 2_000;

/// A path of the local store.
#[derive(Clone, Debug)]
pub struct LocalPath {
    /// What nix knows of it.
    pub info: PathInfo,
}

impl LocalPath {
    /// Where it lies.
    pub fn file(&self) -> PathBuf {
        PathBuf::from(self.info.store_path.absolute())
    }
}

/// Why the local store could not be asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// There is no nix.
    #[error("nix cannot be started: {0}; is it in PATH?")]
    NoNix(io::Error),
    /// It failed.
    #[error("nix could not be asked about paths: {0}")]
    Failed(String),
    /// A path that is not there, and whether there are more.
    #[error(
        "{path}{1} is not in this machine's store: build it, or fetch it with nix-store --realise",
        path = .0.absolute()
    )]
    Invalid(StorePath, String),
    /// It said something unexpected.
    #[error("nix said what this version does not understand: {0}")]
    Said(String),
    /// The argument is not in the store.
    #[error("{0} is no store path and leads to none: {1}")]
    NotAPath(String, String),
}

/// Both forms of it: entries of a list (2.8), values of a map (2.19 and newer).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    path: Option<String>,
    nar_hash: Option<String>,
    nar_size: Option<u64>,
    #[serde(default)]
    references: Vec<String>,
    deriver: Option<String>,
    ca: Option<String>,
    #[serde(default)]
    signatures: Vec<String>,
}

/// The closure of `roots` in the local store: store paths, or files that lead into it.
///
/// # Errors
/// When nix cannot be asked, or a root is not valid; nothing is fetched or built for that.
pub fn closure(roots: &[String]) -> Result<Vec<LocalPath>, StoreError> {
    let roots: Vec<String> = roots
        .iter()
        .map(|root| resolve(root))
        .collect::<Result<_, _>>()?;
    let mut paths = Vec::new();
    for some in roots.chunks(PATHS_PER_CALL) {
        paths.extend(path_info(some).map_err(|error| because_invalid(some, error))?);
    }
    paths.sort_by_key(|path| path.info.store_path.hash());
    paths.dedup_by_key(|path| path.info.store_path.hash());
    Ok(paths)
}

/// Those of `paths` that are not valid in the local store, which may have collected them.
///
/// # Errors
/// When nix cannot be asked.
pub fn invalid(paths: &[StorePath]) -> Result<Vec<StorePath>, StoreError> {
    let mut invalid = Vec::new();
    for some in paths.chunks(PATHS_PER_CALL) {
        let mut nix = Command::new("nix-store");
        nix.args(["--check-validity", "--print-invalid"]);
        nix.args(some.iter().map(StorePath::absolute));
        let printed = output(nix)?;
        for line in String::from_utf8_lossy(&printed).lines() {
            invalid.push(store_path(line)?);
        }
    }
    Ok(invalid)
}

/// The paths in what `nix build --json` prints: of derivations their outputs, and store paths.
///
/// # Errors
/// When it is not that.
pub fn roots_of_json(text: &str) -> Result<Vec<String>, StoreError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Built {
        Derivation {
            outputs: BTreeMap<String, String>,
        },
        /// A store path, as 2.8 says it.
        Path {
            path: String,
        },
        /// A store path, as newer ones say it.
        Opaque(String),
    }
    let built: Vec<Built> = serde_json::from_str(text).map_err(|error| {
        let what = format!("the JSON on stdin is not that of nix build --json: {error}");
        StoreError::Said(what)
    })?;
    let paths = built.into_iter().flat_map(|built| match built {
        Built::Derivation { outputs } => outputs.into_values().collect(),
        Built::Path { path } | Built::Opaque(path) => vec![path],
    });
    Ok(paths.collect())
}

/// The store path that an argument names or leads to.
fn resolve(argument: &str) -> Result<String, StoreError> {
    let no = |why: String| StoreError::NotAPath(argument.to_owned(), why);
    let mut path = PathBuf::from(argument);
    if !path.starts_with(STORE_DIR) {
        path = path.canonicalize().map_err(|error| no(error.to_string()))?;
    }
    let below = path.strip_prefix(STORE_DIR);
    let below = below.map_err(|_| no(format!("it lies in {}", path.display())))?;
    let base = below
        .components()
        .next()
        .map(|it| it.as_os_str().to_string_lossy());
    let base = base.ok_or_else(|| no("it is the whole store".to_owned()))?;
    let store_path: StorePath = base.parse().map_err(|error| no(format!("{error}")))?;
    Ok(store_path.absolute())
}

/// Why nix failed at these paths: those that are not valid, whatever else it says.
fn because_invalid(roots: &[String], error: StoreError) -> StoreError {
    let roots = roots.iter().map(|root| store_path(root));
    let invalid = roots
        .collect::<Result<Vec<_>, _>>()
        .and_then(|it| invalid(&it));
    match invalid.unwrap_or_default().as_slice() {
        [] => error,
        [path] => StoreError::Invalid(path.clone(), String::new()),
        [first, more @ ..] => {
            StoreError::Invalid(first.clone(), format!(" (and {} more)", more.len()))
        }
    }
}

fn path_info(roots: &[String]) -> Result<Vec<LocalPath>, StoreError> {
    let mut nix = Command::new("nix");
    nix.args(["--extra-experimental-features", "nix-command"]);
    nix.args(["--option", "substitute", "false"]);
    nix.args(["path-info", "--json", "--recursive", "--"]);
    nix.args(roots);
    let told: Value = serde_json::from_slice(&output(nix)?).map_err(said)?;
    match told {
        Value::Array(paths) => paths.into_iter().map(|told| read(None, told)).collect(),
        Value::Object(paths) => {
            let paths = paths.into_iter();
            paths.map(|(path, told)| read(Some(path), told)).collect()
        }
        _ => Err(StoreError::Said("neither a list nor a map".to_owned())),
    }
}

/// What a command of nix's prints.
fn output(mut nix: Command) -> Result<Vec<u8>, StoreError> {
    let output = nix.output().map_err(StoreError::NoNix)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(StoreError::Failed(said.trim().to_owned()));
    }
    Ok(output.stdout)
}

fn said(error: impl std::fmt::Display) -> StoreError {
    StoreError::Said(error.to_string())
}

fn read(path: Option<String>, told: Value) -> Result<LocalPath, StoreError> {
    if told.is_null() {
        let path = path.unwrap_or_default();
        return Err(StoreError::Failed(format!("path '{path}' is not valid")));
    }
    let told: Told = serde_json::from_value(told).map_err(said)?;
    let path = path
        .or(told.path)
        .ok_or_else(|| said("a path without name"))?;
    let lacking = |what: &str| said(format!("{path} without {what}: is it valid?"));
    let nar_hash: NarHash = told
        .nar_hash
        .as_deref()
        .ok_or_else(|| lacking("narHash"))?
        .parse()
        .map_err(said)?;
    let mut references: Vec<StorePath> = told
        .references
        .iter()
        .map(|path| store_path(path))
        .collect::<Result<_, _>>()?;
    references.sort();
    let signatures = told.signatures.iter().map(|text| text.parse::<Signature>());
    let mut signatures: Vec<Signature> = signatures.collect::<Result<_, _>>().map_err(said)?;
    signatures.sort();
    signatures.dedup();
    let deriver = told.deriver.filter(|deriver| !deriver.is_empty());
    let info = PathInfo {
        store_path: store_path(&path)?,
        nar_hash,
        nar_size: told.nar_size.ok_or_else(|| lacking("narSize"))?,
        references,
        deriver: deriver.as_deref().map(store_path).transpose()?,
        ca: told.ca.filter(|ca| !ca.is_empty()),
        signatures,
        unknown: Vec::new(),
    };
    Ok(LocalPath { info })
}

fn store_path(text: &str) -> Result<StorePath, StoreError> {
    let base = Path::new(text)
        .strip_prefix(STORE_DIR)
        .unwrap_or(Path::new(text));
    base.to_string_lossy()
        .parse()
        .map_err(|error| said(format!("{text}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_new_nix_tell_the_same() {
        let base = format!("{}-hello", "0".repeat(32));
        let entry = format!(
            r#"{{"narHash":"sha256-{}=","narSize":120,"references":["/nix/store/{base}"],
                "deriver":"","signatures":[]}}"#,
            "A".repeat(43)
        );
        let old = format!(r#"{{"path":"/nix/store/{base}",{}"#, &entry[1..]);
        let old = read(None, serde_json::from_str(&old).expect("JSON")).expect("read");
        let path = Some(format!("/nix/store/{base}"));
        let new = read(path, serde_json::from_str(&entry).expect("JSON")).expect("read");
        assert_eq!(old.info, new.info);
        assert_eq!((old.info.references.len(), old.info.nar_size), (1, 120));
        assert_eq!(old.info.deriver, None);
    }

    #[test]
    fn the_outputs_of_a_build_are_its_roots() {
        let text = r#"[{"drvPath":"/nix/store/x.drv","outputs":{"dev":"/d","out":"/o"}}]"#;
        assert_eq!(roots_of_json(text).expect("read"), ["/d", "/o"]);
        let paths = r#"[{"path":"/a"},"/b"]"#;
        assert_eq!(roots_of_json(paths).expect("read"), ["/a", "/b"]);
        assert!(roots_of_json("{}").is_err());
    }
}
