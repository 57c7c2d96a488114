//! The independent reader, tests/reader/snowread.py, and records made by hand for it.

use std::path::Path;
use std::process::Command;

/// What the reader said.
pub struct Read {
    pub code: i32,
    pub printed: Vec<u8>,
    pub complaints: String,
}

/// Runs the reader over the segments of a depot.
pub fn snowread(segments: &Path, arguments: &[&str]) -> Read {
    let output = Command::new("python3")
        .arg(super::root().join("tests/reader/snowread.py"))
        .arg(segments)
        .args(arguments)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .expect("python3 runs");
    Read {
        code: output.status.code().unwrap_or(-1),
        printed: output.stdout,
        complaints: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Read {
    /// It found nothing wrong: what it printed.
    #[track_caller]
    pub fn well(self) -> Vec<u8> {
        assert_eq!(self.code, 0, "{}", self.complaints);
        self.printed
    }

    /// It found something wrong, but went on: what it printed, and what it complained of.
    #[track_caller]
    pub fn unwell(self) -> (Vec<u8>, String) {
        assert_eq!(self.code, 1, "{}", self.complaints);
        assert!(
            !self.complaints.contains("Traceback"),
            "{}",
            self.complaints
        );
        (self.printed, self.complaints)
    }

    /// The first word of each line: of a list, the paths.
    #[track_caller]
    pub fn names(self) -> Vec<String> {
        let text = String::from_utf8(self.well()).expect("text");
        let word = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        text.lines().map(word).collect()
    }
}

/// A state record as docs/format has it, ending a commit.
pub fn state_record(kind: u8, version: u8, sequence: u64, payload: &[u8]) -> Vec<u8> {
    let mut record = 0x184D_2A58_u32.to_le_bytes().to_vec();
    record.extend((24 + payload.len() as u32).to_le_bytes());
    record.extend([kind, version, 1, 0]);
    record.extend(sequence.to_le_bytes());
    record.extend(&blake3::hash(payload).as_bytes()[..8]);
    record.extend(crc32c::crc32c(&record).to_le_bytes());
    record.extend(payload);
    record
}
