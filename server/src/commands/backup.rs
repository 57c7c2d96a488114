//! `snowcached backup`: a copy of the data folder, and the proof that it is one.

use super::show::{Progress, size};
use super::{BackupArgs, exit, say, say_json};
use crate::lock::DataLock;
use serde_json::json;
use snowcache_depot::backup::{MANIFEST, backup, verify};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// Carries it out.
pub fn run(data: &Path, args: &BackupArgs) -> Result<ExitCode, Box<dyn Error>> {
    if args.verify {
        return prove(args);
    }
    let mut progress = Progress::new("copying");
    // Nobody serves from a backup, or makes another one there, while it is written.
    let lock = match args.target.join(MANIFEST).exists() {
        true => Some(DataLock::take(&args.target)?),
        false => None,
    };
    let done = backup(data, &args.target, &mut |done, all| {
        progress.bytes(done, all)
    });
    progress.clear();
    drop(lock);
    let done = done?;
    if args.json {
        say_json(&json!({ "summary": done }))?;
    } else {
        say(&format!(
            "{}: {} in {} segments ({} copied now), {} other files",
            args.target.display(),
            size(done.bytes),
            done.segments,
            size(done.copied_bytes),
            done.files
        ))?;
    }
    if done.damaged > 0 {
        eprintln!(
            "snowcached: the depot is damaged in {} places, which were copied as they are: run \
             snowcache scrub, push again what it names, and back up again",
            done.damaged
        );
    }
    Ok(exit(done.damaged == 0))
}

fn prove(args: &BackupArgs) -> Result<ExitCode, Box<dyn Error>> {
    let mut progress = Progress::new("verifying");
    let verified = verify(&args.target, &mut |done, all| progress.bytes(done, all));
    progress.clear();
    let verified = verified?;
    let well = verified.problems.is_empty() && verified.damaged_at_copy == 0;
    if args.json {
        say_json(&json!({ "summary": verified }))?;
        return Ok(exit(well));
    }
    for problem in &verified.problems {
        say(&format!("WRONG  {problem}"))?;
    }
    if verified.damaged_at_copy > 0 {
        say(&format!(
            "WRONG  {} places were damaged already in the depot when they were copied",
            verified.damaged_at_copy
        ))?;
    }
    let verdict = if well { "all well" } else { "not well" };
    say(&format!(
        "{} in {} segments, {} other files: {verdict}",
        size(verified.bytes),
        verified.segments,
        verified.files
    ))?;
    Ok(exit(well))
}
