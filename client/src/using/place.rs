//! Which nix.conf, and which netrc Nix reads with it.

use super::all;
use crate::failure::Failure;
use std::path::{Path, PathBuf};

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// This user's.
    Mine,
    /// The machine's, which the nix-daemon reads.
    System,
}

/// Where both files are.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// nix.conf
    pub nix_conf: PathBuf,
    /// netrc
    pub netrc: PathBuf,
    /// Whether nix.conf has to name it.
    pub names_netrc: bool,
}

impl Place {
    /// Where they are, by what nix.conf says now.
    ///
    /// # Errors
    /// There is no home.
    pub fn of(whose: Whose, read: impl Fn(&Path) -> Option<String>) -> Result<Place, Failure> {
        let folder = match whose {
            Whose::System => {
                std::env::var_os("NIX_CONF_DIR").map_or("/etc/nix".into(), PathBuf::from)
            }
            Whose::Mine => config_home()?.join("nix"),
        };
        Ok(Place::in_folder(&folder, whose, read))
    }

    fn in_folder(folder: &Path, whose: Whose, read: impl Fn(&Path) -> Option<String>) -> Place {
        let nix_conf = folder.join("nix.conf");
        let text = read(&nix_conf).unwrap_or_default();
        let (netrc, names_netrc) = match (netrc_file(&text), whose) {
            (Some(netrc), _) => (netrc, false),
            // Nix reads NIX_CONF_DIR/netrc where nothing is said.
            (None, Whose::System) => (folder.join("netrc"), false),
            (None, Whose::Mine) => (folder.join("netrc"), true),
        };
        Place {
            nix_conf,
            netrc,
            names_netrc,
        }
    }
}

/// What nix.conf says that is not by us.
fn netrc_file(text: &str) -> Option<PathBuf> {
    let ours = all(text).unwrap_or_default();
    let ours = |value: &str| {
        let line = format!("netrc-file = {value}\n");
        ours.iter().any(|(_, lines)| lines.contains(&line))
    };
    let mut values = text.lines().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let (name, value) = line.split_once('=')?;
        (name.trim() == "netrc-file").then_some(value.trim())
    });
    let value = values.rfind(|value| !value.is_empty() && !ours(value));
    value.map(PathBuf::from)
}

fn config_home() -> Result<PathBuf, Failure> {
    let said = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = said("XDG_CONFIG_HOME") {
        return Ok(PathBuf::from(folder));
    }
    let home = said("HOME").ok_or_else(|| Failure::usage("there is no $HOME: say --system"))?;
    Ok(PathBuf::from(home).join(".config"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::using::{Outcome, with};

    #[test]
    fn the_netrc_is_the_one_that_nix_reads() {
        let place =
            |whose, text: &str| Place::in_folder(Path::new("/c"), whose, |_| Some(text.to_owned()));
        let mine = place(Whose::Mine, "");
        assert_eq!(
            (mine.netrc.to_str(), mine.names_netrc),
            (Some("/c/netrc"), true)
        );
        let system = place(Whose::System, "");
        assert_eq!(
            (system.netrc.to_str(), system.names_netrc),
            (Some("/c/netrc"), false)
        );
        let said = place(Whose::Mine, "netrc-file = /a\nnetrc-file = /b # here\n");
        assert_eq!((said.netrc.to_str(), said.names_netrc), (Some("/b"), false));
        // What we said ourselves is said again.
        let Ok(Outcome::Text(ours)) = with(None, "x", "netrc-file = /c/netrc\n") else {
            panic!("a new file");
        };
        assert!(place(Whose::Mine, &ours).names_netrc);
    }
}
