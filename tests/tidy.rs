//! Keeps the house in order: which crate may know which, how long a file or a function may grow,
//! what may not be written.
//!
//! Reads `cargo metadata` and the sources as text; runs nothing of ours. Each rule reports
//! everything that breaks it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// server -> depot -> core -> nix; client -> core. The harness (tests, benches) only drives
/// binaries and reads formats.
const MAY_DEPEND_ON: [(&str, &[&str]); 6] = [
    ("snowcache-nix", &[]),
    ("snowcache-core", &["snowcache-nix"]),
    ("snowcache-depot", &["snowcache-nix", "snowcache-core"]),
    (
        "snowcache-server",
        &["snowcache-nix", "snowcache-core", "snowcache-depot"],
    ),
    ("snowcache", &["snowcache-nix", "snowcache-core"]),
    ("snowcache-harness", &["snowcache-nix", "snowcache-core"]),
];
/// RocksDB's C++ hangs on one leaf: only these crates may have it anywhere below them.
const MAY_REACH_ROCKSDB: [&str; 2] = ["snowcache-depot", "snowcache-server"];
/// Files that may contain `unsafe`, each block with its `SAFETY:` comment.
const MAY_BE_UNSAFE: [&str; 2] = ["server/src/listen/unsent.rs", "server/src/memory.rs"];

const FILE_LINES_AT_MOST: usize = 500;
const FUNCTION_LINES_AT_MOST: usize = 70;
const COLUMNS_AT_MOST: usize = 100;
const FORBIDDEN_WORDS: [&str; 4] = [
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("to", "do!"),
    concat!("X", "XX"),
];

#[test]
fn crates_know_only_what_lies_below_them() {
    let metadata = metadata(&["--no-deps"]);
    let allowed: BTreeMap<&str, &[&str]> = MAY_DEPEND_ON.into();
    let members: BTreeSet<&str> = packages(&metadata)
        .map(|package| text(package, "name"))
        .collect();
    let mut broken = Vec::new();
    for package in packages(&metadata) {
        let name = text(package, "name");
        let Some(allowed) = allowed.get(name) else {
            broken.push(format!(
                "{name}: a new crate; say in MAY_DEPEND_ON what it may know"
            ));
            continue;
        };
        for dependency in array(package, "dependencies") {
            let (below, for_tests) = (text(dependency, "name"), dependency["kind"] == "dev");
            if members.contains(below) && !allowed.contains(&below) && !for_tests {
                broken.push(format!("{name} -> {below}"));
            }
            if below == "rocksdb" && name != "snowcache-depot" {
                broken.push(format!("{name} -> rocksdb: only the depot links it"));
            }
        }
    }
    tidy("edges that the layout forbids", &broken);
}

#[test]
fn rocksdb_is_out_of_reach_of_client_core_and_harness() {
    let metadata = metadata(&[]);
    let names: BTreeMap<&str, &str> = packages(&metadata)
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let below: BTreeMap<&str, Vec<&str>> = array(&metadata["resolve"], "nodes")
        .map(|node| {
            let ids = array(node, "dependencies")
                .filter_map(Value::as_str)
                .collect();
            (text(node, "id"), ids)
        })
        .collect();
    let mut broken = Vec::new();
    for member in array(&metadata, "workspace_members").filter_map(Value::as_str) {
        let (mut seen, mut next) = (BTreeSet::new(), vec![member]);
        while let Some(id) = next.pop() {
            if seen.insert(id) {
                next.extend(below[id].iter().copied());
            }
        }
        let reaches = seen.iter().any(|id| names[id] == "librocksdb-sys");
        if reaches && !MAY_REACH_ROCKSDB.contains(&names[member]) {
            broken.push(names[member].to_owned());
        }
    }
    tidy("crates that link RocksDB and should not", &broken);
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let metadata = metadata(&["--no-deps"]);
    let broken: Vec<String> = packages(&metadata)
        .map(|package| text(package, "manifest_path"))
        .filter(|path| {
            let manifest = fs::read_to_string(path).expect("manifest");
            !manifest.contains("[lints]\nworkspace = true")
        })
        .map(str::to_owned)
        .collect();
    tidy("manifests without `[lints] workspace = true`", &broken);
}

#[test]
fn files_and_functions_stay_short() {
    let mut broken = Vec::new();
    for source in sources(&["rs"]) {
        let lines = source.without_tests();
        if lines.len() > FILE_LINES_AT_MOST {
            broken.push(format!("{}: {} lines", source.name, lines.len()));
        }
        for (start, length) in functions(&lines) {
            if length > FUNCTION_LINES_AT_MOST {
                broken.push(format!(
                    "{}:{start}: a function of {length} lines",
                    source.name
                ));
            }
        }
        for (number, line) in source.lines() {
            // Golden vectors do not break.
            let golden = source.is_beside_a_module() && line.contains('"');
            if line.chars().count() > COLUMNS_AT_MOST && !golden {
                broken.push(format!(
                    "{}:{number}: wider than {COLUMNS_AT_MOST}",
                    source.name
                ));
            }
        }
    }
    tidy("too long", &broken);
}

