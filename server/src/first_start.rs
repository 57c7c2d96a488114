//! What the first start leaves in the data folder, and every later start finds there.
//!
//! ```text
//!   DATA/keys/<name>.sec   a signing key, Nix's format      0600   every *.sec signs
//!   DATA/keys/<name>.pub   its public half, for nix.conf    0644
//!   DATA/push.token        lets its bearer write            0600   shown at every start
//!   DATA/admin.token       lets its bearer do anything      0600   never shown
//! ```
//!
//! Guarantees: nothing that is there is ever changed; a start cut short anywhere is finished by the
//! next one; each file is whole or absent, even after a power cut. Never: a secret in a log line or
//! an error.

use crate::files::{PUBLIC, SECRET, read_if_there, sync_parent, write_durably};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use snowcache_nix::key::SecretKey;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// 256 bits, as much as the signing key's own strength asks for.
const TOKEN_BYTES: usize = 32;

/// Why keys and tokens could not be made or read.
#[derive(Debug, Error)]
pub enum FirstStartError {
    /// The filesystem's fault.
    #[error("{}: cannot be read or written", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers for keys and tokens")]
    Random(#[source] getrandom::Error),
    /// A file that is no key.
    #[error(
        "{}: this is no secret key in Nix's format (NAME:BASE64); move it out of keys/",
        path.display()
    )]
    NoKey {
        /// Which file.
        path: PathBuf,
    },
    /// A name that Nix could not tell from the key behind it.
    #[error(
        "{name:?} cannot be a key's name (no colons, spaces, slashes); set cache.key_name to \
         another one"
    )]
    KeyName {
        /// As configured.
        name: String,
    },
    /// An empty token would let everybody in.
    #[error(
        "{}: the token is shorter than 16 characters; delete the file to get a new one",
        path.display()
    )]
    WeakToken {
        /// Which file.
        path: PathBuf,
    },
}

/// The secrets that the server works with.
pub struct Identity {
    /// All signing keys, by file name.
    pub keys: Vec<SecretKey>,
    /// For writing.
    pub push_token: String,
    /// For everything.
    pub admin_token: String,
}

impl Identity {
    /// Finds or makes everything in `data`. An empty `key_name` means `<hostname>-snowcache-1`.
    ///
    /// # Errors
    /// [`FirstStartError`], naming the file.
    pub fn in_folder(data: &Path, key_name: &str) -> Result<Identity, FirstStartError> {
        let name = match key_name {
            "" => format!("{}-snowcache-1", hostname()),
            name => name.to_owned(),
        };
        Ok(Identity {
            keys: signing_keys(&data.join("keys"), &name)?,
            push_token: token(&data.join("push.token"))?,
            admin_token: token(&data.join("admin.token"))?,
        })
    }
}

/// Finds the keys in the folder `keys`, or makes one of this name.
///
/// # Errors
/// [`FirstStartError`], naming the file.
pub fn signing_keys(keys: &Path, name: &str) -> Result<Vec<SecretKey>, FirstStartError> {
    let file = |source| FirstStartError::File {
        path: keys.to_owned(),
        source,
    };
    fs::create_dir_all(keys).map_err(file)?;
    sync_parent(keys).map_err(file)?;
    let mut found = secret_keys(keys)?;
    if found.is_empty() {
        found.push(new_key(keys, checked(name)?)?);
    }
    for key in &found {
        ensure_public_half(keys, key)?;
    }
    Ok(found)
}

fn checked(name: &str) -> Result<&str, FirstStartError> {
    let bad = |c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control();
    match name.is_empty() || name.contains(bad) {
        true => Err(FirstStartError::KeyName {
            name: name.to_owned(),
        }),
        false => Ok(name),
    }
}

/// The machine's name as it says it, without what could not stand in a key's or a URL's host.
pub fn hostname() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let clean: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-.".contains(*c))
        .collect();
    if clean.is_empty() {
        "localhost".to_owned()
    } else {
        clean
    }
}

fn secret_keys(keys: &Path) -> Result<Vec<SecretKey>, FirstStartError> {
    let unreadable = |source| FirstStartError::File {
        path: keys.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(keys).map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sec"));
    files.sort();
    files.iter().map(|path| secret_key(path)).collect()
}

fn secret_key(path: &Path) -> Result<SecretKey, FirstStartError> {
    let text = fs::read_to_string(path).map_err(|source| FirstStartError::File {
        path: path.to_owned(),
        source,
    })?;
    text.trim().parse().map_err(|_| FirstStartError::NoKey {
        path: path.to_owned(),
    })
}

fn new_key(keys: &Path, name: &str) -> Result<SecretKey, FirstStartError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(FirstStartError::Random)?;
    let key = SecretKey::generate(name, seed).map_err(|_| FirstStartError::KeyName {
        name: name.to_owned(),
    })?;
    let path = keys.join(format!("{name}.sec"));
    write_durably(&path, format!("{key}\n").as_bytes(), SECRET)
        .map_err(|source| FirstStartError::File { path, source })?;
    Ok(key)
}

