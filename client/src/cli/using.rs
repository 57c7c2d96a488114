//! `snowcache use` on the command line.

use clap::Args;

/// Below `snowcache use --help`.
pub(super) const HELP: &str = "\
The cache and its keys go into nix.conf, beside what is there; the token, if there is one
(--token-file, $SNOWCACHE_TOKEN), into the netrc file that Nix reads, for its owner only. The same
again changes nothing; --undo takes out what was put in, and nothing else.

Examples:
  sudo snowcache use https://cache.example.org/docs
  sudo snowcache --token-file team-a.token use https://cache.example.org/team-a
  sudo snowcache use https://cache.example.org/team-a --undo
  snowcache --cache https://cache.example.org use docs --user

Root changes the machine's settings, others their own, which a nix-daemon follows for users that it
trusts only. Nix sends one token to a host: for two private caches of one server make one that is
good for both (snowcache token create --for-cache A --for-cache B).
Exit codes: 0 done, 1 not (it is said why), 2 wrong usage, 3 cache unreachable.";

/// `snowcache use`
#[derive(Args, Debug)]
pub struct UseArgs {
    /// The cache's URL, or the name of one of --cache [default: --cache itself]
    #[arg(value_name = "URL|NAME")]
    pub which: Option<String>,
    /// Take out what was put in
    #[arg(long)]
    pub undo: bool,
    /// This machine's settings: $NIX_CONF_DIR, or /etc/nix [default for root]
    #[arg(long, conflicts_with = "user")]
    pub system: bool,
    /// This user's: ~/.config/nix [default for others]
    #[arg(long)]
    pub user: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
