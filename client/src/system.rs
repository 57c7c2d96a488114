//! What a node runs: the generations of its profile, a system that configures itself, and whether
//! it is well.
//!
//! Guarantees: what is run is told apart by how it ended; a health check that takes too long is
//! killed with all that it has started. Never: a generation removed; anything fetched.

use crate::trial::{Generation, SwitchMode, Trial};
use rustix::process::{Pid, Signal, kill_process_group};
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How often a health check is looked after.
const POLL: Duration = Duration::from_millis(20);
/// What a reboot is needed for when it is another one than was booted.
const OF_THE_BOOT: [&str; 3] = [KERNEL, INITRD, "kernel-modules"];
/// What boot loaders start of a system.
pub const KERNEL: &str = "kernel";
/// What goes with it.
pub const INITRD: &str = "initrd";
/// What NixOS booted.
pub const BOOTED: &str = "/run/booted-system";

/// The generation that a profile points to; none where there is no profile yet.
pub fn current(profile: &Path) -> Option<Generation> {
    let link = fs::read_link(profile).ok()?;
    let name = link.file_name()?.to_str()?;
    let number = name.strip_suffix("-link")?.rsplit('-').next()?;
    Some(Generation {
        number: number.parse().ok()?,
        system: fs::canonicalize(profile).ok()?,
    })
}

/// Makes a system the next generation of a profile.
///
/// # Errors
/// With what nix-env said.
pub fn set(profile: &Path, system: &str) -> Result<(), String> {
    nix_env(profile, &["--set", system])
}

/// What is to be said when another kernel, initrd or modules are needed than those that were
/// booted.
pub fn reboot_required(system: &Path) -> Option<String> {
    let other = OF_THE_BOOT.iter().filter(|part| {
        let of = |system: &Path| fs::canonicalize(system.join(part)).ok();
        let (booted, new) = (of(Path::new(BOOTED)), of(system));
        booted.is_some() && new.is_some() && booted != new
    });
    let other: Vec<&str> = other.copied().collect();
    (!other.is_empty()).then(|| format!("reboot required: another {}", other.join(", ")))
}

/// Lets a system configure itself.
///
/// # Errors
/// With how that ended.
pub fn configure(system: &Path, mode: SwitchMode) -> Result<(), String> {
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

/// Whether the health check of a trial succeeds, if it has one.
///
/// # Errors
/// With how it ended.
pub fn healthy(trial: &Trial) -> Result<(), String> {
    let Some(check) = &trial.health else {
        return Ok(());
    };
    let mut child = Command::new("sh")
        .args(["-c", check])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|error| format!("the health check cannot be started: {error}"))?;
    let patience = Duration::from_secs(trial.health_timeout_s);
    let begin = Instant::now();
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

/// Back to what was there before a trial; a sentence about why and how that went.
pub fn go_back(trial: &Trial, why: &str) -> String {
    let Some((before, which)) = before(trial) else {
        return format!("{why}; there is no generation before to go back to");
    };
    let shown = before.system.display();
    let number = before.number.to_string();
    let profile = match trial.mode {
        SwitchMode::Test => Ok(()),
        SwitchMode::Switch | SwitchMode::Boot => {
            nix_env(&trial.profile, &["--switch-generation", &number])
        }
    };
    let mode = match (trial.mode, boot_id() == trial.boot) {
        // It was booted, and is what runs now.
        (SwitchMode::Boot, false) => SwitchMode::Switch,
        (mode, _) => mode,
    };
    match profile.and_then(|()| configure(&before.system, mode)) {
        Ok(()) => {
            let reboot = reboot_required(&before.system).filter(|_| mode == SwitchMode::Switch);
            let reboot = reboot.map_or(String::new(), |reboot| format!("; {reboot}"));
            format!("{why}; went back to {which}, {shown}{reboot}")
        }
        Err(error) => format!("{why}; and going back to {which}, {shown}, failed, too: {error}"),
    }
}

/// What was there before, and how to call it.
fn before(trial: &Trial) -> Option<(Generation, String)> {
    match trial.mode {
        // The profile was not touched.
        SwitchMode::Test => {
            let system = fs::canonicalize(&trial.profile).ok()?;
            let number = current(&trial.profile).map_or(0, |it| it.number);
            let generation = Generation { number, system };
            Some((generation, "what the profile has".to_owned()))
        }
        SwitchMode::Switch | SwitchMode::Boot => {
            let before = trial.before.clone()?;
            let which = format!("generation {}", before.number);
            Some((before, which))
        }
    }
}

fn nix_env(profile: &Path, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new("nix-env");
    command.arg("--profile").arg(profile).args(arguments);
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("nix-env cannot be started: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "the profile {} cannot be set: {}",
            profile.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

fn ended(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("failed with exit code {code}"),
        None => "was killed by a signal".to_owned(),
    }
}

/// Tells one boot of the machine from another; empty where the kernel does not say.
pub fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}
