//! `snowcache push` on the command line.

use clap::Args;

/// Below `snowcache push --help`.
pub(super) const HELP: &str = "\
What the cache lacks of the closures is packed, cut where rebuilds share, and of the pieces only
those are sent that the cache does not have. Paths appear references first. Broken off anywhere, the
next push goes on where this one ended. Left out is what an upstream of the cache signed, mostly
cache.nixos.org: readers ask that one, too. --dry-run --json tells of each path why it stays here.

Examples:
  snowcache --token-file push.token push --to https://cache.example.org ./result
  snowcache push --dry-run /run/current-system
  nix build --json .#hello | snowcache --token-file push.token push -

Takes the push token. Exit codes: 0 all there, 1 something could not be pushed, 2 wrong usage,
3 cache unreachable.";

/// `snowcache push`
#[derive(Args, Debug)]
pub struct PushArgs {
    /// Store paths, or links to them; `-`: from stdin, one a line or what nix build --json prints
    #[arg(required = true, value_name = "PATH|-")]
    pub paths: Vec<String>,
    /// The cache, instead of --cache
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Say what would be pushed, and push nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Push also what upstreams of the cache signed, so that it has the closures whole
    #[arg(short, long)]
    pub whole: bool,
    /// NARs packed at once, 25 MiB each [default: two more than cores, at most 16]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: Option<u16>,
    /// Print one JSON object a path, and at the end {"summary": ...}
    #[arg(long)]
    pub json: bool,
    /// Print only what fails, and the summary
    #[arg(short, long)]
    pub quiet: bool,
}
