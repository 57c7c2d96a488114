//! Everything that the fuzzers start from, and everything that they ever broke, replayed.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read golden files and lay out trees"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod checks;

/// The law of a target.
type Law = fn(&[u8]);

/// Runs `check` over the files of `fuzz/<kind>/<target>`; gives how many there were.
fn replay(kind: &str, target: &str, check: Law) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz")
        .join(kind)
        .join(target);
    let Ok(entries) = fs::read_dir(&folder) else {
        return 0;
    };
    let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    for file in &files {
        let input = fs::read(file).unwrap();
        let result = std::panic::catch_unwind(|| check(&input));
        assert!(
            result.is_ok(),
            "{} breaks the law of the target {target}",
            file.display()
        );
    }
    files.len()
}

#[test]
fn seeds_and_regressions_obey_the_law_of_their_target() {
    let targets: [(&str, Law); 7] = [
        ("nar", checks::nar),
        ("narinfo", checks::narinfo),
        ("store_path", checks::store_path),
        ("key", checks::key),
        ("realisation", checks::realisation),
        ("ca", checks::ca),
        ("daemon", checks::daemon),
    ];
    for (target, check) in targets {
        assert!(
            replay("seeds", target, check) >= 5,
            "{target} has lost its seeds"
        );
        replay("regressions", target, check);
    }
}
