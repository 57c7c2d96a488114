//! netrc files, as far as it matters which token Nix sends to a host: one for a host, whichever of
//! its caches is asked.
//!
//! Guarantees: an entry of somebody else's is seen, wherever it stands. Never: a token in an error.

use super::{Broken, all};

/// What a line of ours says.
pub fn line(host: &str, token: &str) -> String {
    format!("machine {host} login snowcache password {token}\n")
}

/// The password that a netrc has for a host, if any: the first one counts, as for curl.
pub fn password<'a>(text: &'a str, host: &str) -> Option<&'a str> {
    let lines = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    let mut is_here = false;
    while let Some(word) = words.next() {
        match word {
            "machine" => is_here = words.next() == Some(host),
            "default" => is_here = true,
            "password" if is_here => return words.next(),
            _ => {}
        }
    }
    None
}

/// The same, of an entry that is not ours.
///
/// # Errors
/// A part of ours that has no end.
pub fn others<'a>(text: &'a str, host: &str) -> Result<Option<&'a str>, Broken> {
    let ours = all(text)?.into_iter().find(|(key, _)| *key == host);
    let found = password(text, host);
    let is_ours = ours.is_some_and(|(_, lines)| password(lines, host) == found);
    Ok(found.filter(|_| !is_ours))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::using::{Outcome, with};

    #[test]
    fn the_first_password_for_a_host_counts() {
        let text = "# machine h password no\nmachine other login x password no\n\
                    machine h\n  login x\n  password yes\nmachine h password later\n";
        assert_eq!(password(text, "h"), Some("yes"));
        assert_eq!(password(text, "nobody"), None);
        assert_eq!(password("default login x password all", "h"), Some("all"));
    }

    #[test]
    fn ours_is_told_from_others() {
        let Ok(Outcome::Text(ours)) = with(None, "h", &line("h", "token")) else {
            panic!("a new file");
        };
        assert_eq!(password(&ours, "h"), Some("token"));
        assert_eq!(others(&ours, "h").expect("whole"), None);
        let before = format!("machine h password mine\n{ours}");
        assert_eq!(others(&before, "h").expect("whole"), Some("mine"));
    }
}
