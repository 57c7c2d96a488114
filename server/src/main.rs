//! snowcached: the server's command line. What it serves is in [`snowcache_server::compose`], what
//! else it can do in [`snowcache_server::commands`].

use clap::Parser;
use snowcache_server::commands::{Arguments, run};
use snowcache_server::compose::{Server, blocking_threads};
use snowcache_server::listen::{self, Passed};
use snowcache_server::{memory, observe};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let done = match arguments.command.take() {
        Some(command) => run(command, &arguments),
        None => serve(&arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("snowcached: {}", observe::with_causes(&*error));
        ExitCode::FAILURE
    })
}

fn serve(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    memory::bound_pools();
    let config = arguments.config()?.config;
    let passed = Passed::take();
    observe::start(&config.log)?;
    let threads = blocking_threads(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(threads)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (stop, hurry) = listen::stop_signals()?;
        let server = Server::open_with(config, passed).await?;
        std::io::stdout().write_all(server.banner().as_bytes())?;
        server.serve(stop, hurry).await;
        Ok(())
    })
}
