//! `snowcache scrub`: lets the cache read everything that it stores, and shows what is damaged.
//!
//! Guarantees: ends well only when the cache said that it read all of it and that all of it is
//! whole.

use super::following::{Work, follow};
use crate::cli::ScrubArgs;
use crate::failure::{Exit, Failure};
use crate::remote::Remote;
use crate::show;
use serde::Deserialize;
use serde_json::{Value, json};
use snowcache_nix::STORE_DIR;
use std::time::Duration;

/// What a scrub came to.
#[derive(Debug, Deserialize)]
struct Summary {
    segments: u64,
    bytes: u64,
    frames: u64,
    damaged: u64,
    sick_nars: u64,
    healed_nars: u64,
    rewritten_records: u64,
    lost_paths: u64,
    stopped: bool,
    seconds: f64,
}

/// How far a scrub is.
#[derive(Debug, Deserialize)]
struct Progress {
    bytes_done: u64,
    bytes: u64,
    damaged: u64,
}

pub(super) async fn run(remote: &Remote, args: &ScrubArgs) -> Result<(), Failure> {
    let question = json!({ "subset": args.subset, "rate_bytes_per_s": args.rate_bytes_per_s });
    let work = Work {
        route: "api/v1/scrub",
        noun: "scrub",
        json: args.json,
        found: damage,
        progress: |line| Some(Progress::deserialize(line).ok()?.text()),
    };
    let summary = follow(remote, &question, work, Summary::text).await?;
    match summary.damaged > 0 || summary.stopped {
        true => Err(Failure::told(Exit::Failed)),
        false => Ok(()),
    }
}

/// One line for something that is damaged, or lost by that.
fn damage(line: &Value) -> Option<String> {
    if let Some(path) = line["lost"].as_str() {
        return Some(format!("LOST     {STORE_DIR}/{path}: push it again\n"));
    }
    let damage = line.get("damage")?;
    let number = |key: &str| damage[key].as_u64().unwrap_or_default();
    let what = damage["what"].as_str().unwrap_or("something");
    Some(format!(
        "DAMAGED  segment {} at {}, {}: {what}\n",
        number("segment"),
        number("offset"),
        show::size(number("bytes"))
    ))
}

impl Progress {
    fn text(&self) -> String {
        let percent = self.bytes_done * 100 / self.bytes.max(1);
        let (done, all) = (show::size(self.bytes_done), show::size(self.bytes));
        format!(
            "{done} of {all} read, {percent} %, {} damaged",
            show::count(self.damaged)
        )
    }
}

impl Summary {
    fn text(&self) -> String {
        let rate = show::size((self.bytes as f64 / self.seconds.max(0.001)) as u64);
        let mut text = format!(
            "{} in {} segments, {} frames in {} ({rate}/s): ",
            show::size(self.bytes),
            show::count(self.segments),
            show::count(self.frames),
            show::span(Duration::from_secs_f64(self.seconds.max(0.0)))
        );
        text += &match (self.stopped, self.damaged) {
            (true, _) => "stopped before its end".to_owned(),
            (false, 0) => "all well".to_owned(),
            (false, damaged) => format!(
                "{} damaged, {} NARs of {} paths quarantined until they are pushed again, {} \
                 records rewritten",
                show::count(damaged),
                show::count(self.sick_nars),
                show::count(self.lost_paths),
                show::count(self.rewritten_records)
            ),
        };
        if self.healed_nars > 0 {
            text += &format!("; {} NARs healed", show::count(self.healed_nars));
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_a_line_and_the_summary_says_what_to_do() {
        let line =
            json!({"damage": {"segment": 3, "offset": 70, "bytes": 2048, "what": "frame ab"}});
        assert_eq!(
            damage(&line).expect("a line"),
            "DAMAGED  segment 3 at 70, 2.0 KiB: frame ab\n"
        );
        assert_eq!(damage(&json!({"progress": {}})), None);
        let mut summary = json!({"segments": 1, "bytes": 1 << 20, "frames": 9, "states": 1,
            "damaged": 0, "sick_nars": 0, "healed_nars": 0, "rewritten_records": 0,
            "lost_paths": 0, "stopped": false, "seconds": 1.0});
        let text = |summary: &Value| {
            let summary: Summary = serde_json::from_value(summary.clone()).expect("a summary");
            summary.text()
        };
        let counted = "1.0 MiB in 1 segments, 9 frames in 1 s (1.0 MiB/s): ";
        assert_eq!(text(&summary), format!("{counted}all well\n"));
        summary["damaged"] = json!(1);
        summary["sick_nars"] = json!(1);
        summary["lost_paths"] = json!(2);
        assert_eq!(
            damage(&json!({"lost": "hash-x"})).expect("a line"),
            "LOST     /nix/store/hash-x: push it again\n"
        );
        assert_eq!(
            text(&summary),
            format!(
                "{counted}1 damaged, 1 NARs of 2 paths quarantined until they are pushed again, 0 \
                 records rewritten\n"
            )
        );
    }
}
