//! `snowcache hook` and `snowcache queue` on the command line.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Below `snowcache hook --help`.
pub(super) const HOOK_HELP: &str = "\
Nix runs a post-build-hook after each build and waits for it. This one writes to the disk which
paths are to be pushed, has Nix keep them until they are, and ends; `snowcache queue` pushes them.
Nix takes the name of a program only, so:

  printf '#!/bin/sh\\nexec /usr/local/bin/snowcache hook\\n' > /etc/nix/push-hook
  chmod +x /etc/nix/push-hook
  echo 'post-build-hook = /etc/nix/push-hook' >> /etc/nix/nix.conf

Exit codes: 0 queued; also 0, with a line on stderr, when it could not be done, since Nix would end
the whole build for it: see --strict. 2 wrong usage.";

/// Below `snowcache watch-store --help`.
pub(super) const WATCH_HELP: &str = "\
For users whom nix does not trust with a post-build-hook. It sees what is built, added and fetched;
what the cache has already is found to be there and not sent. Between the end of a build and its
being queued nix's collector may come first: where a hook can be had, it is better. Stopped and
started again, it queues what became valid meanwhile.

Example:
  snowcache watch-store & snowcache --cache https://cache.example.org queue run

Ends with 1 when the store cannot be watched or nothing can be queued.";

/// `snowcache hook`
#[derive(Args, Debug)]
pub struct HookArgs {
    /// Store paths [default: those in $OUT_PATHS, where nix puts what was built]
    #[arg(value_name = "STORE-PATH")]
    pub paths: Vec<String>,
    /// End with 1 when the paths could not be queued, so that the build fails
    #[arg(long)]
    pub strict: bool,
    /// Where to queue.
    #[command(flatten)]
    pub spool: SpoolArgs,
}

/// `snowcache queue`
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// Push what is queued and what comes, for ever: the service
    #[command(after_help = "\
What cannot be pushed is tried again, with growing waits of up to half a minute. A cache that is
away is waited for without end; a path that fails six times while others arrive is put aside, still
kept by Nix, and tried again by `snowcache queue retry`. Killed at any moment, it loses nothing.

Example:
  snowcache --cache https://cache.example.org --token-file push.token queue run

Takes the push token; the file is read again for each push. Exit codes: 0 ended by a signal,
1 another one serves this spool or it cannot be written, 2 wrong usage.")]
    Run(RunArgs),
    /// Say what waits, what failed and why, and what the queue does
    #[command(after_help = "\
Example:
  snowcache queue status --json | jq '.failed[] | .path + \": \" + .why'")]
    Status(StatusArgs),
    /// Try now what waits, and wait until it is there
    #[command(after_help = "\
With --wait, and when no `snowcache queue run` is at work, it pushes by itself: a CI job needs
nothing else at its end.

Examples:
  snowcache queue flush --wait --require-complete --timeout 600
  snowcache queue flush

Exit codes: 0 flushed; 1 with --require-complete: something is not there; 2 wrong usage.")]
    Flush(FlushArgs),
    /// Try again what failed
    Retry(SomeArgs),
    /// Push these no more, and let Nix collect them
    Forget(SomeArgs),
}

/// `snowcache queue run`
#[derive(Args, Debug)]
pub struct RunArgs {
    /// How to push.
    #[command(flatten)]
    pub pushing: PushingArgs,
    /// Where it is queued.
    #[command(flatten)]
    pub spool: SpoolArgs,
}

/// How to push.
#[derive(Args, Debug)]
pub struct PushingArgs {
    /// Push also what upstreams of the cache signed, so that it has the closures whole
    #[arg(short, long)]
    pub whole: bool,
    /// NARs packed at once, 25 MiB each [default: two more than cores, at most 16]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
    /// A file for Prometheus' node exporter (--collector.textfile.directory), written each second
    #[arg(long, value_name = "FILE")]
    pub metrics_file: Option<PathBuf>,
}

/// `snowcache queue status`
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where it is queued.
    #[command(flatten)]
    pub spool: SpoolArgs,
}

/// `snowcache queue flush`
#[derive(Args, Debug)]
pub struct FlushArgs {
    /// Wait until all that is queued now has arrived or failed
    #[arg(long)]
    pub wait: bool,
    /// End with 1 when something has failed, now or before, or is not there in time
    #[arg(long, requires = "wait")]
    pub require_complete: bool,
    /// How long to wait at most, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600, requires = "wait")]
    pub timeout: u64,
    /// How to push.
    #[command(flatten)]
    pub pushing: PushingArgs,
    /// Where it is queued.
    #[command(flatten)]
    pub spool: SpoolArgs,
}

/// `snowcache queue retry` and `forget`
#[derive(Args, Debug)]
pub struct SomeArgs {
    /// Which [default: all that failed]
    #[arg(value_name = "STORE-PATH")]
    pub paths: Vec<String>,
    /// Where it is queued.
    #[command(flatten)]
    pub spool: SpoolArgs,
}

/// Where it is queued.
#[derive(Args, Debug)]
pub struct SpoolArgs {
    /// The folder of the queue [default: /var/lib/snowcache-queue for root, otherwise
    /// $XDG_STATE_HOME/snowcache-queue]
    #[arg(long, value_name = "FOLDER", env = "SNOWCACHE_SPOOL")]
    pub spool: Option<PathBuf>,
}
