//! Which files belong in a data folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::{BESIDE, Teller, recover};
use crate::backup::{HOLD, MANIFEST};
use crate::{Error, Result};

/// What may lie in each folder; a star stands for any name.
const KNOWN: [(&str, &[&str]); 4] = [
    (
        "",
        &[
            "lock",
            "keys",
            "tokens",
            "caches",
            "push.token",
            "admin.token",
            "depot",
            MANIFEST,
        ],
    ),
    ("depot", &["segments", "index", "patches", HOLD]),
    ("depot/segments", &["*.seg"]),
    ("depot/patches", &["*.patch", "*.new"]),
];

/// What a crash may leave behind in the depot's folder.
const LEFT_BY_CRASHES: [&str; 4] = [BESIDE, recover::NEW, recover::ASIDE, "index.damaged"];

/// A file or folder that was left behind and is of no use.
pub struct Leftover(PathBuf);

impl Leftover {
    /// Removes it; says so.
    pub fn remove(&self) -> Result<String> {
        let shown = self.0.display();
        let removed = match self.0.is_dir() {
            true => fs::remove_dir_all(&self.0),
            false => fs::remove_file(&self.0),
        };
        removed.map_err(|e| Error::io(format!("removing {shown}"), e))?;
        Ok(format!("{shown}: removed, it was left behind by a crash"))
    }
}

/// Looks for files that do not belong; returns those that are known to be useless.
pub fn check(data: &Path, tell: &mut Teller<'_>) -> Result<Vec<Leftover>> {
    let mut leftovers = Vec::new();
    let folders = KNOWN.into_iter().chain([
        ("keys", &["*.sec", "*.pub"] as &[&str]),
        ("tokens", &["*.json"]),
    ]);
    for (folder, known) in folders {
        let path = data.join(folder);
        let Ok(entries) = fs::read_dir(&path) else {
            continue; // one without keys is a depot all the same
        };
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(format!("reading {}", path.display()), e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let matches = |pattern: &&str| match pattern.strip_prefix('*') {
                Some(end) => name.ends_with(end),
                None => name == **pattern,
            };
            if known.iter().any(matches) {
                continue;
            }
            let shown = entry.path();
            let shown = shown.display();
            if name.ends_with(".new") || folder == "depot" && LEFT_BY_CRASHES.contains(&&*name) {
                tell.note(format!("{shown} was left behind by a crash"));
                leftovers.push(Leftover(entry.path()));
            } else {
                tell.problem(format!("{shown} does not belong here: move it away"));
            }
        }
    }
    Ok(leftovers)
}
