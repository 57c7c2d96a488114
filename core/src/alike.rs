//! Which older path is most likely to have the bytes of a new one, by their names.
//!
//! ```text
//!   openssl-3.0.13-dev   the same name, or else the same but for its numbers: openssl-#-dev
//!                        of several the one that came last
//! ```
//! Guarantees: none of them is anything but a guess. A node and its cache, with the same paths to
//! choose from, guess alike.

use std::collections::BTreeMap;

use snowcache_nix::StorePath;

/// For each of `wanted` that has one another path of `there` that is like it. Of several that are
/// called the same, the one that `came` last.
pub fn likely<T: Ord>(
    wanted: &[StorePath],
    there: &[StorePath],
    came: &dyn Fn(&StorePath) -> Option<T>,
) -> BTreeMap<StorePath, StorePath> {
    let mut shapes: BTreeMap<String, Vec<&StorePath>> = BTreeMap::new();
    for path in wanted {
        shapes.entry(shape(path.name())).or_default();
    }
    for path in there {
        if let Some(alike) = shapes.get_mut(&shape(path.name())) {
            alike.push(path);
        }
    }
    let mut guesses = BTreeMap::new();
    for path in wanted {
        let alike = shapes.get(&shape(path.name())).into_iter().flatten();
        let others = alike.filter(|other| **other != path);
        let best = others.max_by_key(|other| (other.name() == path.name(), came(other)));
        guesses.extend(best.map(|best| (path.clone(), (*best).clone())));
    }
    guesses
}

/// A name without what differs from version to version: `3.0.13` and `3.1` are both `#`.
fn shape(name: &str) -> String {
    let mut shape = String::with_capacity(name.len());
    for part in name.split_inclusive(['-', '_']) {
        let end = part.trim_end_matches(['-', '_']);
        let is_number = end.starts_with(|first: char| first.is_ascii_digit());
        match is_number {
            true => {
                shape.push('#');
                shape.push_str(&part[end.len()..]);
            }
            false => shape.push_str(part),
        }
    }
    shape
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(letter: char, name: &str) -> StorePath {
        let hash: String = std::iter::repeat_n(letter, 32).collect();
        format!("{hash}-{name}").parse().expect("a path")
    }

    #[test]
    fn the_same_name_goes_before_another_version_and_the_later_before_the_earlier() {
        let there = [
            path('a', "openssl-3.0.13"),
            path('b', "openssl-3.0.14"),
            path('c', "openssl-3.0.14-dev"),
            path('d', "openssl-3.0.14"),
            path('f', "zlib"),
        ];
        let came = |path: &StorePath| Some(path.clone());
        let guessed = |name: &str| {
            let wanted = path('z', name);
            let found = likely(std::slice::from_ref(&wanted), &there, &came);
            found.get(&wanted).map(ToString::to_string)
        };
        let text = |path: &StorePath| Some(path.to_string());
        assert_eq!(guessed("openssl-3.0.13"), text(&there[0]));
        assert_eq!(guessed("openssl-3.0.14"), text(&there[3]));
        assert_eq!(guessed("openssl-3.1.0"), text(&there[3]));
        assert_eq!(guessed("openssl-3.1.0-dev"), text(&there[2]));
        assert_eq!(guessed("zlib"), text(&there[4]));
        assert_eq!(guessed("openssh-3.1.0"), None);
        let found = likely(&there[4..], &there, &came);
        assert!(found.is_empty(), "a path is not made of itself");
    }

    #[test]
    fn shapes_keep_what_is_no_version() {
        assert_eq!(shape("openssl-3.0.13-dev"), "openssl-#-dev");
        assert_eq!(shape("unit-dbus.service"), "unit-dbus.service");
        assert_eq!(shape("linux_6_1-modules"), "linux_#_#-modules");
        assert_eq!(shape("x2-1"), "x2-#");
    }
}
