//! Why a path is not there, told of all that need it.

use super::*;
use snowcache_nix::PathInfo;

fn local(name: char, references: &str) -> LocalPath {
    let base = |name: char| format!("{}-{name}", name.to_string().repeat(32));
    let references: Vec<String> = references.chars().map(base).collect();
    let record = format!(
        "StorePath: /nix/store/{}\nNarHash: sha256:{}\nNarSize: 120\nReferences: {}\n",
        base(name),
        "0".repeat(52),
        references.join(" ")
    );
    let info = PathInfo::from_record(&record).expect("a record");
    LocalPath { info }
}

#[test]
fn a_failure_is_told_with_its_cause() {
    let mut failures = Failures::default();
    let (bad, middle, top) = (local('a', "a"), local('b', "a"), local('c', "bc"));
    failures.add(&bad, "torn");
    failures.add(&middle, "it refers to a, which was not pushed");
    failures.add(&top, "it refers to b, which was not pushed");
    let why = |path: &LocalPath| failures.of(&path.info.store_path);
    assert_eq!(why(&bad).as_deref(), Some("torn"));
    let cause = Some(format!("it needs {}: torn", bad.info.store_path));
    assert_eq!((why(&middle), why(&top)), (cause.clone(), cause));
    assert_eq!(why(&local('d', "")), None);
}
