//! Which older path is most likely to have the bytes of a new one, by their names.
//!
//! ```text
//!   openssl-3.0.13-dev            the same name, or else
//!     shape  openssl-#-dev        the same but for its numbers, or else
//!     stem   openssl-dev          the same but for all of its version
//!   of several the one whose name begins most alike, of these the one that came last
//! ```
//! Guarantees: none of them is anything but a guess. A node and its cache, with the same paths to
//! choose from, guess alike.

use std::collections::BTreeMap;

use snowcache_nix::StorePath;

/// Paths by what their names have in common.
type Alike<'a> = BTreeMap<String, Vec<&'a StorePath>>;

/// For each of `wanted` that has one another path of `there` that is like it. Of several that are
/// called much the same, the one that `came` last.
pub fn likely<T: Ord>(
    wanted: &[StorePath],
    there: &[StorePath],
    came: &dyn Fn(&StorePath) -> Option<T>,
) -> BTreeMap<StorePath, StorePath> {
    let ways = [shape, stem].map(|way| (way, by(way, wanted, there)));
    let guess = |path: &StorePath| {
        ways.iter().find_map(|(way, alike)| {
            let alike = alike.get(&way(path.name())).into_iter().flatten();
            let others = alike.filter(|other| **other != path);
            let best = others.max_by_key(|other| {
                let (name, like) = (path.name(), other.name());
                (name == like, begin_alike(name, like), came(other))
            });
            best.map(|best| (path.clone(), (*best).clone()))
        })
    };
    wanted.iter().filter_map(guess).collect()
}

/// Those of `there` that one of `wanted` may be made of.
fn by<'a>(way: fn(&str) -> String, wanted: &[StorePath], there: &'a [StorePath]) -> Alike<'a> {
    let wanted = wanted.iter().map(|path| (way(path.name()), Vec::new()));
    let mut alike: Alike<'_> = wanted.collect();
    for path in there {
        if let Some(alike) = alike.get_mut(&way(path.name())) {
            alike.push(path);
        }
    }
    alike
}

fn begin_alike(one: &str, other: &str) -> usize {
    let pairs = one.bytes().zip(other.bytes());
    pairs.take_while(|(one, other)| one == other).count()
}

/// A name without what differs from version to version: `3.0.13` and `3.1` are both `#`.
fn shape(name: &str) -> String {
    let mut shape = String::with_capacity(name.len());
    for part in name.split_inclusive(['-', '_']) {
        let end = part.trim_end_matches(['-', '_']);
        match is_number(end) {
            true => {
                shape.push('#');
                shape.push_str(&part[end.len()..]);
            }
            false => shape.push_str(part),
        }
    }
    shape
}

/// A name without the part from the first number to the last part that has a digit, and without
/// the digits before it: `libxml2-2.9.14-1.3-deb12u6` is `libxml#`.
fn stem(name: &str) -> String {
    // There is always a first part, which is a name, also where that is `7zip`.
    let parts: Vec<&str> = name.split(['-', '_']).collect();
    let has_digit = |part: &&str| part.contains(|letter: char| letter.is_ascii_digit());
    let first = parts[1..].iter().position(|part| is_number(part));
    let first = first.map_or(parts.len(), |first| first + 1);
    let last = parts.iter().rposition(has_digit);
    let after = last.map_or(parts.len(), |last| last + 1).max(first);
    let kept = parts[..first].iter().chain(&parts[after..]);
    let mut stem = String::with_capacity(name.len());
    for part in kept {
        for letter in part.chars() {
            match letter {
                '0'..='9' | '.' if stem.ends_with('#') => {}
                '0'..='9' => stem.push('#'),
                letter => stem.push(letter),
            }
        }
        stem.push('-');
    }
    stem
}

fn is_number(part: &str) -> bool {
    part.starts_with(|first: char| first.is_ascii_digit())
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
    fn where_versions_are_written_otherwise_what_is_around_them_decides() {
        let there = [
            path('a', "libxml2-2.9.14-1.3-deb12u4"),
            path('b', "libxml2-2.9.14-1.3-deb12u4-dev"),
            path('c', "jq-1.7"),
            path('d', "python3.11-requests-2.31.0"),
            path('f', "gtk-3.24.1"),
            path('g', "gtk-4.12.5"),
        ];
        let wanted = [
            ("libxml2-2.9.14-1.3-deb12u6", Some(0)),
            ("libxml2-2.9.14-1.3-deb12u6-dev", Some(1)),
            ("jq-1.7.1-unstable-2024-05-01", Some(2)),
            ("python3.12-requests-2.32.3", Some(3)),
            ("gtk-3.24.43", Some(4)),
            ("libxslt-1.1", None),
        ];
        for (name, right) in wanted {
            let wanted = [path('z', name)];
            let found = likely(&wanted, &there, &|_| Some(()));
            let right = right.map(|number: usize| &there[number]);
            assert_eq!(found.get(&wanted[0]), right, "{name}");
        }
    }

    #[test]
    fn shapes_keep_what_is_no_version() {
        assert_eq!(shape("openssl-3.0.13-dev"), "openssl-#-dev");
        assert_eq!(shape("unit-dbus.service"), "unit-dbus.service");
        assert_eq!(shape("linux_6_1-modules"), "linux_#_#-modules");
        assert_eq!(shape("x2-1"), "x2-#");
        assert_eq!(stem("libxml2-2.9.14-1.3-deb12u6-dev"), "libxml#-dev-");
        assert_eq!(stem("7zip-22.01"), "#zip-");
        assert_eq!(stem("unit-dbus.service"), "unit-dbus.service-");
    }
}
