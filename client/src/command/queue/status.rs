//! `snowcache queue status`.

use crate::cli::StatusArgs;
use crate::failure::Failure;
use crate::queue::report::{Report, State, now_s};
use crate::show;
use crate::spool::{Failed, Spool, is_reigned};
use serde::Serialize;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Serialize)]
struct Status {
    /// Paths that wait.
    waiting: usize,
    /// When the oldest of them was queued, in seconds since 1970.
    oldest_since_s: Option<u64>,
    /// Those that are not tried any more.
    failed: Vec<Failed>,
    /// Whether a queue is at work.
    running: bool,
    /// What it does; of one that has ended, what it did last.
    queue: Option<State>,
}

/// Runs it.
///
/// # Errors
/// When the folder cannot be read.
pub fn run(args: &StatusArgs) -> Result<(), Failure> {
    let spool = super::spool(&args.spool)?;
    let waiting = spool.waiting().map_err(Failure::failed)?;
    let status = Status {
        waiting: waiting.len(),
        oldest_since_s: waiting.first().map(crate::spool::Entry::since_s),
        failed: spool.failed().map_err(Failure::failed)?,
        running: is_reigned(&spool),
        queue: Report::read(&spool),
    };
    match args.json {
        true => super::super::print_json(&status),
        false => super::super::print(&status.text(&spool)),
    }
}

impl Status {
    fn text(&self, spool: &Spool) -> String {
        const WHY: &str = "invariant: a String can be written to";
        let mut text = String::new();
        let since = |then_s: u64| show::span(Duration::from_secs(now_s().saturating_sub(then_s)));
        let oldest = self.oldest_since_s.map(since);
        let oldest = oldest.map_or_else(String::new, |it| format!(", the oldest for {it}"));
        writeln!(text, "waiting  {}{oldest}", show::paths(self.waiting)).expect(WHY);
        writeln!(text, "failed   {}", show::paths(self.failed.len())).expect(WHY);
        for Failed {
            path, why, held, ..
        } in &self.failed
        {
            let held = match held {
                true => " (kept for snowcache queue retry)",
                false => "",
            };
            writeln!(text, "         {path}: {why}{held}").expect(WHY);
        }
        match (&self.queue, self.running) {
            (Some(queue), true) => {
                writeln!(text, "queue    pid {}, to {}", queue.pid, queue.cache).expect(WHY);
                text += &queue_text(queue);
            }
            _ => {
                let folder = spool.folder().display();
                writeln!(text, "queue    none is at work on {folder}").expect(WHY);
            }
        }
        text
    }
}

fn queue_text(queue: &State) -> String {
    const WHY: &str = "invariant: a String can be written to";
    let mut text = String::new();
    let arrived = show::paths(usize::try_from(queue.arrived).unwrap_or(usize::MAX));
    let (pushed, sent) = (
        show::count(queue.pushed_paths),
        show::size(queue.sent_bytes),
    );
    let since = show::time(queue.since_s);
    writeln!(
        text,
        "since    {since}: {arrived} arrived, {pushed} published with what they need, {sent} sent"
    )
    .expect(WHY);
    if let Some(now) = &queue.now {
        let (done, all) = (show::size(now.packed_bytes), show::size(now.nar_size));
        let paths = show::paths(now.paths);
        writeln!(text, "now      {paths}, {done} of {all} of NARs").expect(WHY);
    }
    if let Some(trouble) = &queue.trouble {
        writeln!(text, "trouble  {trouble}").expect(WHY);
    }
    if let Some(next_s) = queue.next_try_s {
        let wait = Duration::from_secs(next_s.saturating_sub(now_s()));
        writeln!(text, "again    in {}", show::span(wait)).expect(WHY);
    }
    text
}
