//! Checking a backup: every byte that its manifest names, and that there is nothing else.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use super::manifest::{FileEntry, Manifest, SegmentEntry};
use super::{MANIFEST, SEGMENTS, copy, file_name};
use crate::scan::WINDOW_BYTES;
use crate::{Error, Result};

/// What checking a backup came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Segments checked.
    pub segments: u64,
    /// Bytes checked.
    pub bytes: u64,
    /// Keys, tokens and the like.
    pub files: u64,
    /// When it was made, in seconds since 1970.
    pub unix_s: u64,
    /// Places that were damaged already when they were copied.
    pub damaged_at_copy: u64,
    /// What is not as the manifest says, a sentence each.
    pub problems: Vec<String>,
}

/// Reads a backup to its last byte and compares it with its manifest. `on` is told of bytes read
/// and bytes to read.
///
/// # Errors `Refused` where the folder is no backup.
pub fn verify(target: &Path, on: &mut dyn FnMut(u64, u64)) -> Result<Verified> {
    let shown = target.display();
    let manifest = Manifest::read(target)?.ok_or_else(|| {
        Error::refused(format!(
            "{shown} is no backup: there is no {MANIFEST} in it"
        ))
    })?;
    let mut verified = Verified {
        unix_s: manifest.unix_s,
        ..Verified::default()
    };
    if manifest.unix_s == 0 {
        let sentence = "the first backup into this folder was never finished: run it again";
        verified.problems.push(sentence.to_owned());
    }
    let total = manifest.segments.values().map(SegmentEntry::len).sum();
    for (number, entry) in &manifest.segments {
        let path = target.join(SEGMENTS).join(file_name(*number));
        verified.segments += 1;
        verified.damaged_at_copy += entry.damaged;
        if let Some(problem) = segment(&path, entry, &mut verified.bytes, total, on) {
            verified
                .problems
                .push(format!("{}: {problem}", path.display()));
        }
    }
    if let Ok(numbers) = copy::numbers(&target.join(SEGMENTS)) {
        let strange = numbers
            .into_iter()
            .filter(|number| !manifest.segments.contains_key(number));
        for number in strange {
            let name = file_name(number);
            let name = name.display();
            verified.problems.push(format!(
                "{name} does not belong to this backup: run it again"
            ));
        }
    }
    for (name, entry) in &manifest.files {
        verified.files += 1;
        if let Some(problem) = small(&target.join(name), entry) {
            verified.problems.push(format!("{name}: {problem}"));
        }
    }
    Ok(verified)
}

fn segment(
    path: &Path,
    entry: &SegmentEntry,
    done: &mut u64,
    total: u64,
    on: &mut dyn FnMut(u64, u64),
) -> Option<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    let (have, want) = (file.metadata().map_or(0, |it| it.len()), entry.len());
    if have != want {
        return Some(format!("it has {have} bytes and should have {want}"));
    }
    let mut buffer = vec![0; WINDOW_BYTES as usize];
    let mut at = 0;
    for (end, blake3) in &entry.parts {
        let mut hasher = blake3::Hasher::new();
        while at < *end {
            let count = WINDOW_BYTES.min(end - at) as usize;
            if let Err(error) = file.read_exact(&mut buffer[..count]) {
                return Some(format!("cannot be read at {at}: {error}"));
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
            *done += count as u64;
            on(*done, total);
        }
        if hasher.finalize().to_hex().as_str() != blake3 {
            return Some(format!(
                "its bytes before {end} are not those that were copied"
            ));
        }
    }
    None
}

fn small(path: &Path, entry: &FileEntry) -> Option<String> {
    let content = match fs::read(path) {
        Ok(content) => content,
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    if blake3::hash(&content).to_hex().as_str() != entry.blake3 {
        return Some("it is not what was copied".to_owned());
    }
    let mode = fs::metadata(path).map_or(0, |it| it.permissions().mode() & 0o777);
    let wider = mode & !entry.mode;
    (wider != 0).then(|| format!("its permissions are {mode:o} and were {:o}", entry.mode))
}
