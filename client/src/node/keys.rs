//! The node's own key, and its signed papers.
//!
//! Guarantees: the secret key is made readable for its owner only, and one that somebody else could
//! have read is not used; a file is replaced whole or not at all, also when the power goes.

use super::{Node, NodeError, at, names_in};
use snowcache_nix::{SecretKey, StorePath};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A secret key's file has a line of 130 characters and a name.
const MAX_KEY_BYTES: u64 = 4096;
const RECEIPTS: &str = "receipts";

impl Node {
    /// The node's key; made when there is none.
    ///
    /// # Errors
    /// When it cannot be read or made, or others could have read it.
    pub fn key(&self) -> Result<SecretKey, NodeError> {
        if let Some(key) = self.key_if_any()? {
            return Ok(key);
        }
        let file = self.key_file();
        let cannot = at(&file);
        fs::create_dir_all(&self.folder).map_err(at(&self.folder))?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(unguessable(&file))?;
        let mut number = [0; 4];
        getrandom::fill(&mut number).map_err(unguessable(&file))?;
        let name = format!("node-{:08x}", u32::from_le_bytes(number));
        let key = SecretKey::generate(&name, seed).expect("invariant: the name is a good one");
        // Whole under another name first: whoever else makes one now loses or wins, but never
        // reads half of it.
        let draft = self.draft(&file)?;
        write(&draft, format!("{key}\n").as_bytes()).map_err(at(&draft))?;
        let made = fs::hard_link(&draft, &file);
        fs::remove_file(&draft).map_err(at(&draft))?;
        match made {
            Ok(()) => Ok(key),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match self.key_if_any()? {
                    Some(key) => Ok(key),
                    None => Err(cannot(error)),
                }
            }
            Err(error) => Err(cannot(error)),
        }
    }

    /// The node's key, if it has one.
    ///
    /// # Errors
    /// When it cannot be read, or others could have read it.
    pub fn key_if_any(&self) -> Result<Option<SecretKey>, NodeError> {
        let file = self.key_file();
        let Some(text) = read(&file, MAX_KEY_BYTES)? else {
            return Ok(None);
        };
        let cannot = at(&file);
        let metadata = fs::metadata(&file).map_err(at(&file))?;
        let owner = rustix::process::geteuid().as_raw();
        if metadata.mode() & 0o077 != 0 || ![0, owner].contains(&metadata.uid()) {
            let open = "others may read it, so anybody may have signed with it: remove it, and \
                        run snowcache prefetch again";
            return Err(cannot(io::Error::other(open)));
        }
        let key = text.trim().parse();
        key.map(Some)
            .map_err(|error| cannot(io::Error::other(error)))
    }

    /// The receipt of this root, as it lies there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn receipt(&self, root: &StorePath, limit: u64) -> Result<Option<String>, NodeError> {
        read(&self.receipt_of(root), limit)
    }

    /// The roots that there are receipts of.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn receipts_of(&self) -> Result<Vec<StorePath>, NodeError> {
        // Drafts have names that are no store path's, or nobody signed them.
        self.paths_in(RECEIPTS)
    }

    /// The paths that are written about in one of the node's folders, if there is such a folder.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn paths_in(&self, folder: &str) -> Result<Vec<StorePath>, NodeError> {
        let names = names_in(&self.folder.join(folder))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Replaces the receipt of this root.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write_receipt(&self, root: &StorePath, text: &str) -> Result<(), NodeError> {
        self.replace(&self.receipt_of(root), text)
    }

    /// Takes the receipt of this root away.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn remove_receipt(&self, root: &StorePath) -> Result<(), NodeError> {
        remove(&self.receipt_of(root))
    }

    /// A small file of the node's, if it is there.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_text(&self, name: &str, limit: u64) -> Result<Option<String>, NodeError> {
        read(&self.folder.join(name), limit)
    }

    /// Replaces a small file of the node's.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write_text(&self, name: &str, text: &str) -> Result<(), NodeError> {
        self.replace(&self.folder.join(name), text)
    }

    /// Takes a small file of the node's away.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn remove_text(&self, name: &str) -> Result<(), NodeError> {
        remove(&self.folder.join(name))
    }

    /// What is wrong with one of these.
    pub fn wrong(&self, name: &str, error: io::Error) -> NodeError {
        at(&self.folder.join(name))(error)
    }

    fn replace(&self, file: &Path, text: &str) -> Result<(), NodeError> {
        let folder = file.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).map_err(at(folder))?;
        let draft = self.draft(file)?;
        write(&draft, text.as_bytes()).map_err(at(&draft))?;
        fs::rename(&draft, file).map_err(at(file))?;
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(at(folder))
    }

    fn receipt_of(&self, root: &StorePath) -> PathBuf {
        self.folder.join(RECEIPTS).join(root.to_string())
    }

    fn key_file(&self) -> PathBuf {
        self.folder.join("node.key")
    }

    /// A name beside a file that nobody else uses.
    fn draft(&self, file: &Path) -> Result<PathBuf, NodeError> {
        let number = getrandom::u64().map_err(unguessable(file))?;
        let mut draft = file.as_os_str().to_owned();
        draft.push(format!(".{number:016x}"));
        Ok(PathBuf::from(draft))
    }
}

/// The kernel has no randomness to give.
fn unguessable(file: &Path) -> impl Fn(getrandom::Error) -> NodeError {
    let file = file.to_owned();
    move |error| at(&file)(io::Error::other(error.to_string()))
}

fn remove(file: &Path) -> Result<(), NodeError> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(file)(error)),
        _ => Ok(()),
    }
}

/// A new file that only its owner can read, on the disk.
fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn read(file: &Path, limit: u64) -> Result<Option<String>, NodeError> {
    let opened = match File::open(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(at(file))?,
    };
    let mut text = String::new();
    let length = opened.take(limit + 1).read_to_string(&mut text);
    match length.map_err(at(file))? as u64 > limit {
        true => Err(at(file)(io::Error::other("it is too long"))),
        false => Ok(Some(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_key_is_made_once_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::at(folder.path().join("state"));
        assert!(node.key_if_any().expect("a look").is_none());
        let key = node.key().expect("a key");
        let again = node.key().expect("the same key");
        assert_eq!(key.public().to_string(), again.public().to_string());
        let file = node.key_file();
        let mode = fs::metadata(&file).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let open = fs::Permissions::from_mode(0o640);
        fs::set_permissions(&file, open).expect("opened");
        let error = node.key().expect_err("open to others").to_string();
        assert!(error.contains("others may read it"), "{error}");
    }
}
