//! `snowcache status`: what the agent does.

use super::{print, print_json};
use crate::agent::ask::Ask;
use crate::cli::AgentStatusArgs;
use crate::failure::Failure;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::sleep;

/// Often enough to see it move.
const INTERVAL: Duration = Duration::from_secs(1);
/// Clears a terminal.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub(super) async fn run(args: &AgentStatusArgs) -> Result<(), Failure> {
    let agent = Ask::at(&args.agent.socket());
    let clear = match args.watch && std::io::stdout().is_terminal() {
        true => CLEAR,
        false => "",
    };
    loop {
        let status = agent.status().await?;
        match args.json {
            true => print_json(&status)?,
            false => print(&format!("{clear}{}", status.text()))?,
        }
        if !args.watch {
            return Ok(());
        }
        sleep(INTERVAL).await;
    }
}