fn ensure_public_half(keys: &Path, key: &SecretKey) -> Result<(), FirstStartError> {
    let public = key.public();
    let path = keys.join(format!("{}.pub", public.name()));
    let write = || match read_if_there(&path)? {
        Some(_) => Ok(()),
        None => write_durably(&path, format!("{public}\n").as_bytes(), PUBLIC),
    };
    write().map_err(|source| FirstStartError::File {
        path: path.clone(),
        source,
    })
}

fn token(path: &Path) -> Result<String, FirstStartError> {
    let file = |source| FirstStartError::File {
        path: path.to_owned(),
        source,
    };
    let token = match read_if_there(path).map_err(file)? {
        Some(token) => token,
        None => {
            let mut random = [0; TOKEN_BYTES];
            getrandom::fill(&mut random).map_err(FirstStartError::Random)?;
            let token = URL_SAFE_NO_PAD.encode(random);
            write_durably(path, format!("{token}\n").as_bytes(), SECRET).map_err(file)?;
            token
        }
    };
    if token.len() < 16 {
        return Err(FirstStartError::WeakToken {
            path: path.to_owned(),
        });
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn the_first_start_makes_what_the_second_finds() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Identity::in_folder(dir.path(), "").expect("made");
        let name = format!("{}-snowcache-1", hostname());
        for secret in [
            format!("keys/{name}.sec"),
            "push.token".to_owned(),
            "admin.token".to_owned(),
        ] {
            assert_eq!(mode(&dir.path().join(secret)), SECRET);
        }
        let public =
            fs::read_to_string(dir.path().join(format!("keys/{name}.pub"))).expect("there");
        assert_eq!(public.trim(), first.keys[0].public().to_string());
        let second = Identity::in_folder(dir.path(), "another-name").expect("found");
        assert_eq!(second.keys[0].to_string(), first.keys[0].to_string());
        assert_eq!(
            (second.push_token, second.admin_token),
            (first.push_token, first.admin_token)
        );
    }

    #[test]
    fn a_start_cut_short_is_finished_by_the_next() {
        let dir = tempfile::tempdir().expect("a folder");
        let first = Identity::in_folder(dir.path(), "cut-1").expect("made");
        fs::remove_file(dir.path().join("keys/cut-1.pub")).expect("removed");
        fs::remove_file(dir.path().join("admin.token")).expect("removed");
        let second = Identity::in_folder(dir.path(), "cut-1").expect("finished");
        assert_eq!(second.keys[0].to_string(), first.keys[0].to_string());
        assert!(dir.path().join("keys/cut-1.pub").exists());
        assert_eq!(second.push_token, first.push_token);
        assert_ne!(second.admin_token, first.admin_token);
    }

    #[test]
    fn every_key_in_the_folder_signs() {
        let dir = tempfile::tempdir().expect("a folder");
        Identity::in_folder(dir.path(), "old-1").expect("made");
        let new = SecretKey::generate("new-1", [7; 32]).expect("a name");
        fs::write(dir.path().join("keys/new-1.sec"), new.to_string()).expect("added");
        let identity = Identity::in_folder(dir.path(), "").expect("found");
        let names: Vec<_> = identity
            .keys
            .iter()
            .map(|key| key.public().name().to_owned())
            .collect();
        assert_eq!(names, ["new-1", "old-1"]);
    }

    #[test]
    fn what_is_no_key_or_no_token_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        Identity::in_folder(dir.path(), "a-1").expect("made");
        fs::write(dir.path().join("push.token"), "\n").expect("emptied");
        let error = Identity::in_folder(dir.path(), "")
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("push.token"), "{error}");
        fs::write(dir.path().join("keys/bad.sec"), "hello").expect("added");
        let error = Identity::in_folder(dir.path(), "")
            .err()
            .expect("refused")
            .to_string();
        assert!(
            error.contains("bad.sec") && !error.contains("hello"),
            "{error}"
        );
        assert!(Identity::in_folder(&dir.path().join("other"), "a:b").is_err());
    }
}
