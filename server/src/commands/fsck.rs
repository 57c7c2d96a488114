//! `snowcached fsck`: everything in a data folder, proven or named.

use super::show::{Progress, size};
use super::{FsckArgs, exit, say, say_json};
use crate::lock::DataLock;
use serde_json::json;
use snowcache_depot::check::{Checked, Finding, check};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// Carries it out.
pub fn run(data: &Path, args: &FsckArgs) -> Result<ExitCode, Box<dyn Error>> {
    let _lock = take(data)?;
    let mut progress = Progress::new("reading");
    let mut failed = None;
    let checked = check(data, args.repair, &mut |finding| {
        let told = tell(&finding, args.json, &mut progress);
        failed = failed.take().or(told.err());
    });
    progress.clear();
    let checked = checked?;
    if let Some(error) = failed {
        return Err(error);
    }
    match args.json {
        true => say_json(&json!({ "summary": checked }))?,
        false => say(&text(&checked))?,
    }
    Ok(exit(checked.problems == 0))
}

/// The lock of a folder that is there: a mistyped one is not made.
pub fn take(data: &Path) -> Result<DataLock, Box<dyn Error>> {
    if !data.is_dir() {
        let data = data.display();
        return Err(format!("{data} is no data folder: name one with --data").into());
    }
    Ok(DataLock::take(data)?)
}

fn tell(finding: &Finding, json: bool, progress: &mut Progress) -> Result<(), Box<dyn Error>> {
    let (word, sentence) = match finding {
        Finding::Progress(done, all) => {
            progress.bytes(*done, *all);
            return Ok(());
        }
        _ if json => return say_json(finding),
        Finding::Problem(sentence) => ("PROBLEM", sentence),
        Finding::Note(sentence) => ("note", sentence),
        Finding::Repaired(sentence) => ("REPAIRED", sentence),
    };
    progress.clear();
    Ok(say(&format!("{word:<9}{sentence}"))?)
}

fn text(checked: &Checked) -> String {
    let formers = match checked.former_encodings {
        0 => String::new(),
        formers => format!(", {formers} former encodings"),
    };
    let mut text = format!(
        "{} in {} segments, {} frames, {} other records, {} paths{formers}: ",
        size(checked.bytes),
        checked.segments,
        checked.frames,
        checked.records,
        checked.paths
    );
    text += &match (checked.problems, checked.notes) {
        (0, 0) => "clean".to_owned(),
        (0, notes) => format!("clean, {notes} notes"),
        (problems, _) => format!("{problems} problems"),
    };
    if checked.repaired > 0 {
        text += &format!(", {} repaired", checked.repaired);
    }
    text
}
