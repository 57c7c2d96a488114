//! A switch that is not over: written down before anything is touched, so that whoever comes
//! after a crash, a reboot or a lost connection can see it through or go back.
//!
//! ```text
//!   FOLDER/trial.json        to be decided while this boot lasts
//!   FOLDER/trial-boot.json   to be decided after the next one
//!   FOLDER/confirmed         the control plane has reached this node; its text is the root
//!   FOLDER/switch.lock       held by whoever switches or decides
//!   FOLDER/change.lock       held by what they start to change the profile and the system, also
//!                            when they themselves were killed
//! ```
//! Guarantees: there is at most one; it is on the disk before the profile is changed, and goes
//! when it is confirmed or gone back from. Never: decided twice at once, or while
//! what a killed switch has started still changes something.

use crate::node::{Node, NodeError};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::{Deserialize, Serialize};
use snowcache_nix::StorePath;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long it is waited for what a killed switch has started: systemd gives a unit 90 s to start,
/// and some start one after the other.
const ORPHANS_TIMEOUT: Duration = Duration::from_secs(600);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(20);

/// A trial has a dozen short fields.
const MAX_BYTES: u64 = 64 << 10;

/// What switch-to-configuration is told.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SwitchMode {
    /// Now, and at every boot from now on.
    Switch,
    /// At every boot from now on.
    Boot,
    /// Now, until the next boot.
    Test,
}

/// A generation of a profile.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// What it is.
    pub system: PathBuf,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The profile and the system are being changed.
    Switching,
    /// They are changed, and well as far as one can see from here.
    Switched,
}

/// A switch that is not over.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Trial {
    /// To what.
    pub root: String,
    /// How.
    pub mode: SwitchMode,
    /// Whose next generation it is.
    pub profile: PathBuf,
    /// What was there before; nothing on a node without generations.
    pub before: Option<Generation>,
    /// A command of the shell that must succeed.
    pub health: Option<String>,
    /// How long that may take.
    pub health_timeout_s: u64,
    /// Within which time the control plane must be reached.
    pub confirm_within_s: Option<u64>,
    /// Where the control plane is; besides, `snowcache confirm` is its word.
    pub control_plane: Vec<String>,
    /// For how long, after it was reached, it must be reached again and again.
    #[serde(default)]
    pub watch_for_s: u64,
    /// The boot in which it began.
    pub boot: String,
    /// How far it is.
    pub stage: Stage,
}

impl SwitchMode {
    /// As switch-to-configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            SwitchMode::Switch => "switch",
            SwitchMode::Boot => "boot",
            SwitchMode::Test => "test",
        }
    }
}

impl Trial {
    /// The one of this node, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(node: &Node) -> Result<Option<Trial>, NodeError> {
        for name in ["trial.json", "trial-boot.json"] {
            if let Some(text) = node.read_text(name, MAX_BYTES)? {
                let trial = serde_json::from_str(&text);
                let trial = trial.map_err(|error| node.wrong(name, io::Error::from(error)))?;
                return Ok(Some(trial));
            }
        }
        Ok(None)
    }

    /// Writes it down, in place of another one.
    ///
    /// # Errors
    /// When the node's folder cannot be written.
    pub fn write(&self, node: &Node) -> Result<(), NodeError> {
        let (name, other) = match self.mode {
            SwitchMode::Boot => ("trial-boot.json", "trial.json"),
            SwitchMode::Switch | SwitchMode::Test => ("trial.json", "trial-boot.json"),
        };
        let text = serde_json::to_string(self).map_err(io::Error::from);
        let text = text.map_err(|error| node.wrong(name, error))?;
        node.remove_text("confirmed")?;
        node.write_text(name, &text)?;
        node.remove_text(other)
    }

    /// It is over.
    ///
    /// # Errors
    /// When the node's folder cannot be written.
    pub fn end(node: &Node) -> Result<(), NodeError> {
        for name in ["trial.json", "trial-boot.json", "confirmed"] {
            node.remove_text(name)?;
        }
        Ok(())
    }

    /// The control plane has reached this node: whoever decides is told.
    ///
    /// # Errors
    /// When the node's folder cannot be written.
    pub fn confirm(&self, node: &Node) -> Result<(), NodeError> {
        node.write_text("confirmed", &self.root)
    }

    /// Whether that was said.
    ///
    /// # Errors
    /// When the node's folder cannot be read.
    pub fn is_confirmed(&self, node: &Node) -> Result<bool, NodeError> {
        let said = node.read_text("confirmed", MAX_BYTES)?;
        Ok(said.as_deref() == Some(self.root.as_str()))
    }

    /// What is switched to, as a path.
    pub fn system(&self) -> PathBuf {
        PathBuf::from(&self.root)
    }

    /// Whether it is about this path.
    pub fn is_about(&self, root: &StorePath) -> bool {
        self.root == root.absolute()
    }
}

