//! `snowcached recover`: the index made anew from the segments alone.

use super::show::{Progress, size};
use super::{RecoverArgs, exit, fsck, say, say_json};
use serde_json::json;
use snowcache_depot::check::{Recovering, recover};
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;

/// Carries it out.
pub fn run(data: &Path, args: &RecoverArgs) -> Result<ExitCode, Box<dyn Error>> {
    let _lock = fsck::take(data)?;
    let mut progress = Progress::new("reading");
    let mut lost = Vec::new();
    let recovered = recover(data, &mut |told| match told {
        Recovering::Progress(done, all) => progress.bytes(done, all),
        Recovering::Lost(sentence) => lost.push(sentence),
    });
    progress.clear();
    let recovered = recovered?;
    for sentence in lost {
        match args.json {
            true => say_json(&json!({ "lost": sentence }))?,
            false => say(&format!("LOST     {sentence}"))?,
        }
    }
    match args.json {
        true => say_json(&json!({ "summary": recovered }))?,
        false => say(&format!(
            "{} in {} segments: {} paths, {} frames, {} documents, {} pins recovered, {} lost",
            size(recovered.bytes),
            recovered.segments,
            recovered.paths,
            recovered.frames,
            recovered.documents,
            recovered.pins,
            recovered.lost
        ))?,
    }
    Ok(exit(recovered.lost == 0))
}
