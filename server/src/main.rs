//! snowcached: the server's command line. What it does is in [`snowcache_server::compose`].

use clap::Parser;
use snowcache_server::compose::{Server, blocking_threads};
use snowcache_server::config::Config;
use snowcache_server::{listen, observe};
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// A Nix binary cache.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Read the configuration from this file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep everything in this folder [default: ./var]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Listen here [default: 127.0.0.1:8420]
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    listen: Option<String>,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snowcached: {}", observe::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let mut config = arguments
        .config
        .as_deref()
        .map_or_else(|| Ok(Config::default()), Config::load)?;
    config.data = arguments.data.unwrap_or(config.data);
    config.listen = arguments.listen.unwrap_or(config.listen);
    observe::start(&config.log)?;
    let threads = blocking_threads(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stop = listen::stop_signals()?;
        let server = Server::open(config).await?;
        std::io::stdout().write_all(server.banner().as_bytes())?;
        server.serve(stop).await;
        Ok(())
    })
}
