//! `snowcache confirm`: the control plane's word that a switch went well, and the decision about
//! one that was left: after a reboot, or when whoever switched is gone.
//!
//! ```text
//!   trial of this boot   switching    whoever switched was killed in the middle: back
//!                        switched     the control plane is waited for
//!   trial of a boot ago  booted it?   not: back    the health check    the control plane
//! ```
//! Guarantees: what is decided is either confirmed, and the trial is over, or gone back from, and
//! it is said why. Killed while it decides, it decides again. Never: a decision before the reboot
//! that a switch with `--mode boot` waits for.

use super::prefetch::node;
use super::{block_on, print};
use crate::cli::ConfirmArgs;
use crate::failure::Failure;
use crate::node::Node;
use crate::remote::Remote;
use crate::system;
use crate::trial::{Stage, SwitchMode, Trial, Turn};
use std::fs;
use std::path::Path;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often the control plane is tried, and whether somebody has confirmed is looked at.
const TRY: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(100);
/// How often it is tried while it is watched, or four times in the time that it has: a fleet of
/// 3,000 nodes asks a hundred times a second.
const WATCH: Duration = Duration::from_secs(30);
/// A control plane that takes longer is not reached.
const REACH_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn run(args: &ConfirmArgs) -> Result<(), Failure> {
    let node = node(&args.node)?;
    match args.decide {
        true => decide(&node),
        false => say(&node),
    }
}

/// The control plane has reached this node.
fn say(node: &Node) -> Result<(), Failure> {
    let Some(trial) = Trial::of(node).map_err(Failure::failed)? else {
        return Err(Failure::failed("no switch waits to be confirmed"));
    };
    if waits_for_reboot(&trial) {
        let root = &trial.root;
        return Err(Failure::failed(format!(
            "{root} is to be confirmed after the reboot"
        )));
    }
    if trial.stage == Stage::Switching && !booted_since(&trial) {
        // That this node is reached says nothing of a system that does not run yet.
        let root = &trial.root;
        return Err(Failure::failed(format!(
            "the switch to {root} is not done yet; say it again when it is"
        )));
    }
    trial.confirm(node).map_err(Failure::failed)?;
    // Nobody may be there to hear it.
    if let Some(_turn) = Turn::take(node).map_err(Failure::failed)?
        && !booted_since(&trial)
    {
        Trial::end(node).map_err(Failure::failed)?;
    }
    print(&format!("confirmed {}\n", trial.root))
}

/// Sees a trial that was left through.
fn decide(node: &Node) -> Result<(), Failure> {
    let turn = Turn::wait(node).map_err(Failure::failed)?;
    turn.await_orphans();
    let Some(trial) = Trial::of(node).map_err(Failure::failed)? else {
        return Ok(());
    };
    if waits_for_reboot(&trial) {
        return Ok(());
    }
    let verdict = block_on(async { Ok(look_at(&trial, node).await) })?;
    let sentence = match &verdict {
        Ok(()) => format!("confirmed {}\n", trial.root),
        Err(why) => turn.change(|| system::go_back(&trial, why)),
    };
    Trial::end(node).map_err(Failure::failed)?;
    match verdict {
        Ok(()) => print(&sentence),
        Err(_) => Err(Failure::failed(sentence)),
    }
}

async fn look_at(trial: &Trial, node: &Node) -> Result<(), String> {
    let root = &trial.root;
    match (trial.mode, booted_since(trial)) {
        // What it was for ended with the boot.
        (SwitchMode::Test, true) => return Ok(()),
        (_, false) if trial.stage == Stage::Switching => {
            return Err(format!("the switch to {root} was broken off"));
        }
        (_, false) => {}
        (_, true) => {
            let booted = fs::canonicalize(system::BOOTED).ok();
            if booted
                .as_deref()
                .is_some_and(|booted| booted != Path::new(root))
            {
                let booted = booted.unwrap_or_default();
                return Err(format!("{} was booted, not {root}", booted.display()));
            }
            system::healthy(trial)?;
        }
    }
    match trial.confirm_within_s {
        Some(_) => await_word(trial, node).await,
        None => Ok(()),
    }
}

fn waits_for_reboot(trial: &Trial) -> bool {
    trial.mode == SwitchMode::Boot && trial.stage == Stage::Switched && !booted_since(trial)
}

fn booted_since(trial: &Trial) -> bool {
    system::boot_id() != trial.boot
}

/// Waits until the control plane is reached, and for as long as it is watched then, is reached
/// again and again; or until it says that it has reached us.
///
/// # Errors
/// When neither happens in time.
pub(super) async fn await_word(trial: &Trial, node: &Node) -> Result<(), String> {
    let told = async {
        while !trial.is_confirmed(node).unwrap_or(false) {
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        watched = watch(trial) => watched,
        () = told => Ok(()),
    }
}

async fn watch(trial: &Trial) -> Result<(), String> {
    let patience = Duration::from_secs(trial.confirm_within_s.unwrap_or(0));
    let watched = Duration::from_secs(trial.watch_for_s);
    let places = match trial.control_plane.is_empty() {
        true => String::new(),
        false => format!(" ({})", trial.control_plane.join(", ")),
    };
    let seconds = patience.as_secs();
    let (mut last, mut end) = (Instant::now(), None);
    loop {
        let in_time = tokio::time::timeout_at(last + patience, reached(trial)).await;
        in_time.map_err(|_| match end {
            None => format!("the control plane{places} was not reached within {seconds} s"),
            Some(_) => format!("the control plane{places} was reached no more for {seconds} s"),
        })?;
        last = Instant::now();
        if end.is_none() && !watched.is_zero() {
            let watched = watched.as_secs();
            eprintln!(
                "snowcache: the control plane is reached; for {watched} s more it must be every \
                 {seconds} s, or somebody says `snowcache confirm` here"
            );
        }
        let end = *end.get_or_insert(last + watched);
        if last >= end {
            return Ok(());
        }
        sleep_until(end.min(last + (patience / 4).min(WATCH))).await;
    }
}

/// Tries all of its places until one answers.
async fn reached(trial: &Trial) {
    loop {
        for place in &trial.control_plane {
            if reach(place).await {
                return;
            }
        }
        match trial.control_plane.is_empty() {
            true => std::future::pending().await,
            false => sleep(TRY).await,
        }
    }
}

/// Whether something answers there: `tcp:HOST:PORT`, or a URL, whatever it says.
async fn reach(place: &str) -> bool {
    let reached = async {
        match place.strip_prefix("tcp:") {
            Some(address) => TcpStream::connect(address).await.is_ok(),
            None => {
                let Ok(endpoint) = place.parse() else {
                    return false;
                };
                match Remote::new(endpoint, None) {
                    Ok(remote) => remote.impatient().answers().await,
                    Err(_) => false,
                }
            }
        }
    };
    timeout(REACH_TIMEOUT, reached).await.unwrap_or(false)
}