#[test]
fn nothing_unsafe_and_nothing_unwrapped() {
    let mut broken = Vec::new();
    for source in sources(&["rs"]).filter(|source| !source.is_test()) {
        for (number, line) in source.without_tests() {
            let code = line.split("//").next().unwrap_or_default();
            let words = code.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.into_iter().any(|word| word == "unsafe")
                && !MAY_BE_UNSAFE.contains(&source.name.as_str())
            {
                broken.push(format!("{}:{number}: unsafe", source.name));
            }
            if code.contains(concat!(".unw", "rap()")) {
                broken.push(format!("{}:{number}: unwrap", source.name));
            }
        }
    }
    tidy("unsafe or unwrap where none belongs", &broken);
}

#[test]
fn every_module_says_what_it_is() {
    let broken: Vec<String> = sources(&["rs"])
        .filter(|source| !source.text.trim_start().starts_with("//!"))
        .filter(|source| !source.is_beside_a_module())
        .filter(|source| !source.name.contains("/fuzz/"))
        .map(|source| source.name)
        .collect();
    tidy("files that do not begin with a module doc", &broken);
}

#[test]
fn no_notes_to_self_are_left_behind() {
    let mut broken = Vec::new();
    for source in sources(&["rs", "md", "toml", "sh", "nix", "py", "yml"]) {
        for (number, line) in source.lines() {
            for word in FORBIDDEN_WORDS.iter().filter(|word| line.contains(*word)) {
                broken.push(format!("{}:{number}: {word}", source.name));
            }
        }
    }
    tidy("notes to self", &broken);
}

fn tidy(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

// ---- cargo metadata ----

fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1"])
        .args(arguments)
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn packages(metadata: &Value) -> impl Iterator<Item = &Value> {
    array(metadata, "packages")
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key]
        .as_array()
        .expect("an array in cargo metadata")
        .iter()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a string in cargo metadata")
}

// ---- sources as text ----

struct Source {
    /// Relative to the root of the workspace.
    name: String,
    text: String,
}

impl Source {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
    }

    /// The lines up to the inline test module; none of a file that is all tests.
    fn without_tests(&self) -> Vec<(usize, &str)> {
        if self.is_beside_a_module() {
            return Vec::new();
        }
        self.lines()
            .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
            .collect()
    }

    fn is_beside_a_module(&self) -> bool {
        let file = self.name.rsplit('/').next().unwrap_or_default();
        file == "tests.rs" || file.ends_with("_tests.rs") || self.name.contains("/tests/")
    }

    fn is_test(&self) -> bool {
        self.is_beside_a_module()
            || ["tests/", "benches/"]
                .iter()
                .any(|folder| self.name.starts_with(folder))
            || self.name.contains("/fuzz/")
    }
}

/// (line, length) of each function, found by the indentation that rustfmt gives its first and last
/// line.
fn functions(lines: &[(usize, &str)]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let code = line.trim_start();
        let head = code.split('(').next().unwrap_or_default();
        if code.starts_with("//") || !head.split(' ').any(|word| word == "fn") {
            continue;
        }
        let indent = &line[..line.len() - code.len()];
        let end = lines[index..].iter().position(|(_, line)| {
            line.strip_prefix(indent)
                .is_some_and(|rest| rest == "}" || rest.ends_with(";"))
                && !line[indent.len()..].starts_with(' ')
        });
        found.push((*number, end.unwrap_or_default() + 1));
    }
    found
}

fn sources(extensions: &'static [&'static str]) -> impl Iterator<Item = Source> {
    let mut files = Vec::new();
    collect(&root(), &mut files);
    files
        .into_iter()
        .filter(move |file| {
            file.extension()
                .is_some_and(|e| extensions.iter().any(|wanted| e == *wanted))
        })
        .map(|file| Source {
            text: fs::read_to_string(&file).unwrap_or_default(),
            name: file
                .strip_prefix(root())
                .expect("below the root")
                .to_string_lossy()
                .into_owned(),
        })
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let skip = ["target", "var", "corpus", "artifacts"]
            .iter()
            .any(|folder| name == *folder)
            || name.to_string_lossy().starts_with('.');
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && !skip => collect(&path, files),
            Ok(kind) if kind.is_file() => files.push(path),
            _ => {}
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
