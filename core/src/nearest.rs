//! What somebody may have meant who misspelt one of some known words.
//!
//! Guarantees: of no words the answer is empty, otherwise one of them. Never: more memory than a
//! row as long as the longest of them.

/// The one of `known` that is spelt most like `given`: one that goes on where `given` ends (its
/// unit was left out) before any that is only alike.
pub fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> String {
    let nearest = known.min_by_key(|one| (!one.starts_with(given), distance(given, one)));
    nearest.unwrap_or_default().to_owned()
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
    use super::*;

    #[test]
    fn distances_are_counted_in_letters() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("lease_s", "lease_s"), 0);
    }

    #[test]
    fn a_unit_that_was_left_out_is_found_before_what_is_spelt_alike() {
        let known = ["rate", "wait_s", "wait", "grate_bytes_per_s"];
        assert_eq!(nearest("wai", known.into_iter()), "wait");
        assert_eq!(nearest("wiat", known.into_iter()), "wait");
        assert_eq!(nearest("wait_", known.into_iter()), "wait_s");
        assert_eq!(nearest("x", std::iter::empty()), "");
    }
}
