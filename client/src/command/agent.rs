//! `snowcache agent`: the service, and what the one that runs is told.

use super::{block_on, print};
use crate::agent::Agent;
use crate::agent::ask::Ask;
use crate::agent::config::Config;
use crate::agent::jobs::{State, hash_of};
use crate::cli::{AgentArgs, AgentCommand, ServeArgs};
use crate::failure::Failure;
use crate::rate::BytesPerSecond;

pub(super) fn run(args: &AgentArgs) -> Result<(), Failure> {
    match &args.command {
        None => serve(&args.serve),
        Some(AgentCommand::Rate { rate, agent }) => {
            block_on(set_rate(&Ask::at(&agent.socket()), *rate))
        }
        Some(AgentCommand::Cancel { root, agent }) => {
            block_on(cancel(&Ask::at(&agent.socket()), root))
        }
    }
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let config = Config::read(args.config.as_deref()).map_err(Failure::usage)?;
    match args.check_config {
        true => print("the configuration is a good one\n"),
        false => block_on(async { Agent::new(config)?.run().await }),
    }
}

async fn set_rate(agent: &Ask, rate: BytesPerSecond) -> Result<(), Failure> {
    let now = agent.set_rate(rate.0).await?;
    print(&format!("the rate is {now} now\n"))
}

async fn cancel(agent: &Ask, root: &str) -> Result<(), Failure> {
    let hash = hash_of(root);
    let jobs = agent.status().await?.jobs.into_iter().map(|it| it.job);
    let ours = jobs.filter(|job| job.state == State::Waiting && job.has_root(hash));
    let ours: Vec<u64> = ours.map(|job| job.id).collect();
    if ours.is_empty() {
        let sentence = format!("{root} is not waited for; snowcache status shows what is");
        return Err(Failure::failed(sentence));
    }
    for id in ours {
        agent.cancel(id).await?;
    }
    print(&format!("{root} is wanted no more\n"))
}
