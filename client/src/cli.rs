//! The command line: what can be said, and what `--help` tells about it.

mod agent;
mod cache;
mod keep;
mod push;
mod queue;
mod service;
mod token;
mod using;

pub use agent::{ConfirmArgs, GateArgs, NodeArgs, PrefetchArgs, SwitchArgs, WhyArgs};
pub use cache::{CacheCommand, CacheCreateArgs, CacheSetArgs, CacheSettings};
use clap::{Args, Parser, Subcommand};
pub use keep::{GcArgs, PinCommand, PinSetArgs, RmArgs};
pub use push::PushArgs;
pub use queue::{
    FlushArgs, HookArgs, PushingArgs, QueueCommand, RunArgs, SomeArgs, SpoolArgs, StatusArgs,
};
pub use service::{
    AgentArgs, AgentCommand, AgentStatusArgs, PinsArgs, ServeArgs, SocketArgs, WaitArgs,
};
use std::path::PathBuf;
pub use token::{Scope, TokenCommand, TokenCreateArgs, TokenRevokeArgs};
pub use using::UseArgs;

/// Look into a Nix binary cache, say what it keeps, prove that it holds what it says, and bring
/// closures from it to this node ahead of time.
#[derive(Debug, Parser)]
#[command(
    name = "snowcache",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "\
Examples:
  snowcache info
  snowcache --cache http://cache.example.org:8420 verify --all
  snowcache ls /nix/store/HASH-hello-2.12/bin
  snowcache --token-file push.token pin set web /nix/store/HASH-nixos-system-web --keep 5

