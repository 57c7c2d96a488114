//! Paths that were verified once and are not what they were: bits that a disk has lost, or that
//! somebody has changed deep inside a path, which its top-level file does not show.
//!
//! ```text
//!   found      FOLDER/damaged/<store path>, with the inode and ctime that it had then
//!   and since  its receipts do not pass the gate; what they say of it is not believed
//!   over       when the path lies there anew (nix-store --repair-path), or is hashed and right
//! ```
//! Guarantees: while the note of a path cannot be read, nothing that has this path passes.
//! Never: anything mended here; only Nix writes to its store.

use crate::node::{Node, NodeError};
use crate::queue::report::now_s;
use crate::receipt::{self, Line, Receipt, ReceiptError, Stamp};
use crate::show;
use serde::{Deserialize, Serialize};
use snowcache_nix::StorePath;
use std::collections::BTreeMap;
use std::io;

const FOLDER: &str = "damaged";
/// A sentence and some numbers.
const MAX_NOTE_BYTES: u64 = 64 << 10;

/// What was found of a path.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Damage {
    /// The path, with its folder.
    pub path: String,
    /// When it was found, in seconds since 1970.
    pub found_s: u64,
    /// What is wrong.
    pub what: String,
    /// As the path lay there.
    stamp: Stamp,
}

/// Writes down that a path is not what it was when it lay there like this.
///
/// # Errors
/// When the node's folder cannot be written.
pub fn found(node: &Node, path: &StorePath, stamp: Stamp, what: &str) -> Result<(), NodeError> {
    let damage = Damage {
        path: path.absolute(),
        found_s: now_s(),
        what: what.to_owned(),
        stamp,
    };
    let name = name_of(path);
    let text = serde_json::to_string(&damage).map_err(io::Error::from);
    let text = text.map_err(|error| node.wrong(&name, error))?;
    node.write_text(&name, &text)
}

/// The path was hashed and is right.
///
/// # Errors
/// When the node's folder cannot be written.
pub fn mended(node: &Node, path: &StorePath) -> Result<(), NodeError> {
    node.remove_text(&name_of(path))
}

/// All that is damaged still.
///
/// # Errors
/// When the node's folder cannot be read.
pub fn all(node: &Node) -> Result<BTreeMap<StorePath, Damage>, NodeError> {
    let mut all = BTreeMap::new();
    for path in node.paths_in(FOLDER)? {
        let name = name_of(&path);
        let Some(text) = node.read_text(&name, MAX_NOTE_BYTES)? else {
            continue;
        };
        let damage: Result<Damage, _> = serde_json::from_str(&text);
        let damage = damage.map_err(|error| node.wrong(&name, io::Error::from(error)))?;
        // One that lies there anew, or is gone, is another matter.
        if Stamp::of(&path).ok() == Some(damage.stamp) {
            all.insert(path, damage);
        }
    }
    Ok(all)
}

/// Takes away what was written of paths that lie there anew, or are gone.
///
/// # Errors
/// When the node's folder cannot be worked with.
pub fn forget_what_is_over(node: &Node) -> Result<(), NodeError> {
    let still = all(node)?;
    for path in node.paths_in(FOLDER)? {
        if !still.contains_key(&path) {
            mended(node, &path)?;
        }
    }
    Ok(())
}

/// Whether nothing of what a receipt names was found damaged since.
///
/// # Errors
/// With the first path that was.
pub fn check(node: &Node, receipt: &Receipt) -> Result<(), ReceiptError> {
    let all = all(node)?;
    let named = receipt
        .paths
        .iter()
        .find_map(|line| all.get_key_value(&line.path));
    match named {
        None => Ok(()),
        Some((path, damage)) => Err(ReceiptError::Rotten {
            root: receipt.root.absolute(),
            path: path.clone(),
            when: show::time(damage.found_s),
            what: damage.what.clone(),
        }),
    }
}

/// What all of this node's receipts say of paths, without those that were found damaged since.
///
/// # Errors
/// When the node's folder cannot be read.
pub fn sound_lines(node: &Node) -> Result<BTreeMap<StorePath, Line>, ReceiptError> {
    let mut lines = receipt::lines_of_all(node)?;
    for path in all(node)?.keys() {
        lines.remove(path);
    }
    Ok(lines)
}

fn name_of(path: &StorePath) -> String {
    format!("{FOLDER}/{path}")
}
