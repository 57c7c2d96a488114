//! The agent on the command line: `agent`, `status`, `wait`, `pins`.

use super::NodeArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Below `snowcache agent --help`.
pub(super) const AGENT_HELP: &str = "\
It prefetches what it is asked for on its control socket, one closure after the other, and what the
pins point to that it follows; what fails is tried again. Killed at any moment, it goes on where it
was. `snowcache prefetch` hands its work to it.

Examples:
  snowcache agent --config /etc/snowcache/agent.toml
  snowcache agent rate 50MB/s
  snowcache agent cancel /nix/store/HASH-nixos-system

Exit codes: 0 ended by a signal, or carried out; 1 another one serves this folder, or it was not
carried out; 2 wrong usage; 3 no agent answers.";

/// Below `snowcache wait --help`.
pub(super) const WAIT_HELP: &str = "\
For units, and for init containers that have the agent's socket mounted and nothing else: the agent
looks at the receipt. Waits also for an agent that is not there yet, and for somebody to ask for
the root; `snowcache prefetch` asks for it.

Examples:
  snowcache wait /nix/store/HASH-web --timeout 600
  ExecStartPre=snowcache wait /nix/store/HASH-web

Exit codes: 0 ready, 1 given up or not in time (it is said why), 2 wrong usage, 3 no agent answered
in time.";

/// `snowcache agent`
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AgentArgs {
    /// How it is served.
    #[command(flatten)]
    pub serve: ServeArgs,
    /// What an agent that runs is told.
    #[command(subcommand)]
    pub command: Option<AgentCommand>,
}

/// How it is served.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// The configuration [default: /etc/snowcache/agent.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Say whether the configuration is a good one, and end
    #[arg(long)]
    pub check_config: bool,
}

/// What an agent that runs is told.
#[derive(Debug, Subcommand)]
pub enum AgentCommand {
    /// Give it another budget, from now on and until it is started again
    Rate {
        /// 50MB/s, 800KiB/s, unlimited
        rate: crate::rate::BytesPerSecond,
        /// Which agent.
        #[command(flatten)]
        agent: SocketArgs,
    },
    /// Want a closure no more; what came of it stays until it is collected
    Cancel {
        /// The store path or its hash part
        root: String,
        /// Which agent.
        #[command(flatten)]
        agent: SocketArgs,
    },
}

/// Which agent.
#[derive(Args, Clone, Debug)]
pub struct SocketArgs {
    /// The agent's socket [default: /run/snowcache-agent/socket for root, otherwise
    /// $XDG_RUNTIME_DIR/snowcache-agent/socket]
    #[arg(long = "agent", value_name = "SOCKET", env = "SNOWCACHE_AGENT")]
    pub agent: Option<PathBuf>,
}

impl SocketArgs {
    /// Where it is.
    pub fn socket(&self) -> PathBuf {
        self.agent
            .clone()
            .unwrap_or_else(crate::agent::default_socket)
    }
}

/// `snowcache status`
#[derive(Args, Debug)]
pub struct AgentStatusArgs {
    /// Show it again each second, until interrupted
    #[arg(long)]
    pub watch: bool,
    /// Print one JSON object; with --watch one a line, each second
    #[arg(long)]
    pub json: bool,
    /// Which agent.
    #[command(flatten)]
    pub agent: SocketArgs,
}

/// `snowcache wait`
#[derive(Args, Debug)]
pub struct WaitArgs {
    /// The store path or its hash part
    #[arg(value_name = "STORE-PATH|HASH")]
    pub root: String,
    /// How long to wait at most, in seconds [default: without end]
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Print nothing while it waits
    #[arg(short, long)]
    pub quiet: bool,
    /// Which agent.
    #[command(flatten)]
    pub agent: SocketArgs,
}

/// `snowcache pins`
#[derive(Args, Debug)]
pub struct PinsArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
    /// Where this node is.
    #[command(flatten)]
    pub node: NodeArgs,
    /// Which agent.
    #[command(flatten)]
    pub agent: SocketArgs,
}
