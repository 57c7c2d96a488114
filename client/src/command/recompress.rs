//! `snowcache recompress`: lets the cache compress harder what nobody asks for, and shows how far
//! it is.
//!
//! Guarantees: ends well only when the cache said that it went through all that was due.

use super::following::{Work, follow};
use crate::cli::RecompressArgs;
use crate::failure::{Exit, Failure};
use crate::remote::Remote;
use crate::show;
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// What it came to, or how far it is.
#[derive(Debug, Deserialize)]
struct Done {
    nars: u64,
    nars_done: u64,
    nars_changed: u64,
    before_bytes: u64,
    after_bytes: u64,
    no_room: bool,
    stopped: bool,
    seconds: f64,
}

pub(super) async fn run(remote: &Remote, args: &RecompressArgs) -> Result<(), Failure> {
    let question = json!({ "rate_bytes_per_s": args.rate_bytes_per_s });
    let work = Work {
        route: "api/v1/recompress",
        noun: "recompression",
        json: args.json,
        found: |_| None,
        progress: |line| Some(Done::deserialize(line).ok()?.progress()),
    };
    let summary = follow(remote, &question, work, Done::text).await?;
    match summary.no_room || summary.stopped {
        true => Err(Failure::told(Exit::Failed)),
        false => Ok(()),
    }
}

impl Done {
    fn progress(&self) -> String {
        format!(
            "{} of {} NARs, {} of frames are {} now",
            show::count(self.nars_done),
            show::count(self.nars),
            show::size(self.before_bytes),
            show::size(self.after_bytes)
        )
    }

    fn text(&self) -> String {
        let took = show::span(Duration::from_secs_f64(self.seconds.max(0.0)));
        let mut text = match self.nars {
            0 => "nothing is due".to_owned(),
            _ => format!(
                "{} of {} NARs in {took}, {} of frames are {} now; {} have a new URL",
                show::count(self.nars_done),
                show::count(self.nars),
                show::size(self.before_bytes),
                show::size(self.after_bytes),
                show::count(self.nars_changed)
            ),
        };
        if self.no_room {
            text += "; ended early: the rest of the room is for uploads";
        }
        if self.stopped {
            text += "; stopped before its end";
        }
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_was_saved_and_what_is_left() {
        let mut summary = json!({"nars": 0, "nars_done": 0, "nars_changed": 0, "frames": 0,
            "before_bytes": 0, "after_bytes": 0, "no_room": false, "stopped": false,
            "seconds": 3.0});
        let text = |summary: &serde_json::Value| {
            let done: Done = serde_json::from_value(summary.clone()).expect("a summary");
            done.text()
        };
        assert_eq!(text(&summary), "nothing is due\n");
        for (key, value) in [
            ("nars", 7),
            ("nars_done", 5),
            ("nars_changed", 4),
            ("before_bytes", 4 << 20),
            ("after_bytes", 3 << 20),
        ] {
            summary[key] = json!(value);
        }
        summary["no_room"] = json!(true);
        assert_eq!(
            text(&summary),
            "5 of 7 NARs in 3 s, 4.0 MiB of frames are 3.0 MiB now; 4 have a new URL; ended early: \
             the rest of the room is for uploads\n"
        );
    }
}
