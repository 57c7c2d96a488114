//! `snowcache gc`: lets the cache collect what nothing keeps, and shows each removal with its
//! reason.
//!
//! Guarantees: ends well only when the cache said that the collection did.

use super::{denied, print, print_json};
use crate::cli::GcArgs;
use crate::failure::Failure;
use crate::remote::Remote;
use crate::show;
use serde::Deserialize;
use serde_json::Value;
use snowcache_nix::STORE_DIR;

/// What a collection came to.
#[derive(Debug, Deserialize)]
struct Summary {
    paths: u64,
    uploads: u64,
    nars: u64,
    segments_removed: u64,
    segments_rewritten: u64,
    freed_bytes: u64,
    /// Older servers do not say.
    #[serde(default)]
    gathered_bytes: u64,
    live_bytes: u64,
    stored_bytes: u64,
    dry_run: bool,
}

pub(super) async fn run(remote: &Remote, args: &GcArgs) -> Result<(), Failure> {
    let report = remote.collect(args.dry_run).await;
    let mut report = report.map_err(|error| denied(error, "admin.token"))?;
    let mut summary = None;
    while let Some(line) = report.next().await? {
        if let Some(error) = line["error"].as_str() {
            return Err(Failure::failed(format!("the collection failed: {error}")));
        }
        if line.get("progress").is_some() {
            continue;
        }
        if let Some(found) = line.get("summary") {
            summary = Some(found.clone());
        }
        match (args.json, finding(&line)) {
            (true, _) => print_json(&line)?,
            (false, Some(text)) => print(&text)?,
            (false, None) => {}
        }
    }
    let summary = summary.ok_or_else(|| {
        Failure::failed("the report ended before the collection did; the server's log says more")
    })?;
    if args.json {
        return Ok(());
    }
    let summary: Summary = serde_json::from_value(summary)
        .map_err(|error| Failure::failed(format!("the summary cannot be understood: {error}")))?;
    print(&summary.text())
}

/// One line for something that goes.
fn finding(line: &Value) -> Option<String> {
    let text = |key: &str| line[key].as_str().unwrap_or_default();
    let bytes = |key: &str| show::size(line[key].as_u64().unwrap_or_default());
    let (size, what) = match text("what") {
        "path" => (
            bytes("nar_size_bytes"),
            format!("{STORE_DIR}/{}", text("path")),
        ),
        "upload" => ("-".to_owned(), format!("upload {}", text("name"))),
        "nar" => (bytes("nar_size_bytes"), format!("NAR {}", text("nar_hash"))),
        "segment" => {
            let number = line["number"].as_u64().unwrap_or_default();
            let live = bytes("live_bytes");
            (bytes("bytes"), format!("segment {number} ({live} live)"))
        }
        _ => return None,
    };
    Some(format!("{size:>10}  {what}: {}\n", text("reason")))
}

impl Summary {
    fn text(&self) -> String {
        let (begins, freed) = match self.dry_run {
            true => ("would go: ", "would be freed"),
            false => ("gone: ", "freed"),
        };
        let counted = |count, one: &str| match count {
            1 => format!("1 {one}"),
            count => format!("{} {one}s", show::count(count)),
        };
        let gathered = match self.gathered_bytes {
            0 => String::new(),
            bytes => format!(", {} of pinned closures moved together", show::size(bytes)),
        };
        format!(
            "{begins}{}, {}, {}; {} removed, {} rewritten{gathered}; {} {freed}, {} of {} on disk \
             are live\n",
            counted(self.paths, "path"),
            counted(self.uploads, "upload"),
            counted(self.nars, "NAR"),
            counted(self.segments_removed, "segment"),
            show::count(self.segments_rewritten),
            show::size(self.freed_bytes),
            show::size(self.live_bytes),
            show::size(self.stored_bytes),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_thing_that_goes_is_a_line_with_its_reason() {
        let path = json!({"what": "path", "path": "hash-x", "nar_size_bytes": 2048,
            "reason": "no pin keeps it"});
        assert_eq!(
            finding(&path).expect("a line"),
            "   2.0 KiB  /nix/store/hash-x: no pin keeps it\n"
        );
        let segment = json!({"what": "segment", "number": 7, "bytes": 4096, "live_bytes": 0,
            "reason": "nothing in it is live"});
        assert_eq!(
            finding(&segment).expect("a line"),
            "   4.0 KiB  segment 7 (0 B live): nothing in it is live\n"
        );
        assert_eq!(finding(&json!({"what": "something newer"})), None);
    }

    #[test]
    fn a_summary_says_what_came_of_it() {
        let summary = json!({"paths": 1, "uploads": 0, "nars": 1200, "segments_removed": 1,
            "segments_rewritten": 2, "freed_bytes": 1 << 20, "gathered_bytes": 4096,
            "live_bytes": 1024, "stored_bytes": 2048, "dry_run": true});
        let summary: Summary = serde_json::from_value(summary).expect("a summary");
        assert_eq!(
            summary.text(),
            "would go: 1 path, 0 uploads, 1,200 NARs; 1 segment removed, 2 rewritten, \
             4.0 KiB of pinned closures moved together; 1.0 MiB would be freed, 1.0 KiB of 2.0 \
             KiB on disk are live\n"
        );
    }
}
