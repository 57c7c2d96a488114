//! `snowcache switch`: the gate, the profile, switch-to-configuration, a look at its health, and
//! the way back.
//!
//! ```text
//!   gate --no--> nothing is touched
//!     | yes
//!   profile's next generation (not with `test`)
//!     |
//!   ROOT/bin/switch-to-configuration MODE, then the health check
//!     | well                                | not
//!   done; is a reboot needed?             the profile's old generation, its own
//!                                         switch-to-configuration MODE
//! ```
//!
//! Guarantees: no network; nothing that is not ready is switched to; what fails is gone back from,
//! and it is said how that went. One switch at a time.
//! Never: a generation removed.

use super::gate;
use super::prefetch::node;
use super::{block_on, print};
use crate::cli::{SwitchArgs, SwitchMode};
use crate::failure::Failure;
use rustix::process::{Pid, Signal, kill_process_group};
use snowcache_nix::StorePath;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a health check is looked after.
const POLL: Duration = Duration::from_millis(20);
/// What a reboot is needed for when it is another one than was booted.
const OF_THE_BOOT: [&str; 3] = ["kernel", "initrd", "kernel-modules"];
/// What NixOS booted.
const BOOTED: &str = "/run/booted-system";

pub(super) fn run(args: &SwitchArgs) -> Result<(), Failure> {
    let receipt = block_on(gate::check(&args.gate))?;
    let _one_at_a_time = lock(node(&args.gate.node)?.folder())?;
    let root = receipt.root;
    let before = match args.mode {
        SwitchMode::Test => None,
        SwitchMode::Switch | SwitchMode::Boot => {
            let before = Generation::current(&args.profile);
            set_profile(&args.profile, &["--set", &root.absolute()])?;
            before
        }
    };
    let went = configure(Path::new(&root.absolute()), args.mode).and_then(|()| healthy(args));
    match went {
        Ok(()) => print(&done(&root, args)),
        Err(why) => Err(go_back(&why, before, args)),
    }
}

/// A generation of the profile: its number, and what it is.
struct Generation {
    number: u64,
    system: PathBuf,
}

impl Generation {
    /// The one that the profile points to; none where there is no profile yet.
    fn current(profile: &Path) -> Option<Generation> {
        let link = fs::read_link(profile).ok()?;
        let name = link.file_name()?.to_str()?;
        let number = name
            .strip_suffix("-link")?
            .rsplit('-')
            .next()?
            .parse()
            .ok()?;
        let system = fs::canonicalize(profile).ok()?;
        Some(Generation { number, system })
    }
}

fn set_profile(profile: &Path, arguments: &[&str]) -> Result<(), Failure> {
    let mut command = Command::new("nix-env");
    command.arg("--profile").arg(profile).args(arguments);
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.map_err(|error| Failure::failed(format!("nix-env cannot be started: {error}")))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "the profile {} cannot be set: {}",
            profile.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// Lets a system configure itself.
fn configure(system: &Path, mode: SwitchMode) -> Result<(), String> {
    let program = system.join("bin/switch-to-configuration");
    let status = Command::new(&program)
        .arg(mode.name())
        .stdin(Stdio::null())
        .status();
    let shown = program.display();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{shown} {} {}", mode.name(), ended(status))),
        Err(error) => Err(format!("{shown} cannot be started: {error}")),
    }
}

fn healthy(args: &SwitchArgs) -> Result<(), String> {
    let Some(check) = &args.health else {
        return Ok(());
    };
    let cannot = |error| format!("the health check cannot be started: {error}");
    let mut child = Command::new("sh")
        .args(["-c", check])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(cannot)?;
    let (begin, patience) = (Instant::now(), Duration::from_secs(args.health_timeout_s));
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => return Err(format!("the health check {}", ended(status))),
            Ok(None) if begin.elapsed() < patience => std::thread::sleep(POLL),
            Ok(None) => {
                // With all that it has started.
                let group = Pid::from_child(&child);
                let stopped = kill_process_group(group, Signal::KILL)
                    .map_err(std::io::Error::from)
                    .and_then(|()| child.wait());
                let stopped = stopped.map_or_else(|error| format!(" ({error})"), |_| String::new());
                let seconds = patience.as_secs();
                return Err(format!(
                    "the health check took more than {seconds} s{stopped}"
                ));
            }
            Err(error) => return Err(format!("the health check: {error}")),
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("failed with exit code {code}"),
        None => "was killed by a signal".to_owned(),
    }
}

/// Back to what was there before; what to say of it.
fn go_back(why: &str, before: Option<Generation>, args: &SwitchArgs) -> Failure {
    let before = match (args.mode, before) {
        (SwitchMode::Test, _) => fs::canonicalize(&args.profile)
            .ok()
            .map(|system| (None, system)),
        (_, before) => before.map(|it| (Some(it.number), it.system)),
    };
    let Some((number, system)) = before else {
        return Failure::failed(format!(
            "{why}; there is no generation before to go back to"
        ));
    };
    let shown = system.display();
    let number = number.map(|number| number.to_string());
    let profile = match &number {
        Some(number) => set_profile(&args.profile, &["--switch-generation", number]),
        None => Ok(()),
    };
    let profile = profile.map_err(|failure| failure.sentence().unwrap_or_default().to_owned());
    let went = profile.and_then(|()| configure(&system, args.mode));
    let which = number.map_or("what the profile has".to_owned(), |it| {
        format!("generation {it}")
    });
    Failure::failed(match went {
        Ok(()) => format!("{why}; went back to {which}, {shown}"),
        Err(error) => format!("{why}; and going back to {which}, {shown}, failed, too: {error}"),
    })
}

fn done(root: &StorePath, args: &SwitchArgs) -> String {
    let what = match args.mode {
        SwitchMode::Switch => "switched to",
        SwitchMode::Boot => "the next boot starts",
        SwitchMode::Test => "running, until the next boot,",
    };
    let mut text = format!("{what} {}\n", root.absolute());
    let other = OF_THE_BOOT.iter().filter(|part| {
        let of = |system: &str| fs::canonicalize(Path::new(system).join(part)).ok();
        let (booted, new) = (of(BOOTED), of(&root.absolute()));
        booted.is_some() && new.is_some() && booted != new
    });
    let other: Vec<&str> = other.copied().collect();
    if !other.is_empty() {
        text.push_str(&format!("reboot required: another {}\n", other.join(", ")));
    }
    text
}

/// Held until the switch is over.
fn lock(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("switch.lock");
    let cannot = |error| Failure::failed(format!("{}: {error}", path.display()));
    let file = File::create(&path).map_err(cannot)?;
    let locked = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
    match locked {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::failed("another switch is under way")),
        Err(error) => Err(cannot(error.into())),
    }
}
