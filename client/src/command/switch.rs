//! `snowcache switch`: the gate, the profile, switch-to-configuration, a look at its health, the
//! control plane's word, and the way back.
//!
//! ```text
//!   gate; /boot has room --no--> nothing is touched
//!     | yes
//!   it is written down as a trial
//!   profile's next generation (not with `test`)
//!     |
//!   ROOT/bin/switch-to-configuration MODE, then the health check (with `boot`: after the reboot)
//!     | well                                | not
//!   is the control plane reached in time,   the profile's old generation, its own
//!   and while it is watched?
//!     | yes          \------- no ---------> switch-to-configuration MODE
//!   done; is a reboot needed?
//! ```
//!
//! Guarantees: no network but to the control plane; nothing that is not ready is switched to; what
//! fails is gone back from, and it is said how that went. One switch at a time.
//! Never: a generation removed.

use super::confirm::await_word;
use super::gate;
use super::prefetch::node;
use super::{block_on, print};
use crate::cli::SwitchArgs;
use crate::failure::Failure;
use crate::node::Node;
use crate::preflight;
use crate::system;
use crate::trial::{Stage, SwitchMode, Trial, Turn};
use snowcache_nix::StorePath;
use std::path::Path;

pub(super) fn run(args: &SwitchArgs) -> Result<(), Failure> {
    let receipt = block_on(gate::check(&args.gate))?;
    if args.mode != SwitchMode::Test && args.boot != Path::new("none") {
        let system = receipt.root.absolute();
        preflight::boot(Path::new(&system), &args.boot).map_err(Failure::failed)?;
    }
    let node = node(&args.gate.node)?;
    let turn = Turn::take(&node).map_err(Failure::failed)?;
    let turn = turn.ok_or_else(|| Failure::failed("another switch is under way"))?;
    if let Some(left) = Trial::of(&node).map_err(Failure::failed)? {
        let root = &left.root;
        eprintln!("snowcache: the switch to {root} was not over; this one takes its place");
        turn.await_orphans();
    }
    let mut trial = trial(args, &receipt.root);
    trial.write(&node).map_err(Failure::failed)?;
    let went = turn.change(|| change(&trial));
    if let Err(why) = went.and_then(|()| well(&trial)) {
        let sentence = turn.change(|| system::go_back(&trial, &why));
        end(&node)?;
        return Err(Failure::failed(sentence));
    }
    trial.stage = Stage::Switched;
    let later = args.mode == SwitchMode::Boot;
    if later {
        // Decided after the reboot.
        trial.write(&node).map_err(Failure::failed)?;
        return print(&done(&receipt.root, args));
    }
    if trial.confirm_within_s.is_some() {
        trial.write(&node).map_err(Failure::failed)?;
        let word = block_on(async { Ok(await_word(&trial, &node).await) })?;
        if let Err(why) = word {
            let sentence = turn.change(|| system::go_back(&trial, &why));
            end(&node)?;
            return Err(Failure::failed(sentence));
        }
    }
    end(&node)?;
    print(&done(&receipt.root, args))
}

fn end(node: &Node) -> Result<(), Failure> {
    Trial::end(node).map_err(Failure::failed)
}

fn trial(args: &SwitchArgs, root: &StorePath) -> Trial {
    let within_s = match args.control_plane.is_empty() {
        true => args.confirm_within,
        false => args.confirm_within.or(Some(DEFAULT_CONFIRM_S)),
    };
    Trial {
        root: root.absolute(),
        mode: args.mode,
        profile: args.profile.clone(),
        before: system::current(&args.profile),
        health: args.health.clone(),
        health_timeout_s: args.health_timeout_s,
        confirm_within_s: within_s,
        control_plane: args.control_plane.clone(),
        watch_for_s: args.watch_for,
        boot: system::boot_id(),
        stage: Stage::Switching,
    }
}

/// A control plane that is given without a time has so long: DHCP, DNS and a VPN come back.
const DEFAULT_CONFIRM_S: u64 = 120;

fn change(trial: &Trial) -> Result<(), String> {
    match trial.mode {
        SwitchMode::Test => {}
        SwitchMode::Switch | SwitchMode::Boot => system::set(&trial.profile, &trial.root)?,
    }
    system::configure(&trial.system(), trial.mode)
}

fn well(trial: &Trial) -> Result<(), String> {
    match trial.mode {
        // What is to be well does not run yet.
        SwitchMode::Boot => Ok(()),
        SwitchMode::Switch | SwitchMode::Test => system::healthy(trial),
    }
}

fn done(root: &StorePath, args: &SwitchArgs) -> String {
    let what = match args.mode {
        SwitchMode::Switch => "switched to",
        SwitchMode::Boot => "the next boot starts",
        SwitchMode::Test => "running, until the next boot,",
    };
    let mut text = format!("{what} {}\n", root.absolute());
    if let Some(reboot) = system::reboot_required(Path::new(&root.absolute())) {
        text.push_str(&reboot);
        text.push('\n');
    }
    text
}
