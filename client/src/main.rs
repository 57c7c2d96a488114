//! The `snowcache` command: see `snowcache --help`.

use clap::Parser;
use snowcache::cli::Cli;
use snowcache::command;
use std::process::ExitCode;

fn main() -> ExitCode {
    match command::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(sentence) = failure.sentence() {
                eprintln!("snowcache: {sentence}");
            }
            failure.exit().into()
        }
    }
}
