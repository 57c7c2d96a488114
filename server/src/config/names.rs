//! Which keys exist, and which of them a misspelt one was meant to be.
//!
//! The keys are those of the default configuration written as TOML, so that no list of them can go
//! stale.

use super::Config;
use toml::{Table, Value};

/// All keys, as tables in tables.
pub fn known() -> Table {
    Table::try_from(Config::default())
        .expect("invariant: the default configuration can be written as TOML")
}

/// The first key of `given` that `known` does not have, and the nearest one that it has, both with
/// their tables' names.
pub fn unknown(given: &Table, known: &Table) -> Option<(String, String)> {
    given
        .iter()
        .find_map(|(key, value)| match (known.get(key), value) {
            (Some(Value::Table(inner)), Value::Table(given)) => unknown(given, inner)
                .map(|(wrong, right)| (format!("{key}.{wrong}"), format!("{key}.{right}"))),
            (Some(_), _) => None,
            (None, _) => Some((key.clone(), nearest(key, known))),
        })
}

/// A key whose unit was left out comes before any that is spelt alike.
fn nearest(key: &str, known: &Table) -> String {
    let nearest = known
        .keys()
        .min_by_key(|candidate| (!candidate.starts_with(key), distance(key, candidate)));
    nearest.cloned().unwrap_or_default()
}

/// Levenshtein's distance, one row at a time.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (above, left) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (column, right) in to.chars().enumerate() {
            let changed = diagonal + usize::from(left != right);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    *row.last()
        .expect("invariant: the row has one more element than `to` has letters")
}

#[cfg(test)]
mod tests {
    use super::distance;

    #[test]
    fn distances_are_counted_in_letters() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("lease_s", "lease_s"), 0);
    }
}
