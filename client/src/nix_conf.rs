//! What nix.conf says, as far as it matters here: whose signatures this machine trusts.
//!
//! ```text
//!   $NIX_CONF_DIR/nix.conf, or /etc/nix/nix.conf     what the daemon reads
//!   $NIX_CONFIG                                      goes on where the file ends
//! ```
//!
//! Guarantees: the keys that a nix-daemon with the same settings has, including files that are
//! included and `extra-` settings; what is no key is named with the file. It is the daemon that
//! decides: this only tells before anything is fetched.

use crate::failure::Failure;
use snowcache_nix::PublicKey;
use std::fs;
use std::path::{Path, PathBuf};

/// What Nix trusts when nothing is set.
const DEFAULT_KEYS: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Files that include files: more is a circle.
const MAX_DEPTH: usize = 16;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    trusted: Option<String>,
    extra: String,
}

/// The keys that this machine's settings trust.
///
/// # Errors
/// When a file cannot be read, or names something that is no key.
pub fn trusted_public_keys() -> Result<Vec<PublicKey>, Failure> {
    let mut settings = Settings::default();
    settings.add_file(&file(), false, 0)?;
    if let Ok(text) = std::env::var("NIX_CONFIG") {
        settings.add_text(&text, Path::new("$NIX_CONFIG"), 0)?;
    }
    settings.keys()
}

/// The keys that a nix.conf with this text trusts, with the files that it includes; `file` is where
/// it lies.
///
/// # Errors
/// When a file cannot be read, or names something that is no key.
pub fn keys_in(text: &str, file: &Path) -> Result<Vec<PublicKey>, Failure> {
    let mut settings = Settings::default();
    settings.add_text(text, file, 0)?;
    settings.keys()
}

fn file() -> PathBuf {
    let folder = std::env::var_os("NIX_CONF_DIR").map_or("/etc/nix".into(), PathBuf::from);
    folder.join("nix.conf")
}

/// Whether the nix-daemon trusts these keys as well, as far as its settings are to be seen here: in
/// a container they may not be.
///
/// # Errors
/// With what to do about the first that it does not.
pub fn check_trusted(keys: &[PublicKey]) -> Result<(), String> {
    let seen = file().exists() || std::env::var_os("NIX_CONFIG").is_some();
    // Settings that only the daemon may read are its own affair, too.
    let (true, Ok(known)) = (seen, trusted_public_keys()) else {
        return Ok(());
    };
    match keys.iter().find(|key| !known.contains(key)) {
        None => Ok(()),
        Some(key) => Err(format!(
            "the key {} is not among trusted-public-keys of nix.conf, so the nix-daemon would take \
             nothing that only it has signed; add {key} there and restart the daemon",
            key.name()
        )),
    }
}

impl Settings {
    fn add_file(&mut self, file: &Path, needed: bool, depth: usize) -> Result<(), Failure> {
        if depth > MAX_DEPTH {
            let file = file.display();
            return Err(Failure::usage(format!("{file} is included by itself")));
        }
        match fs::read_to_string(file) {
            Ok(text) => self.add_text(&text, file, depth),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !needed => Ok(()),
            Err(error) => Err(Failure::usage(format!("{}: {error}", file.display()))),
        }
    }

    fn add_text(&mut self, text: &str, file: &Path, depth: usize) -> Result<(), Failure> {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some(include @ ("include" | "!include")), Some(other)) => {
                    let folder = file.parent().unwrap_or(Path::new("/"));
                    self.add_file(&folder.join(other), include == "include", depth + 1)?;
                }
                (Some(name), Some("=")) => {
                    self.set(name, &words.collect::<Vec<_>>().join(" "));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn set(&mut self, name: &str, value: &str) {
        match name {
            "trusted-public-keys" | "binary-cache-public-keys" => {
                self.trusted = Some(value.to_owned());
            }
            "extra-trusted-public-keys" => self.extra = format!("{} {value}", self.extra),
            _ => {}
        }
    }

    fn keys(&self) -> Result<Vec<PublicKey>, Failure> {
        let trusted = self.trusted.as_deref().unwrap_or(DEFAULT_KEYS);
        let words = trusted
            .split_whitespace()
            .chain(self.extra.split_whitespace());
        let key = |text: &str| {
            let wrong = |error| format!("trusted-public-keys of nix.conf: {text}: {error}");
            text.parse().map_err(|error| Failure::usage(wrong(error)))
        };
        words.map(key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "a-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    const B: &str = "b-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    fn names(settings: &Settings) -> Vec<String> {
        let keys = settings.keys().expect("keys");
        keys.iter().map(|key| key.name().to_owned()).collect()
    }

    #[test]
    fn keys_are_those_of_the_last_setting_and_the_extra_ones() {
        let mut settings = Settings::default();
        assert_eq!(names(&settings), ["cache.nixos.org-1"]);
        let text = format!(
            "# trusted-public-keys = x\ntrusted-public-keys = {A} # ours\nsandbox = true\n\
             extra-trusted-public-keys = {B}\n"
        );
        let nowhere = Path::new("nix.conf");
        settings.add_text(&text, nowhere, 0).expect("settings");
        assert_eq!(names(&settings), ["a-1", "b-1"]);
        let empty = settings.add_text("trusted-public-keys = \n", nowhere, 0);
        empty.expect("settings");
        assert_eq!(names(&settings), ["b-1"]);
        let bad = settings.add_text("trusted-public-keys = nonsense", nowhere, 0);
        bad.expect("settings");
        let error = settings.keys().expect_err("no key");
        assert!(error.sentence().is_some_and(|it| it.contains("nonsense")));
    }

    #[test]
    fn files_are_included_where_they_stand_and_a_circle_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("a file");
        };
        write("nix.conf", "include more.conf\n!include absent.conf\n");
        write("more.conf", &format!("trusted-public-keys = {A}\n"));
        let mut settings = Settings::default();
        let file = folder.path().join("nix.conf");
        settings.add_file(&file, false, 0).expect("settings");
        assert_eq!(names(&settings), ["a-1"]);
        write("more.conf", "include nix.conf\n");
        let error = settings.add_file(&file, false, 0).expect_err("a circle");
        assert!(error.sentence().is_some_and(|it| it.contains("by itself")));
        write("more.conf", "include absent.conf\n");
        assert!(settings.add_file(&file, false, 0).is_err());
    }
}