Exit codes: 0 well, 1 not there or not verified, 2 wrong usage, 3 cache unreachable.")]
pub struct Cli {
    /// Which cache.
    #[command(flatten)]
    pub cache: CacheArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which cache, and who asks.
#[derive(Args, Clone, Debug)]
pub struct CacheArgs {
    /// The cache: `http(s)://HOST[:PORT][/NAME]` or `unix:SOCKET`
    #[arg(long, global = true, value_name = "URL", env = "SNOWCACHE_URL")]
    #[arg(default_value = "http://127.0.0.1:8420")]
    pub cache: String,
    /// A file with the token for caches that are not open; $SNOWCACHE_TOKEN is the token itself
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What the client can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make signing keys and look at them
    #[command(subcommand)]
    Key(KeyCommand),
    /// Show what a cache says of itself and how to use it
    #[command(after_help = "\
Examples:
  snowcache info
  snowcache info https://cache.nixos.org
  snowcache info --json | jq .latency_ms")]
    Info(InfoArgs),
    /// List the files of a store path without downloading it
    #[command(after_help = "\
Examples:
  snowcache ls /nix/store/HASH-hello-2.12
  snowcache ls HASH/share/doc -R
  snowcache ls HASH --json")]
    Ls(LsArgs),
    /// Show a closure: its paths, their sizes, and what the cache does not have of it
    #[command(after_help = "\
Examples:
  snowcache closure /nix/store/HASH-nixos-system
  snowcache closure HASH --json | jq -r '.missing[].path'

References come before what refers to them. The exit code is 1 when something is missing.")]
    Closure(ClosureArgs),
    /// Read paths back as a nix client would, and check every byte and signature
    #[command(after_help = "\
For each path: the narinfo is read and must be canonical and about this path; the NAR is read from
the URL that it names, unpacked, parsed, and hashed; NarHash, NarSize, FileSize, content address,
signatures and references are checked.

Examples:
  snowcache verify --all
  snowcache verify /nix/store/HASH-nixos-system --recursive
  snowcache verify --all --json | jq -c 'select(.ok == false)'
  snowcache verify HASH --trusted-public-keys 'cache.example.org-1:AbC...='

Exit codes: 0 all well, 1 something is wrong, 2 wrong usage, 3 cache unreachable.")]
    Verify(VerifyArgs),
    /// Push closures of the local store to the cache, sending only what it lacks
    #[command(after_help = push::HELP)]
    Push(PushArgs),
    /// Queue what nix has just built, as its post-build-hook: ends at once, whatever the cache does
    #[command(after_help = queue::HOOK_HELP)]
    Hook(HookArgs),
    /// Push what hooks have queued, say what waits, wait until it is there
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Queue what becomes valid in this machine's store, where nix cannot run a hook
    #[command(after_help = queue::WATCH_HELP)]
    WatchStore(SpoolArgs),
    /// Name what the cache must keep, with generations to go back to
    #[command(subcommand)]
    Pin(PinCommand),
    /// Make tokens for people and machines, list them, revoke them
    #[command(subcommand)]
    Token(TokenCommand),
    /// Make named caches on a server, each with keys, readers and writers of its own
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Have this machine's Nix use a cache: nix.conf and netrc, and both undone again
    #[command(after_help = using::HELP)]
    Use(UseArgs),
    /// Collect what nothing keeps, and say of each thing that goes why
    #[command(after_help = "\
A path stays while a pin keeps it, while something that stays refers to it, and for
retention.grace_s after it was last put or asked for. Beyond that it goes when it is older than
retention.max_age_s, or when the depot is nearly full, what was not asked for the longest first.
The server also collects by itself, every retention.gc_interval_s.

Examples:
  snowcache --token-file /var/lib/snowcache/admin.token gc --dry-run
  snowcache --token-file /var/lib/snowcache/admin.token gc --json | jq .summary

Takes the admin token. A collection that has begun goes on when this command is ended.
Exit codes: 0 collected, 1 not (another one is running, say), 2 wrong usage, 3 cache unreachable.")]
    Gc(GcArgs),
    /// Remove paths now, as far as nothing that stays needs them
    #[command(after_help = "\
What a pin keeps, or what a path refers to that is not removed with it, is kept, and it is said
why. The space comes back with the next collections.

Examples:
  snowcache --token-file /var/lib/snowcache/admin.token rm /nix/store/HASH-leaked-secret
  snowcache --token-file /var/lib/snowcache/admin.token rm --dry-run HASH HASH

Takes the admin token. Exit codes: 0 all removed, 1 some kept or not there, 2 wrong usage,
3 cache unreachable.")]
    Rm(RmArgs),
    /// Let the cache read everything that it stores, and show what is damaged
    #[command(after_help = "\
Every stored byte is read, every frame unpacked and hashed. Paths whose NAR is damaged answer as if
they were not there, so that nix takes them from elsewhere, until they are pushed again.

Examples:
  snowcache --token-file /var/lib/snowcache/admin.token scrub
  snowcache --token-file /var/lib/snowcache/admin.token scrub --subset 1/7
  snowcache --token-file /var/lib/snowcache/admin.token scrub --json | jq -c .damage

Takes the admin token. A scrub ends with this command.
Exit codes: 0 all well, 1 damage found or not all read, 2 wrong usage, 3 cache unreachable.")]
    Scrub(ScrubArgs),
    /// Let the cache compress harder what nobody asks for, and show how far it is
    #[command(after_help = "\
Paths that were neither put nor asked for in recompression.min_idle_s are compressed anew, at the
level recompression.level. Their NARs get new URLs; the former ones stay readable as long as clients
may remember them, and the space comes back with the collections after that. The server also does
it by itself, every recompression.interval_s.

Examples:
  snowcache --token-file /var/lib/snowcache/admin.token recompress
  snowcache --token-file /var/lib/snowcache/admin.token recompress --rate-bytes-per-s 8388608
  snowcache --token-file /var/lib/snowcache/admin.token recompress --json | jq .summary

Takes the admin token. A recompression ends with this command, and what is done stays.
Exit codes: 0 all that was due, 1 not all, or another one is running, 2 wrong usage, 3 cache
unreachable.")]
    Recompress(RecompressArgs),
    /// Bring closures to this node ahead of time: local, verified, pinned, or a reason why not
    #[command(after_help = "\
Everything goes through the nix-daemon: only paths that are not valid yet are fetched, several at a
time; each is parsed, hashed and checked against signatures that this machine trusts before it is
completed. The roots are kept from being collected by a pin. Run it again to resume.

Examples:
  snowcache prefetch /nix/store/HASH-nixos-system --from http://cache.example.org:8420
  snowcache prefetch HASH --pin system --from http://first:8420 --from https://cache.nixos.org
  snowcache prefetch HASH --json | jq -c .summary
  snowcache prefetch HASH --deadline 600 --priority 5

Where an agent runs, it does the work, asks its own caches if none are named, and goes on when this
command is interrupted; --foreground does it here.

Exit codes: 0 ready, 1 not (it is said why), 2 wrong usage, 3 cache or nix-daemon unreachable.")]
    Prefetch(PrefetchArgs),
    /// Bring closures to this node as a service, and tell the one that runs what to do
    #[command(after_help = service::AGENT_HELP)]
    Agent(AgentArgs),
    /// Show what the agent of this node does, and what it was asked for
    #[command(after_help = "\
Examples:
  snowcache status --watch
  snowcache status --json | jq '.jobs[] | select(.state == \"waiting\") | .why'

Exit codes: 0 shown, 2 wrong usage, 3 no agent answers.")]
    Status(AgentStatusArgs),
    /// Wait until a closure is ready on this node
    #[command(after_help = service::WAIT_HELP)]
    Wait(WaitArgs),
    /// Show what this node keeps under which name, and which pins of caches its agent follows
    Pins(PinsArgs),
    /// Let only what is ready pass: ends with 0 when this node's receipt for a root holds
    #[command(after_help = "\
A receipt is written by prefetch, signed by this node's key. It is void when a path of the closure
is gone, was changed or replaced, when the root is not valid, or a key is not trusted any more.
No network; the cache may be dead.

Example:
  snowcache gate $SYSTEM && $SYSTEM/bin/switch-to-configuration switch

Exit codes: 0 ready, 1 not (it is said why), 2 wrong usage, 3 nix-daemon unreachable.")]
    Gate(GateArgs),
    /// Say whether a root is ready on this node, since when and by whose word, or why it is not
    #[command(after_help = "\
Examples:
  snowcache why /nix/store/HASH-nixos-system
  snowcache why /nix/var/nix/profiles/system --json | jq .why

Exit codes: 0 ready, 1 not, 2 wrong usage, 3 nix-daemon unreachable.")]
    Why(WhyArgs),
    /// Switch this node to a system that is ready, and go back when that fails
    #[command(after_help = "\
As nixos-rebuild does, but fetching nothing: the gate, the next generation of the profile (not with
--mode test), ROOT/bin/switch-to-configuration MODE, the health check. When one of the last two
fails, the generation before is set again and configures itself.

Examples:
  snowcache switch /nix/store/HASH-nixos-system
  snowcache switch /nix/store/HASH-nixos-system --mode boot
  snowcache switch /nix/store/HASH-nixos-system --health 'systemctl is-active --quiet sshd'
  snowcache switch /nix/store/HASH-nixos-system --control-plane tcp:deploy.example.org:22
  snowcache switch /nix/store/HASH-nixos-system --control-plane http://cache.example.org:8420 \
    --confirm-within 120 --watch-for 1800

With --watch-for it ends that much later: until then the node goes back as soon as the control plane
was not reached for as long as --confirm-within says.

With --mode boot the health check and the control plane decide after the reboot: `snowcache confirm
--decide`, which snowcache-confirm.service runs. It also sees to a switch whose command was killed.

Exit codes: 0 switched, 1 not (it is said why, and what is running now), 2 wrong usage,
3 nix-daemon unreachable.")]
    Switch(SwitchArgs),
    /// Say that this node was reached after a switch, or decide about one that was left
    #[command(after_help = "\
Examples:
  ssh NODE snowcache confirm        the control plane's word, for `switch --confirm-within 60`
  snowcache confirm --decide        what snowcache-confirm.service runs at boot

Exit codes: 0 confirmed, or nothing to decide; 1 gone back, or nothing to confirm; 2 wrong usage.")]
    Confirm(ConfirmArgs),
}

/// Signing keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a secret key, write it to a file that only you can read, print its public key
    #[command(after_help = "\
Examples:
  snowcache key generate --name cache.example.org-1
  snowcache key generate --name ci-1 --out /etc/nix/ci-1.sec > /etc/nix/ci-1.pub")]
    Generate {
        /// The key's name, usually the cache's host name and a number: cache.example.org-1
        #[arg(long)]
        name: String,
        /// Where to write the secret key [default: NAME.sec]; an existing file is never replaced
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Print the public key that belongs to a secret key file, never the secret
    #[command(after_help = "\
Example:
  snowcache key show var/keys/cache.example.org-1.sec")]
    Show {
        /// The secret key file
        file: PathBuf,
    },
}

/// `snowcache info`
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// The cache, instead of --cache
    pub url: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `snowcache ls`
#[derive(Args, Debug)]
pub struct LsArgs {
    /// A store path or its hash part, and perhaps a file or folder in it
    #[arg(value_name = "STORE-PATH|HASH[/SUB/PATH]")]
    pub path: String,
    /// Go into folders
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Show a folder itself, not what is in it
    #[arg(short, long)]
    pub directory: bool,
    /// Print the listing as JSON, as `nix store ls --json` does
    #[arg(long)]
    pub json: bool,
}

/// `snowcache closure`
#[derive(Args, Debug)]
pub struct ClosureArgs {
    /// Store paths or their hash parts
    #[arg(required = true, value_name = "STORE-PATH|HASH")]
    pub paths: Vec<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `snowcache verify`
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// Store paths or their hash parts
    #[arg(
        required_unless_present = "all",
        conflicts_with = "all",
        value_name = "STORE-PATH|HASH"
    )]
    pub paths: Vec<String>,
    /// Every path that the cache has (snowcache only)
    #[arg(long)]
    pub all: bool,
    /// Also everything in their closures
    #[arg(short, long, conflicts_with = "all")]
    pub recursive: bool,
    /// Keys of which one must have signed each path [default: those that the cache shows]
    #[arg(long, value_name = "KEYS", value_delimiter = ' ')]
    pub trusted_public_keys: Vec<String>,
    /// How many paths are read at a time
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Print one JSON object a path, and at the end {"summary": ...}
    #[arg(long)]
    pub json: bool,
    /// Print only what is wrong, and the summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// `snowcache recompress`
#[derive(Args, Debug)]
pub struct RecompressArgs {
    /// Read at most so many bytes of stored frames a second [default: as fast as it goes]
    #[arg(long, value_name = "BYTES")]
    pub rate_bytes_per_s: Option<u64>,
    /// Print one JSON object a line, at the end {"summary": ...}
    #[arg(long)]
    pub json: bool,
}

/// `snowcache scrub`
#[derive(Args, Debug)]
pub struct ScrubArgs {
    /// Only part N of T: all parts together are everything
    #[arg(long, value_name = "N/T")]
    pub subset: Option<String>,
    /// Read at most so many bytes a second [default: as fast as it goes]
    #[arg(long, value_name = "BYTES")]
    pub rate_bytes_per_s: Option<u64>,
    /// Print one JSON object a line, at the end {"summary": ...}
    #[arg(long)]
    pub json: bool,
}
