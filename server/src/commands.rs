//! What snowcached does beside serving: looking after its data folder.
//!
//! Guarantees: stdout holds the answer and nothing else; the exit code is 0 when all is well, 1
//! when something is wrong, 2 for a command line that cannot be carried out. `backup` works beside
//! a running server; the others refuse a folder that one uses.

mod backup;
mod check_config;
mod fsck;
mod recover;
mod show;

use crate::config::{Effective, Log, Mistakes, Sources, addresses};
use crate::observe;
use clap::{Args, Parser, Subcommand};
use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// A Nix binary cache; without a command it serves.
#[derive(Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "\
Examples:
  snowcached --config /etc/snowcached.toml
  snowcached --data /var/lib/snowcache --listen 0.0.0.0:8420
  snowcached --data /var/lib/snowcache --listen '[::]:8420' --listen unix:/run/snowcache/sock
  snowcached --data /var/lib/snowcache backup /mnt/backup/snowcache

Every key of the configuration is an environment variable, too: SNOWCACHE_DEPOT_MAX_SIZE_BYTES for
max_size_bytes in [depot]. Flags win over variables, variables over the file.")]
pub struct Arguments {
    /// Read the configuration from this file
    #[arg(long, global = true, value_name = "FILE", env = "SNOWCACHE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Keep everything in this folder [default: ./var]
    #[arg(long, global = true, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Listen here; may be given several times [default: 127.0.0.1:8420]
    #[arg(long, global = true, value_name = "ADDR:PORT|unix:PATH|systemd")]
    pub listen: Vec<String>,
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do with the data folder.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check everything in the data folder of a server that is stopped
    #[command(after_help = "\
Every record is read and unpacked, the index is made anew beside the present one and compared with
it row by row, every path must have its NAR and its references, every file must be known.

--repair removes what was proven useless (what was never committed, leftovers of crashes) and
rewrites what can be derived (the index). It says each thing, and removes no damaged record: a push
heals what needs it.

Examples:
  snowcached --data /var/lib/snowcache fsck
  snowcached fsck --json | jq -c 'select(.problem)'
  snowcached fsck --repair

Exit codes: 0 clean, 1 problems found (with --repair: found and not repaired), 2 wrong usage.")]
    Fsck(FsckArgs),
    /// Make the index anew from the segments alone, with the server stopped
    #[command(after_help = "\
The present index is set aside first and removed only when the new one is complete. What cannot be
recovered is named.

Examples:
  snowcached --data /var/lib/snowcache recover

Exit codes: 0 all of it recovered, 1 not all of it, 2 wrong usage.")]
    Recover(RecoverArgs),
    /// Copy the data folder to another one, also while the server runs
    #[command(after_help = "\
Everything acknowledged before the backup began is in it: segments as far as they were committed,
keys and tokens with their permissions. The index is left out, it is made anew at the first start.
Run again into the same folder, it copies what was added.

To restore: cp -a BACKUP DIR; snowcached --data DIR

Examples:
  snowcached --data /var/lib/snowcache backup /mnt/backup/snowcache
  snowcached backup --verify /mnt/backup/snowcache

Exit codes: 0 complete, 1 failed or damaged, 2 wrong usage.")]
    Backup(BackupArgs),
    /// Print the configuration that would be in force, and where each value comes from
    #[command(after_help = "\
It is printed as a configuration file that says the same; behind each value stands who said it: a
line of the file, an environment variable, a flag, or the default. Every mistake is reported.

Examples:
  snowcached --config /etc/snowcached.toml check-config
  SNOWCACHE_LISTEN=0.0.0.0:8420 snowcached check-config | grep SNOWCACHE_
  snowcached check-config --json | jq .said_by

Exit codes: 0 it can be served with, 2 it cannot.")]
    CheckConfig(CheckConfigArgs),
}

/// `snowcached check-config`
#[derive(Args, Debug)]
pub struct CheckConfigArgs {
    /// Print one JSON object: {"config": ..., "said_by": ...} or {"errors": [...]}
    #[arg(long)]
    pub json: bool,
}

/// `snowcached fsck`
#[derive(Args, Debug)]
pub struct FsckArgs {
    /// Print one JSON object a line: {"problem": ...}, {"repaired": ...}, {"summary": ...}
    #[arg(long)]
    pub json: bool,
    /// Remove what was proven useless, rewrite what can be derived
    #[arg(long)]
    pub repair: bool,
}

/// `snowcached recover`
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// Print one JSON object a line: {"lost": ...}, {"summary": ...}
    #[arg(long)]
    pub json: bool,
}

/// `snowcached backup`
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// The folder of the backup: a new or empty one, or an earlier backup
    #[arg(value_name = "DIR")]
    pub target: PathBuf,
    /// Read a backup to its last byte and compare it with its manifest, and copy nothing
    #[arg(long)]
    pub verify: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Arguments {
    /// The configuration that the file, the environment and the flags make.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn config(&self) -> Result<Effective, Mistakes> {
        let data = self.data.as_ref().map(|data| {
            let data = data.to_string_lossy().into_owned();
            ("data", "--data", data.into())
        });
        let listen = (!self.listen.is_empty()).then(|| {
            let listen = addresses(self.listen.iter().map(String::as_str));
            ("listen", "--listen", listen)
        });
        let text = |variable: OsString| variable.to_string_lossy().into_owned();
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        let passed = number("LISTEN_FDS").is_some_and(|sockets| sockets > 0);
        let to_us = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
        let mut sources = Sources {
            file: None,
            environment: std::env::vars_os()
                .map(|(name, value)| (text(name), text(value)))
                .collect(),
            flags: data.into_iter().chain(listen).collect(),
            socket_activated: passed && to_us,
        };
        if let Some(path) = &self.config {
            sources = sources.with_file(path)?;
        }
        let mut effective = Effective::of(sources)?;
        if let Some(data) = &self.data {
            effective.config.data.clone_from(data); // also where its name is no UTF-8
        }
        Ok(effective)
    }
}

/// Carries a command out.
///
/// # Errors
/// With what to tell the caller.
pub fn run(command: Command, arguments: &Arguments) -> Result<ExitCode, Box<dyn Error>> {
    let effective = arguments.config();
    if let Command::CheckConfig(args) = &command {
        return check_config::run(effective, args);
    }
    let config = effective?.config;
    let filter = "error".to_owned(); // the command tells by itself what it finds
    observe::start(&Log {
        filter,
        ..config.log
    })?;
    match command {
        Command::Fsck(args) => fsck::run(&config.data, &args),
        Command::Recover(args) => recover::run(&config.data, &args),
        Command::Backup(args) => backup::run(&config.data, &args),
        Command::CheckConfig(_) => unreachable!("invariant: returned above"),
    }
}

/// Writes a line to stdout; a reader that has gone has seen enough.
fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{line}") {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Writes a line of JSON to stdout.
fn say_json(value: &impl serde::Serialize) -> Result<(), Box<dyn Error>> {
    Ok(say(&serde_json::to_string(value)?)?)
}

/// 0 when all is well, 1 when not.
fn exit(well: bool) -> ExitCode {
    if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
