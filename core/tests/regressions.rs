//! Everything that the fuzzers start from, and everything that they ever broke, replayed.

#![allow(
    clippy::disallowed_methods,
    reason = "tests read golden files from the source tree"
)]
#![allow(
    clippy::unwrap_used,
    reason = "a failure here is the test's own failure"
)]

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/lib.rs"]
mod laws;

/// What must hold for any bytes.
type Law = fn(&[u8]);

/// Runs the law of a target over the files of `fuzz/<kind>/<target>`; gives how many there were.
fn replay(kind: &str, target: &str, law: Law) -> usize {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let folder = fs::read_dir(fuzz.join(kind).join(target)).unwrap();
    let files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
    for file in &files {
        let input = fs::read(file).unwrap();
        let kept = std::panic::catch_unwind(|| law(&input)).is_ok();
        assert!(kept, "{} breaks the law of {target}", file.display());
    }
    files.len()
}

#[test]
fn seeds_and_regressions_keep_the_law_of_their_target() {
    let targets: [(&str, Law); 4] = [
        ("recipe", laws::recipe),
        ("cut", laws::cut),
        ("upload", laws::upload),
        ("delta", laws::delta),
    ];
    for (target, law) in targets {
        assert!(replay("seeds", target, law) >= 5, "{target} lost its seeds");
        replay("regressions", target, law);
    }
}
