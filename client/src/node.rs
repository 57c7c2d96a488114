//! What this node remembers of closures, in a folder of its own: the links that keep them, and what
//! was verified.
//!
//! ```text
//!   FOLDER/plans/<pin>/<store path>  -> /nix/store/...    while a prefetch is under way: each path
//!                                                         that is there already
//!   FOLDER/spool/<pin>/                                   what has come of paths under way
//!   FOLDER/pins/<pin>/<store path>   -> /nix/store/...    the roots of what was prefetched last
//!   FOLDER/receipts/<store path>                          what was verified, signed
//!   FOLDER/damaged/<store path>                           what was found to be another one since
//!   FOLDER/node.key                                       by this key, which only its owner reads
//! ```
//! Every link is an indirect root of Nix's: what it points to stays until the link goes.
//!
//! Guarantees: a pin's new links are there, on the disk and known to Nix, before its old ones go;
//! so a pin keeps something whole at every moment. Never: a path or a link of anybody else touched.

mod keys;

use snowcache_nix::StorePath;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The longest name of a pin: a file's name.
const MAX_PIN_BYTES: usize = 128;

/// The node's folder.
#[derive(Clone, Debug)]
pub struct Node {
    folder: PathBuf,
}

/// The folder could not be worked with.
#[derive(Debug, Error)]
#[error("{}: {source}; --state names another folder for this node's pins", .path.display())]
pub struct NodeError {
    path: PathBuf,
    source: io::Error,
}

impl Node {
    /// In this folder, which need not exist.
    pub fn at(folder: PathBuf) -> Node {
        Node { folder }
    }

    /// Where a user's is when nobody says otherwise: /var/lib/snowcache-agent for root,
    /// whose server would have /var/lib/snowcache.
    pub fn default_folder() -> PathBuf {
        state_folder("snowcache-agent")
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where it is kept what a plan has come to, while it is under way.
    pub fn plan_folder(&self, pin: &str) -> PathBuf {
        self.folder.join("plans").join(pin)
    }

    /// Where what has come of paths under way is kept, by pin.
    pub fn spool_folder(&self) -> PathBuf {
        self.folder.join("spool")
    }

    /// Keeps a path that was imported while its closure is not whole yet: the link to root it by.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn plan(&self, pin: &str, path: &StorePath) -> Result<PathBuf, NodeError> {
        link(&self.plan_folder(pin), path)
    }

    /// The links that keep these roots, for the pin.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn pin(&self, pin: &str, roots: &[StorePath]) -> Result<Vec<PathBuf>, NodeError> {
        let folder = self.folder.join("pins").join(pin);
        let links = roots.iter().map(|root| link(&folder, root));
        let links = links.collect::<Result<_, _>>()?;
        let synced = File::open(&folder).and_then(|folder| folder.sync_all());
        synced.map_err(at(&folder))?;
        Ok(links)
    }

    /// All pins with what they keep, by name.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn pins(&self) -> Result<BTreeMap<String, Vec<StorePath>>, NodeError> {
        let mut pins = BTreeMap::new();
        for name in names_in(&self.folder.join("pins"))? {
            let names = names_in(&self.folder.join("pins").join(&name))?;
            let mut roots: Vec<StorePath> =
                names.iter().filter_map(|name| name.parse().ok()).collect();
            roots.sort_unstable();
            pins.insert(name, roots);
        }
        Ok(pins)
    }

    /// Lets go of what the pin kept before, and of the plan.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn settle(&self, pin: &str, roots: &[StorePath]) -> Result<(), NodeError> {
        let keep: BTreeSet<String> = roots.iter().map(ToString::to_string).collect();
        let pins = self.folder.join("pins").join(pin);
        for entry in fs::read_dir(&pins).map_err(at(&pins))? {
            let entry = entry.map_err(at(&pins))?;
            if !keep.contains(&*entry.file_name().to_string_lossy()) {
                fs::remove_file(entry.path()).map_err(at(&entry.path()))?;
            }
        }
        let plan = self.plan_folder(pin);
        match fs::remove_dir_all(&plan) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&plan)(error)),
            _ => Ok(()),
        }
    }
}

/// Where things of this name are remembered: in /var/lib for root, otherwise below the home.
pub fn state_folder(name: &str) -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return Path::new("/var/lib").join(name);
    }
    let home = std::env::var_os("HOME").map_or(PathBuf::from("/"), PathBuf::from);
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    state
        .unwrap_or_else(|| home.join(".local/state"))
        .join(name)
}

/// Whether a text can be the name of a pin.
///
/// # Errors
/// With what it should be.
pub fn check_pin(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits = (1..=MAX_PIN_BYTES).contains(&text.len());
    match fits && text.chars().all(good) && !text.starts_with('.') {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "a pin is 1 to {MAX_PIN_BYTES} of letters, digits, '.', '_' and '-', without a dot in \
             front"
        )),
    }
}

fn link(folder: &Path, path: &StorePath) -> Result<PathBuf, NodeError> {
    fs::create_dir_all(folder).map_err(at(folder))?;
    let link = folder.join(path.to_string());
    match symlink(path.absolute(), &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(&link)(error)),
        _ => Ok(link),
    }
}

/// None where there is no such folder.
fn names_in(folder: &Path) -> Result<Vec<String>, NodeError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(folder))?,
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names
        .map(|name| name.to_string_lossy().into_owned())
        .collect())
}

fn at(path: &Path) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char) -> StorePath {
        let base = format!("{}-x", digit.to_string().repeat(32));
        base.parse().expect("a path")
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).map(Iterator::collect::<Vec<_>>);
        let entries = entries.unwrap_or_default().into_iter().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_pin_keeps_the_old_roots_until_the_new_ones_are_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::at(folder.path().join("state"));
        let (plans, pins) = ("state/plans/system", "state/pins/system");
        let (plans, pins) = (folder.path().join(plans), folder.path().join(pins));
        let (old, new) = ([path('0')], [path('1')]);
        node.pin("system", &old).expect("pinned");
        node.settle("system", &old).expect("settled");
        let [old, to_come] = [&old, &new].map(|roots| roots[0].clone());
        let link = node.plan("system", &to_come).expect("planned");
        node.plan("system", &to_come)
            .expect("and again, after a crash");
        let target = fs::read_link(&link).expect("a link");
        assert_eq!(target, Path::new(&to_come.absolute()));
        node.pin("system", &new).expect("pinned");
        assert_eq!(names(&pins), [old.to_string(), to_come.to_string()]);
        node.settle("system", &new).expect("settled");
        assert_eq!(names(&pins), [to_come.to_string()]);
        assert!(!plans.exists());
    }

    #[test]
    fn the_name_of_a_pin_is_a_plain_file_name() {
        for good in ["system", "a", "web-1.2_x"] {
            assert_eq!(check_pin(good).as_deref(), Ok(good));
        }
        for bad in ["", ".", "..", ".x", "a/b", "a b", "é", &"a".repeat(129)] {
            assert!(check_pin(bad).is_err(), "{bad}");
        }
    }
}
