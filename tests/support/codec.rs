//! Compressed bodies, made by the usual command-line tools: none of our own code takes part.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

/// A codec as Nix names it, the suffix that Nix gives its URL, and the tool that makes it.
pub struct Codec {
    pub name: &'static str,
    pub suffix: &'static str,
    tool: &'static [&'static str],
}

/// Every codec that an upload may have.
pub const CODECS: [Codec; 8] = [
    Codec {
        name: "none",
        suffix: "",
        tool: &["cat"],
    },
    Codec {
        name: "xz",
        suffix: ".xz",
        tool: &["xz", "-1", "-c"],
    },
    Codec {
        name: "bzip2",
        suffix: ".bz2",
        tool: &["bzip2", "-1", "-c"],
    },
    Codec {
        name: "gzip",
        suffix: "",
        tool: &["gzip", "-1", "-c"],
    },
    Codec {
        name: "zstd",
        suffix: ".zst",
        tool: &["zstd", "-q", "-c"],
    },
    Codec {
        name: "br",
        suffix: ".br",
        tool: &["brotli", "-q", "3", "-w", "22", "-c"],
    },
    Codec {
        name: "lzip",
        suffix: ".lzip",
        tool: &["lzip", "-1", "-c"],
    },
    Codec {
        name: "lz4",
        suffix: ".lz4",
        tool: &["lz4", "-q", "-c"],
    },
];

impl Codec {
    pub fn named(name: &str) -> &'static Codec {
        CODECS
            .iter()
            .find(|codec| codec.name == name)
            .expect("one of CODECS")
    }

    /// `bytes`, compressed.
    pub fn compress(&self, bytes: &[u8]) -> Vec<u8> {
        pipe(self.tool, bytes)
    }

    /// The output of a shell command, compressed: for bombs that nobody wants in memory.
    pub fn compress_output_of(&self, command: &str) -> Vec<u8> {
        let script = format!("{command} | {}", self.tool.join(" "));
        let output = Command::new("bash")
            .args(["-c", &script])
            .output()
            .expect("bash runs");
        assert!(
            !output.stdout.is_empty(),
            "{script}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }
}

/// What a filter makes of `bytes`.
pub fn pipe(filter: &[&str], bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new(filter[0])
        .args(&filter[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run: make test-setup", filter[0]));
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes));
        child.wait_with_output().expect("a filter ends")
    });
    assert!(output.status.success(), "{filter:?}: {}", output.status);
    output.stdout
}
