//! The commands: each parses its arguments, asks the cache, and prints.
//!
//! Guarantees: stdout holds the answer and nothing else, so it can be piped; a reader that goes
//! away ends the command quietly. What goes wrong is one sentence on stderr and an exit code.

mod admission;
mod agent;
mod cache;
mod closure;
mod confirm;
mod following;
mod gate;
mod gc;
mod hook;
mod info;
mod key;
mod ls;
mod pin;
mod pins;
mod prefetch;
mod push;
mod queue;
mod recompress;
mod rm;
mod scrub;
mod status;
mod subject;
mod switch;
mod token;
mod using;
mod verify;
mod wait;
mod watch_store;

use crate::cli::{CacheArgs, Cli, Command, PinCommand};
use crate::failure::Failure;
use crate::remote::{Remote, RemoteError};
use admission::Admission;
use std::fs;
use std::future::Future;
use std::io::{self, Write};

/// Carries a command out.
///
/// # Errors
/// With what to tell the caller.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let cache = &cli.cache;
    match cli.command {
        Command::Key(command) => key::run(command),
        Command::Info(args) => {
            let url = args.url.clone().unwrap_or_else(|| cache.cache.clone());
            let remote = connect(&url, cache)?;
            block_on(info::run(&remote, &args))
        }
        Command::Ls(args) => block_on(ls::run(&connected(cache)?, &args)),
        Command::Closure(args) => block_on(closure::run(&connected(cache)?, &args)),
        Command::Verify(args) => block_on(verify::run(&connected(cache)?, &args)),
        Command::Push(args) => {
            let to = args.to.clone().unwrap_or_else(|| cache.cache.clone());
            let remote = connect(&to, cache)?;
            block_on(async {
                let remote = match args.dry_run {
                    true => remote,
                    false => Admission::default().admitted(remote).await?,
                };
                push::run(&remote, &args).await
            })
        }
        Command::Hook(args) => hook::run(&args),
        Command::Queue(command) => queue::run(cache, command),
        Command::WatchStore(args) => watch_store::run(&args),
        Command::Pin(command) => pins_of(cache, command),
        Command::Token(command) => block_on(token::run(&connected(cache)?, command)),
        Command::Cache(command) => block_on(cache::run(&connected(cache)?, command)),
        Command::Use(args) => {
            let url = using::url(&cache.cache, args.which.as_deref());
            let (remote, token) = (connect(&url, cache)?, token(cache)?);
            block_on(using::run(&remote, &args, token.as_deref()))
        }
        Command::Gc(args) => block_on(gc::run(&connected(cache)?, &args)),
        Command::Recompress(args) => block_on(recompress::run(&connected(cache)?, &args)),
        Command::Scrub(args) => block_on(scrub::run(&connected(cache)?, &args)),
        Command::Rm(args) => block_on(rm::run(&connected(cache)?, &args)),
        Command::Agent(args) => agent::run(&args),
        Command::Status(args) => block_on(status::run(&args)),
        Command::Wait(args) => block_on(wait::run(&args)),
        Command::Pins(args) => block_on(pins::run(&args)),
        Command::Gate(args) => gate::run(&args),
        Command::Switch(args) => switch::run(&args),
        Command::Confirm(args) => confirm::run(&args),
        Command::Why(args) => gate::why(&args),
        Command::Prefetch(args) => prefetch::run(cache, &args),
    }
}

/// The cache that was named.
fn connected(cache: &CacheArgs) -> Result<Remote, Failure> {
    connect(&cache.cache, cache)
}

/// Pins of a cache; who changes them may be a job of a CI.
fn pins_of(cache: &CacheArgs, command: PinCommand) -> Result<(), Failure> {
    let remote = connect(&cache.cache, cache)?;
    block_on(async {
        let remote = match command.is_reading() {
            true => remote,
            false => Admission::default().admitted(remote).await?,
        };
        pin::run(&remote, command).await
    })
}

/// A cache that gets no token.
fn connect_openly(url: &str) -> Result<Remote, Failure> {
    let endpoint = url.parse().map_err(Failure::usage)?;
    Remote::new(endpoint, None).map_err(Failure::usage)
}

fn connect(url: &str, args: &CacheArgs) -> Result<Remote, Failure> {
    let endpoint = url.parse().map_err(Failure::usage)?;
    Remote::new(endpoint, token(args)?.as_deref()).map_err(Failure::usage)
}

/// The token that was given, if one was.
fn token(args: &CacheArgs) -> Result<Option<String>, Failure> {
    let token = match &args.token_file {
        Some(file) => {
            let cannot =
                |error| format!("the token file {} cannot be read: {error}", file.display());
            Some(fs::read_to_string(file).map_err(|error| Failure::usage(cannot(error)))?)
        }
        None => std::env::var("SNOWCACHE_TOKEN").ok(),
    };
    let token = token.map(|token| token.trim().to_owned());
    Ok(token.filter(|token| !token.is_empty()))
}

/// A failed request; of one that lacked the right token it is said which one to take.
pub(crate) fn denied(error: RemoteError, token_file: &str) -> Failure {
    if !error.is_denial() {
        return error.into();
    }
    Failure::failed(format!(
        "{error}\nsnowcache: this takes the token of {token_file} in the server's data folder: \
         --token-file FILE, or the token itself in $SNOWCACHE_TOKEN"
    ))
}

fn block_on<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime
        .map_err(|error| Failure::failed(format!("the threads cannot be started: {error}")))?;
    let result = runtime.block_on(command);
    // What a command that ended has left at work, one that was interrupted say, nobody waits for.
    runtime.shutdown_background();
    result
}

/// As a shell reports a program that wrote to a reader that had gone: 128 + SIGPIPE. Not success,
/// for what was to be verified has not been.
const READER_GONE: i32 = 141;

/// Writes to stdout. Whoever closed the other end has seen enough.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(READER_GONE),
        result => result.map_err(|error| Failure::failed(format!("cannot write: {error}"))),
    }
}

/// Writes a line of JSON to stdout.
fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::failed(format!("cannot be written as JSON: {error}")))?;
    print(&(text + "\n"))
}

/// Writes to a terminal how far something is.
fn draw(text: &str) {
    let mut stderr = io::stderr().lock();
    // A terminal that has gone away needs no progress.
    let drawn = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush());
    drop(drawn);
}
