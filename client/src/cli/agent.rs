//! What can be said about this node: bringing closures here ahead of time.

use super::SocketArgs;
use crate::node::check_pin;
use crate::rate::{BytesPerSecond, size};
use crate::trial::SwitchMode;
use clap::Args;
use std::path::PathBuf;

/// `snowcache prefetch`
#[derive(Args, Debug)]
pub struct PrefetchArgs {
    /// Store paths or their hash parts
    #[arg(required = true, value_name = "STORE-PATH|HASH")]
    pub roots: Vec<String>,
    /// A cache to fetch from, any binary cache; several are asked in this order [default: --cache]
    #[arg(long, value_name = "URL")]
    pub from: Vec<String>,
    /// What keeps the roots from being collected; keeps what was prefetched last under this name
    #[arg(long, value_name = "NAME", default_value = "prefetched", value_parser = check_pin)]
    pub pin: String,
    /// Keys of which one must have signed each path [default: those of this machine's nix.conf]
    #[arg(long, value_name = "KEYS", value_delimiter = ' ')]
    pub trusted_public_keys: Vec<String>,
    /// How many paths are fetched at a time; of those below 256 KiB packed and 1 MiB
    /// unpacked four times as many
    #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// What may be received a second: 50MB/s, 800KiB/s
    #[arg(long, value_name = "RATE", default_value = "unlimited")]
    pub rate: BytesPerSecond,
    /// What may be kept on disk of paths under way, so that whoever is killed fetches only the rest
    /// of them: 500MB, 2GiB; 0: nothing
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = size)]
    pub spool: u64,
    /// Seconds until which it must be ready: until then whatever fails is tried again, and the
    /// agent waited for
    #[arg(long, value_name = "SECONDS")]
    pub deadline: Option<u64>,
    /// What has a higher one goes first, and breaks off what has a lower one (agent)
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub priority: i32,
    /// Do it here, also where an agent runs
    #[arg(long, conflicts_with_all = ["deadline", "priority"])]
    pub foreground: bool,
    /// Which agent.
    #[command(flatten)]
    pub agent: SocketArgs,
    /// Where this node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Print a JSON object a line for what happens, at the end {"summary": ...} or {"failure": ...}
    #[arg(long)]
    pub json: bool,
    /// Print only what is wrong
    #[arg(short, long)]
    pub quiet: bool,
}

/// `snowcache gate`
#[derive(Args, Debug)]
pub struct GateArgs {
    /// The store path, or a link to it
    #[arg(value_name = "STORE-PATH")]
    pub root: String,
    /// Keys that are trusted [default: those of this machine's nix.conf]
    #[arg(long, value_name = "KEYS", value_delimiter = ' ')]
    pub trusted_public_keys: Vec<String>,
    /// Where this node is.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// `snowcache why`
#[derive(Args, Debug)]
pub struct WhyArgs {
    /// What is asked about.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Which agent is asked how far it is.
    #[command(flatten)]
    pub agent: SocketArgs,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A month at most: what comes later nobody waits for.
fn seconds() -> clap::builder::RangedU64ValueParser {
    const MONTH_S: u64 = 31 * 24 * 3600;
    clap::value_parser!(u64).range(..=MONTH_S)
}

/// `snowcache switch`
#[derive(Args, Debug)]
pub struct SwitchArgs {
    /// What is switched to.
    #[command(flatten)]
    pub gate: GateArgs,
    /// Now and at boot; at boot only; now only
    #[arg(long, value_enum, default_value_t = SwitchMode::Switch)]
    pub mode: SwitchMode,
    /// The profile that gets the new generation
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/nix/var/nix/profiles/system"
    )]
    pub profile: PathBuf,
    /// A command of the shell that must succeed afterwards; otherwise it goes back
    #[arg(long, value_name = "COMMAND")]
    pub health: Option<String>,
    /// How long that may take, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub health_timeout_s: u64,
    /// Go back by itself unless the control plane is reached within so many seconds, or says
    /// `snowcache confirm` here [default: 120 with --control-plane, otherwise never]
    #[arg(long, value_name = "SECONDS", value_parser = seconds())]
    pub confirm_within: Option<u64>,
    /// Where the boot loader copies kernels to, which must have room for the new one unless it is
    /// of the store's file system; `none`: whatever it has
    #[arg(long, value_name = "FOLDER", default_value = crate::preflight::BOOT)]
    pub boot: PathBuf,
    /// Where the control plane is: a URL, which may answer anything, or tcp:HOST:PORT
    #[arg(long, value_name = "PLACE")]
    pub control_plane: Vec<String>,
    /// So many seconds more, go back when it is not reached for as long as --confirm-within says
    #[arg(long, value_name = "SECONDS", value_parser = seconds(), default_value_t = 0)]
    #[arg(requires = "control_plane")]
    pub watch_for: u64,
}

/// `snowcache confirm`
#[derive(Args, Debug)]
pub struct ConfirmArgs {
    /// Decide about a switch that was left, after a reboot say: confirm it or go back from it
    #[arg(long)]
    pub decide: bool,
    /// Where this node is.
    #[command(flatten)]
    pub node: NodeArgs,
}

/// Where this node's things are.
#[derive(Args, Debug)]
pub struct NodeArgs {
    /// The nix-daemon's socket
    #[arg(long, value_name = "SOCKET", env = "NIX_DAEMON_SOCKET_PATH")]
    #[arg(default_value = crate::store::DEFAULT_SOCKET)]
    pub store_socket: PathBuf,
    /// The folder of this node's pins [default: /var/lib/snowcache-agent for root, otherwise
    /// $XDG_STATE_HOME/snowcache-agent]
    #[arg(long, value_name = "FOLDER", env = "SNOWCACHE_STATE")]
    pub state: Option<PathBuf>,
}