/// The right to switch or to decide, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
    /// The lock that is handed down.
    change: File,
}

impl Turn {
    /// Nothing while somebody else has it.
    ///
    /// # Errors
    /// When the node's folder cannot be written.
    pub fn take(node: &Node) -> Result<Option<Turn>, NodeError> {
        Turn::by(node, FlockOperation::NonBlockingLockExclusive)
    }

    /// Waits until nobody has it: a switch that goes on decides for itself.
    ///
    /// # Errors
    /// When the node's folder cannot be written.
    pub fn wait(node: &Node) -> Result<Turn, NodeError> {
        loop {
            if let Some(turn) = Turn::by(node, FlockOperation::LockExclusive)? {
                return Ok(turn);
            }
        }
    }

    /// Waits for what was started by a switch that was killed; not for ever, in case something of
    /// it has become a service.
    pub fn await_orphans(&self) {
        let begin = Instant::now();
        while flock(&self.change, FlockOperation::NonBlockingLockExclusive).is_err()
            && begin.elapsed() < ORPHANS_TIMEOUT
        {
            std::thread::sleep(LOOK);
        }
        self.let_go();
    }

    /// Does what starts other programs that change this node: until they have ended, nobody
    /// decides, also when this program is killed. (A lock belongs to an open file, which whoever
    /// is started inherits; it is let go of for all of them when this program sees the end.)
    pub fn change<T>(&self, work: impl FnOnce() -> T) -> T {
        // Where either fails it is as it would be without: only who is killed notices.
        let held = flock(&self.change, FlockOperation::NonBlockingLockExclusive);
        let inherited = held.and_then(|()| fcntl_setfd(&self.change, FdFlags::empty()));
        let done = work();
        if inherited.is_ok() {
            fcntl_setfd(&self.change, FdFlags::CLOEXEC).ok();
        }
        self.let_go();
        done
    }

    fn let_go(&self) {
        flock(&self.change, FlockOperation::Unlock).ok();
    }

    fn by(node: &Node, how: FlockOperation) -> Result<Option<Turn>, NodeError> {
        let wrong = |error| node.wrong("switch.lock", error);
        std::fs::create_dir_all(node.folder()).map_err(wrong)?;
        let open = |name: &str| File::create(node.folder().join(name)).map_err(wrong);
        let lock = open("switch.lock")?;
        let change = open("change.lock")?;
        match flock(&lock, how) {
            Ok(()) => Ok(Some(Turn {
                _lock: lock,
                change,
            })),
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(None),
            Err(error) => Err(wrong(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(mode: SwitchMode) -> Trial {
        Trial {
            root: "/nix/store/x".to_owned(),
            mode,
            profile: "/p".into(),
            before: Some(Generation {
                number: 1,
                system: "/nix/store/y".into(),
            }),
            health: Some("true".to_owned()),
            health_timeout_s: 5,
            confirm_within_s: Some(60),
            control_plane: vec!["tcp:h:22".to_owned()],
            watch_for_s: 60,
            boot: "b".to_owned(),
            stage: Stage::Switching,
        }
    }

    #[test]
    fn there_is_one_trial_and_only_its_own_confirmation_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::at(folder.path().join("state"));
        assert_eq!(Trial::of(&node).expect("a look"), None);
        let first = trial(SwitchMode::Boot);
        first.write(&node).expect("written");
        assert_eq!(Trial::of(&node).expect("a look"), Some(first.clone()));
        first.confirm(&node).expect("said");
        assert!(first.is_confirmed(&node).expect("a look"));
        // The next one takes its place, and what was said of the first does not hold for it.
        let second = Trial {
            root: "/nix/store/z".to_owned(),
            ..trial(SwitchMode::Switch)
        };
        second.write(&node).expect("written");
        assert_eq!(Trial::of(&node).expect("a look"), Some(second.clone()));
        assert!(!second.is_confirmed(&node).expect("a look"));
        first.confirm(&node).expect("said late");
        assert!(!second.is_confirmed(&node).expect("a look"));
        Trial::end(&node).expect("over");
        assert_eq!(Trial::of(&node).expect("a look"), None);
    }

    #[test]
    fn one_at_a_time_has_its_turn() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::at(folder.path().to_owned());
        let turn = Turn::take(&node).expect("a lock").expect("it is free");
        assert!(Turn::take(&node).expect("a lock").is_none());
        drop(turn);
        assert!(Turn::take(&node).expect("a lock").is_some());
    }
}
