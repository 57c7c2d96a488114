//! The NARs to cut.

use std::process::Command;

use snowcache_nix::nar::{Event, Parser};

use crate::{dense, zstd_len};

/// A NAR, and what is known of it.
pub struct Nar {
    pub name: String,
    pub kind: &'static str,
    pub bytes: Vec<u8>,
    /// Offset and size of its regular files.
    pub files: Vec<(u64, u64)>,
    /// Its size as one zstd frame.
    pub whole: usize,
}

fn kind(name: &str, bytes: &[u8]) -> &'static str {
    let name = name.get(33..).unwrap_or(name);
    match name {
        _ if name.ends_with(".drv") => "drv",
        _ if name.starts_with("nixos-system") => "toplevel",
        _ if name.starts_with("unit-") => "unit",
        "etc" => "etc",
        "system-path" | "user-environment" => "symlink farm",
        // A regular file that begins "#!".
        _ if bytes
            .get(72..)
            .is_some_and(|rest| rest[..rest.len().min(64)].windows(2).any(|w| w == b"#!"))
            && bytes.get(56..63) == Some(b"regular") =>
        {
            "script"
        }
        _ if bytes.len() < 64 * 1024 => "small package",
        _ => "package",
    }
}

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{program} {arguments:?} fails");
    output.stdout
}

fn load(path: &str) -> Nar {
    let bytes = run("nix-store", &["--dump", path]);
    let mut files = Vec::new();
    let mut parser = Parser::new();
    let mut on = |event: Event<'_>| {
        if let Event::File { offset, size, .. } = event {
            files.push((offset, size));
        }
    };
    parser
        .feed(&bytes, &mut on)
        .expect("nix-store --dump makes good NARs");
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    Nar {
        kind: kind(&name, &bytes),
        whole: zstd_len(&bytes),
        name,
        files,
        bytes,
    }
}

/// The closure of some roots, or what is in some folders.
pub fn generation(roots: &str) -> Vec<Nar> {
    let mut paths: Vec<String> = Vec::new();
    for root in roots.split(',') {
        let root = std::fs::canonicalize(root).expect("the root exists");
        let root = root.to_str().expect("paths are UTF-8");
        let list = match root.starts_with("/nix/store/") {
            true => run("nix-store", &["-qR", root]),
            false => run("find", &[root, "-mindepth", "1", "-maxdepth", "1"]),
        };
        paths.extend(String::from_utf8_lossy(&list).lines().map(str::to_owned));
    }
    paths.sort();
    paths.dedup();
    paths.iter().map(|path| load(path)).collect()
}

/// What [`dense`] makes of these names.
pub fn made(names: &[String], generation: u64) -> Vec<Nar> {
    let made = dense::Made { names, generation }.all().into_iter();
    made.map(|(kind, name, bytes)| Nar {
        name,
        kind,
        files: Vec::new(),
        whole: zstd_len(&bytes),
        bytes,
    })
    .collect()
}
