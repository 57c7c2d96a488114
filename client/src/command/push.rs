//! `snowcache push`: closures of the local store, to the cache.
//!
//! Guarantees: each path that the cache lacked is told of, with why where it failed; the exit code
//! is 0 only when the cache has all of the closures now. A path that it has with other bytes is
//! there: who pushes later, or loses a race, is told so, and does not fail.

mod progress;

use super::{denied, print_json};
use crate::cli::PushArgs;
use crate::failure::{Exit, Failure};
use crate::push::{self, Fate, LocalPath, Options, Plan, Pushed, StoreError};
use crate::remote::Remote;
use crate::show;
use progress::Progress;
use serde::Serialize;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A list of paths on stdin: a million of them.
const MAX_STDIN_BYTES: u64 = 128 << 20;

#[derive(Serialize)]
struct Line<'a> {
    path: String,
    nar_size: u64,
    /// `pushed`, `conflict` or `failed`; of a dry run `missing`, `upstream` or `there`.
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Summary {
    paths: usize,
    already_there: usize,
    /// Paths that an upstream of the cache signed.
    upstream: usize,
    pushed: usize,
    /// Paths that the cache got meanwhile, with other bytes, which stay.
    conflicts: usize,
    failed: usize,
    /// NAR bytes of what was missing.
    nar_size: u64,
    sent_bytes: u64,
    sent_frames: u64,
    known_frames: u64,
    seconds: f64,
    dry_run: bool,
    ok: bool,
}

#[derive(Serialize)]
struct End<'a> {
    summary: &'a Summary,
}

/// Runs it.
///
/// # Errors
/// When something could not be pushed.
pub async fn run(remote: &Remote, args: &PushArgs) -> Result<(), Failure> {
    let begin = Instant::now();
    let roots = roots(args)?;
    let paths = tokio::task::spawn_blocking(move || push::closure(&roots)).await;
    let paths = paths
        .map_err(Failure::failed)?
        .map_err(|error| match error {
            StoreError::NotAPath(..) => Failure::usage(error),
            error => Failure::failed(error),
        })?;
    let mut summary = Summary {
        paths: paths.len(),
        dry_run: args.dry_run,
        ..Summary::default()
    };
    let options = Options {
        lanes: args.jobs.map_or(Options::default().lanes, usize::from),
        whole: args.whole,
        ..Options::default()
    };
    let plan = Plan::make(remote, paths, options).await?;
    (summary.already_there, summary.nar_size) = (plan.there.len(), plan.nar_size_bytes());
    summary.upstream = plan.upstream.len();
    if args.dry_run {
        tell_plan(args, &plan)?;
    } else if !plan.missing.is_empty() {
        send(remote, args, options, plan, &mut summary).await?;
    }
    summary.seconds = begin.elapsed().as_secs_f64();
    summary.ok = summary.failed == 0;
    match args.json {
        true => print_json(&End { summary: &summary })?,
        false => super::print(&summary.text())?,
    }
    match summary.ok {
        true => Ok(()),
        false => Err(Failure::told(Exit::Failed)),
    }
}

async fn send(
    remote: &Remote,
    args: &PushArgs,
    options: Options,
    plan: Plan,
    summary: &mut Summary,
) -> Result<(), Failure> {
    let counts = Arc::new(Pushed::default());
    let progress = Progress::new(plan.nar_size_bytes(), args.json || args.quiet, &counts);
    let mut told = Ok(());
    let mut heard = |path: &LocalPath, fate: &Fate| {
        progress.clear();
        let (outcome, why) = match fate {
            Fate::Pushed => ("pushed", None),
            Fate::Conflict(why) => ("conflict", Some(why.as_str())),
            Fate::Failed(why) => ("failed", Some(why.as_str())),
        };
        summary.pushed += usize::from(*fate == Fate::Pushed);
        summary.conflicts += usize::from(matches!(fate, Fate::Conflict(_)));
        summary.failed += usize::from(matches!(fate, Fate::Failed(_)));
        if told.is_ok() && !(args.quiet && *fate == Fate::Pushed) {
            told = tell(args, path, outcome, why);
        }
    };
    let pushed = push::push(remote, plan, options, counts.clone(), &mut heard);
    let pushed = progress.over(pushed).await;
    progress.clear();
    pushed.map_err(|error| denied(error, "push.token"))?;
    told?;
    summary.sent_bytes = counts.sent_bytes.load(Ordering::Relaxed);
    summary.sent_frames = counts.sent_frames.load(Ordering::Relaxed);
    summary.known_frames = counts.known_frames.load(Ordering::Relaxed);
    Ok(())
}

/// What would be pushed, and what not, and why.
fn tell_plan(args: &PushArgs, plan: &Plan) -> Result<(), Failure> {
    for path in &plan.missing {
        tell(args, path, "missing", None)?;
    }
    for (path, key) in &plan.upstream {
        tell(args, path, "upstream", Some(&format!("signed by {key}")))?;
    }
    // For a person those are too many.
    for path in plan.there.iter().filter(|_| args.json) {
        tell(args, path, "there", Some("the cache has it"))?;
    }
    Ok(())
}

/// The paths of the command line, and of stdin where it says `-`.
fn roots(args: &PushArgs) -> Result<Vec<String>, Failure> {
    let mut roots = Vec::new();
    for path in &args.paths {
        if path != "-" {
            roots.push(path.clone());
            continue;
        }
        let mut text = String::new();
        let read = std::io::stdin()
            .take(MAX_STDIN_BYTES)
            .read_to_string(&mut text);
        read.map_err(|error| Failure::usage(format!("stdin cannot be read: {error}")))?;
        match text.trim_start().starts_with('[') {
            true => roots.extend(push::roots_of_json(&text).map_err(Failure::usage)?),
            false => roots.extend(text.split_whitespace().map(str::to_owned)),
        }
    }
    match roots.is_empty() {
        true => Err(Failure::usage(
            "there is nothing to push: stdin names no path",
        )),
        false => Ok(roots),
    }
}

fn tell(
    args: &PushArgs,
    path: &LocalPath,
    outcome: &str,
    why: Option<&str>,
) -> Result<(), Failure> {
    let (path, nar_size) = (path.info.store_path.absolute(), path.info.nar_size);
    if args.json {
        return print_json(&Line {
            path,
            nar_size,
            outcome,
            why,
        });
    }
    let outcome = match outcome {
        "conflict" | "failed" => outcome.to_uppercase(),
        _ => outcome.to_owned(),
    };
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    super::print(&format!(
        "{outcome:<9}{:>11}  {path}{why}\n",
        show::size(nar_size)
    ))
}

impl Summary {
    fn text(&self) -> String {
        let missing = self.paths - self.already_there - self.upstream;
        let (paths, nars) = (show::paths(missing), show::size(self.nar_size));
        let there = show::count(self.already_there as u64);
        let upstream = match self.upstream {
            0 => String::new(),
            count => format!(", {} at upstreams", show::count(count as u64)),
        };
        if self.dry_run {
            return format!("{paths} to push, {nars} of NARs; {there} there already{upstream}\n");
        }
        let (pushed, sent) = (show::paths(self.pushed), show::size(self.sent_bytes));
        let seconds = self.seconds;
        let told = |count: usize, what: &str| match count {
            0 => String::new(),
            count => format!("; {} {what}", show::count(count as u64)),
        };
        let failed = told(self.failed, "FAILED");
        let conflicts = told(self.conflicts, "there with other bytes");
        format!(
            "{pushed} pushed, {nars} of NARs in {seconds:.1} s, {sent} sent; {there} there \
             already{upstream}{conflicts}{failed}\n"
        )
    }
}
