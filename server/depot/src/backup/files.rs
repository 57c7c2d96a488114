//! Everything of a data folder that is not its depot: keys and tokens.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::manifest::FileEntry;
use super::{MANIFEST, sync_folder};
use crate::{Error, Result};

/// Left where they are: the depot is copied by its segments, a lock means nothing elsewhere.
const LEFT_OUT: [&str; 3] = ["depot", "lock", MANIFEST];

/// Folders within folders that are looked into: keys lie one deep.
const MAX_DEPTH: usize = 4;

/// Copies the files of `data` to `target`, with their permissions.
pub fn copy(data: &Path, target: &Path) -> Result<BTreeMap<String, FileEntry>> {
    let mut copied = BTreeMap::new();
    folder(data, target, "", MAX_DEPTH, &mut copied)?;
    Ok(copied)
}

fn folder(
    from: &Path,
    to: &Path,
    prefix: &str,
    depth: usize,
    copied: &mut BTreeMap<String, FileEntry>,
) -> Result<()> {
    let reading = |e| Error::io(format!("reading {}", from.display()), e);
    for entry in fs::read_dir(from).map_err(reading)? {
        let entry = entry.map_err(reading)?;
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(reading)?);
        let Some(name) = name.to_str() else { continue };
        let unfinished = name.ends_with(".new");
        if (prefix.is_empty() && LEFT_OUT.contains(&name)) || unfinished {
            continue;
        }
        let (source, sink) = (from.join(name), to.join(name));
        let shown = format!("{prefix}{name}");
        if kind.is_dir() && depth > 1 {
            if !sink.is_dir() {
                let made = fs::DirBuilder::new().mode(0o700).create(&sink);
                made.map_err(|e| Error::io(format!("creating {}", sink.display()), e))?;
            }
            folder(&source, &sink, &format!("{shown}/"), depth - 1, copied)?;
        } else if kind.is_file() {
            copied.extend(file(&source, &sink)?.map(|entry| (shown, entry)));
        }
    }
    sync_folder(to)
}

/// Nothing where the file is gone by now: a token that expired.
fn file(source: &Path, sink: &Path) -> Result<Option<FileEntry>> {
    let read = || {
        let mut file = File::open(source)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok((content, file.metadata()?.permissions().mode() & 0o777))
    };
    let read: std::io::Result<(Vec<u8>, u32)> = read();
    let (content, mode) = match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        read => read.map_err(|e| Error::io(format!("reading {}", source.display()), e))?,
    };
    let mut aside = sink.as_os_str().to_owned();
    aside.push(".new");
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(mode);
        let mut file: File = options.open(&aside)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&aside, sink)
    };
    write().map_err(|e| Error::io(format!("writing {}", sink.display()), e))?;
    Ok(Some(FileEntry {
        bytes: content.len() as u64,
        blake3: blake3::hash(&content).to_hex().to_string(),
        mode,
    }))
}
