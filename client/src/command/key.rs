//! `snowcache key`: keys in Nix's own format, readable by `nix store sign` and by snowcached.
//!
//! Guarantees: a secret key file is made with mode 0600 and is on disk before its public key is
//! printed; an existing file is never touched. Never: a secret on stdout or in an error.

use super::print;
use crate::cli::KeyCommand;
use crate::failure::Failure;
use snowcache_nix::SecretKey;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A key has 88 characters of base64 and a name of up to 255.
const MAX_KEY_FILE_BYTES: u64 = 4096;

pub(super) fn run(command: KeyCommand) -> Result<(), Failure> {
    let key = match command {
        KeyCommand::Generate { name, out } => generate(&name, out)?,
        KeyCommand::Show { file } => read(&file)?,
    };
    print(&format!("{}\n", key.public()))
}

fn generate(name: &str, out: Option<PathBuf>) -> Result<SecretKey, Failure> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Failure::failed(format!("no randomness to be had: {error}")))?;
    let key = SecretKey::generate(name, seed).map_err(Failure::usage)?;
    let file = match out {
        Some(file) => file,
        None if name.contains('/') => {
            return Err(Failure::usage(format!(
                "{name} is no file name; say where with --out"
            )));
        }
        None => PathBuf::from(format!("{name}.sec")),
    };
    write(&file, &key).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Failure::failed(format!(
            "{} exists already and may be in use; choose another file with --out",
            file.display()
        )),
        _ => Failure::failed(format!("{} cannot be written: {error}", file.display())),
    })?;
    Ok(key)
}

fn write(file: &Path, key: &SecretKey) -> io::Result<()> {
    let mut secret = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    let written = write!(secret, "{key}").and_then(|()| secret.sync_all());
    if written.is_err() {
        // Half a key is of no use; that it could not be removed either changes nothing.
        drop(std::fs::remove_file(file));
    }
    written
}

fn read(path: &Path) -> Result<SecretKey, Failure> {
    let shown = path.display();
    let cannot = |error: io::Error| Failure::failed(format!("{shown} cannot be read: {error}"));
    let file = File::open(path).map_err(cannot)?;
    let mode = file.metadata().map_err(cannot)?.permissions().mode();
    if mode & 0o077 != 0 {
        eprintln!("snowcache: others may read {shown}; run: chmod 600 {shown}");
    }
    let mut text = String::new();
    file.take(MAX_KEY_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(cannot)?;
    text.trim_end()
        .parse()
        .map_err(|error| Failure::failed(format!("{shown} is no secret key file: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_private_complete_and_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("k.sec");
        let key = generate("k-1", Some(file.clone())).expect("generated");
        let mode = std::fs::metadata(&file)
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(read(&file).expect("a key").public(), key.public());
        let again = generate("k-1", Some(file.clone())).expect_err("exists");
        assert!(again.sentence().expect("says").contains("exists already"));
        assert_eq!(read(&file).expect("still the same").public(), key.public());
    }

    #[test]
    fn what_is_no_key_is_not_repeated() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("k.sec");
        std::fs::write(&file, "k-1:c2VjcmV0c2VjcmV0").expect("written");
        let sentence = read(&file).expect_err("too short");
        let sentence = sentence.sentence().expect("says");
        assert!(sentence.contains("is no secret key file") && !sentence.contains("c2Vj"));
    }
}
