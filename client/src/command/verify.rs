//! `snowcache verify`: proves that a cache can give back what it says it has.
//!
//! ```text
//!   paths: those named, their closure, or all (page by page)
//!     -> check: narinfo -> NAR from its URL -> NarHash, NarSize, signatures, references  (N at
//! once)
//!     -> one line each, progress on a terminal, a summary, an exit code
//! ```
//!
//! Guarantees: every byte comes through the URL that a nix client would use. Memory: one page of
//! paths, and one chunk for each path under way. A path that fails does not stop the others; a
//! cache that no longer answers does.

mod check;
mod paths;
mod progress;
mod signatures;

use super::print_json;
use crate::cli::VerifyArgs;
use crate::failure::{Exit, Failure};
use crate::remote::Remote;
use crate::show;
use check::{Checked, Checker};
use futures::{StreamExt, TryStreamExt};
use progress::Progress;
use serde::Serialize;
use signatures::Trusted;
use std::sync::Arc;
use std::time::Instant;

#[derive(Default, Serialize)]
struct Summary {
    ok: bool,
    paths: usize,
    failed: usize,
    nar_size_bytes: u64,
    file_size_bytes: u64,
    signatures_checked: bool,
    seconds: f64,
}

#[derive(Serialize)]
struct End<'a> {
    summary: &'a Summary,
}

pub(super) async fn run(remote: &Remote, args: &VerifyArgs) -> Result<(), Failure> {
    let begin = Instant::now();
    if remote.cache_info().await?.is_none() {
        let url = remote.endpoint();
        return Err(Failure::failed(format!(
            "{url} is no binary cache: it has no nix-cache-info"
        )));
    }
    let trusted = Trusted::of(remote, &args.trusted_public_keys).await?;
    let mut summary = Summary {
        signatures_checked: trusted.is_some(),
        ..Summary::default()
    };
    let targets = paths::select(remote, args).await?;
    let progress = Progress::new(targets.expected, args.json || args.quiet);
    let checker = Arc::new(Checker::new(remote.clone(), trusted, progress.counter()));
    let checks = targets.stream.map_ok(|target| {
        let checker = checker.clone();
        let check = tokio::spawn(async move { checker.check(target).await });
        async move {
            check
                .await
                .map_err(|error| Failure::failed(format!("a check died: {error}")))?
        }
    });
    let mut checks = checks.try_buffered(usize::from(args.jobs)).boxed();
    while let Some(checked) = next(&mut checks, &progress).await? {
        summary.count(&checked);
        tell(&checked, args, &progress)?;
    }
    progress.clear();
    summary.seconds = begin.elapsed().as_secs_f64();
    summary.ok = summary.failed == 0;
    match args.json {
        true => print_json(&End { summary: &summary })?,
        false => super::print(&summary.text())?,
    }
    if summary.ok {
        Ok(())
    } else {
        Err(Failure::told(Exit::Failed))
    }
}

/// The next finished check; while there is none, the progress line is kept fresh.
async fn next<S>(checks: &mut S, progress: &Progress) -> Result<Option<Checked>, Failure>
where
    S: futures::Stream<Item = Result<Checked, Failure>> + Unpin,
{
    let mut tick = tokio::time::interval(progress::INTERVAL);
    loop {
        tokio::select! {
            checked = checks.try_next() => {
                if checked.is_err() {
                    progress.clear();
                }
                return checked;
            }
            _ = tick.tick() => progress.draw(),
        }
    }
}

fn tell(checked: &Checked, args: &VerifyArgs, progress: &Progress) -> Result<(), Failure> {
    progress.done(checked);
    if args.quiet && checked.problems.is_empty() {
        return Ok(());
    }
    progress.clear();
    match args.json {
        true => print_json(checked),
        false => super::print(&checked.text()),
    }
}

impl Summary {
    fn count(&mut self, checked: &Checked) {
        self.paths += 1;
        self.failed += usize::from(!checked.ok);
        self.nar_size_bytes = self.nar_size_bytes.saturating_add(checked.nar_size_bytes);
        self.file_size_bytes = self.file_size_bytes.saturating_add(checked.file_size_bytes);
    }

    fn text(&self) -> String {
        let (paths, nars) = (show::paths(self.paths), show::size(self.nar_size_bytes));
        let signatures = match self.signatures_checked {
            true => "signatures checked",
            false => "signatures NOT checked (give --trusted-public-keys)",
        };
        let rate = show::size((self.nar_size_bytes as f64 / self.seconds.max(0.001)) as u64);
        let seconds = self.seconds;
        let outcome = match self.failed {
            0 => "all well".to_owned(),
            1 => "1 FAILED".to_owned(),
            failed => format!("{} FAILED", show::count(failed as u64)),
        };
        format!("{paths}, {nars} in {seconds:.1} s ({rate}/s), {signatures}: {outcome}\n")
    }
}
