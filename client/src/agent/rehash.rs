//! What receipts name is read again from time to time, and hashed: a disk that loses bits, or a
//! change deep inside a path, shows in nothing that the gate looks at.
//!
//! ```text
//!   every period_s, while nothing is brought here:
//!     each path on a receipt, in order --> nix-daemon --> SHA-256, no faster than `rate`
//!       right             on
//!       another hash      written down (`damage`): its receipts do not pass any more
//!       cannot be read    the same, if the nix-daemon answers otherwise
//! ```
//! The cost is that of the rate: a GB takes about two seconds of a core (the daemon's reading, the
//! hash; docs/performance.md) and is read from the disk once.
//!
//! Guarantees: killed, it goes on where it was [`SAVE`] before; what is brought has the node for
//! itself. Every path that stays for a period and a pass is read. Never: anything mended or
//! removed.

use super::Agent;
use super::work::fraction;
use crate::damage;
use crate::queue::report::now_s;
use crate::receipt::{self, Line, ReceiptError, Stamp};
use crate::show;
use crate::store::Store;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use snowcache_core::cache::{Cache, Narinfo};
use snowcache_core::error::{Error, Kind};
use snowcache_nix::{Compression, StorePath};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Where it is remembered how far it is.
const FILE: &str = "rehash.json";
/// Three passes at most, of some numbers and a path.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// So much of it may be done again by who comes after a kill: a write of a small file in that time.
const SAVE: Duration = Duration::from_secs(5);
/// How often it is looked whether there is time for it: what is brought begins and ends by jobs,
/// which are heard of, and by waits between attempts, which are not.
const LOOK: Duration = Duration::from_secs(1);
/// A clock may be set meanwhile.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Before a nix-daemon that does not answer is asked again.
const REST: Duration = Duration::from_secs(5);
/// A path that cannot be read so often, each time by a daemon that has just said hello, is damaged.
const TRIES: u32 = 3;

/// What is remembered of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Rehash {
    /// When the next pass begins, in seconds since 1970.
    pub next_s: u64,
    /// The pass that is under way.
    pub pass: Option<Pass>,
    /// The last one that came to its end.
    pub last: Option<Pass>,
}

/// Once through all that receipts name.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub struct Pass {
    /// When it began, in seconds since 1970.
    pub began_s: u64,
    /// When it came to its end; 0: not yet.
    pub ended_s: u64,
    /// How many paths were read.
    pub paths: u64,
    /// How many were to be when it was begun or gone on with.
    pub of_paths: u64,
    /// How much that was.
    pub nar_size_bytes: u64,
    /// How many were damaged.
    pub damaged: u64,
    /// The last one that was read.
    pub after: Option<String>,
}

/// How a path was found.
enum Found {
    Right {
        nar_size_bytes: u64,
    },
    Damaged {
        what: String,
    },
    /// It is not there any more, or another one is there: its receipts are void already.
    Gone,
}

/// Goes through all of it again and again.
pub(super) async fn run(agent: &Arc<Agent>) -> Infallible {
    let period_s = agent.config.rehash.period_s;
    if period_s == 0 {
        return std::future::pending().await;
    }
    begin(agent, period_s);
    loop {
        if agent.held().rehash.pass.is_none() {
            wait_for_turn(agent).await;
            change(agent, |kept| {
                let pass = Pass {
                    began_s: now_s(),
                    ..Pass::default()
                };
                kept.pass = Some(pass);
            });
        }
        if let Err(error) = pass(agent).await {
            eprintln!("snowcache: what is here cannot be hashed again: {error}");
            sleep(REST).await;
            continue;
        }
        change(agent, |kept| {
            let mut pass = kept.pass.take().unwrap_or_default();
            (pass.ended_s, pass.after) = (now_s(), None);
            // A fleet that was switched on at one time need not read at one time.
            let wait_s = Duration::from_secs(period_s).mul_f64(1.0 - fraction() / 4.0);
            kept.next_s = pass.began_s + wait_s.as_secs().max(1);
            kept.last = Some(pass);
        });
    }
}

/// What was remembered. A node that never did this has just verified what its receipts name.
fn begin(agent: &Agent, period_s: u64) {
    let text = agent.node.read_text(FILE, MAX_FILE_BYTES);
    let kept = text.ok().flatten();
    let kept = kept.and_then(|text| serde_json::from_str::<Rehash>(&text).ok());
    let latest_s = now_s().saturating_add(period_s);
    let kept = match kept {
        // The period may have been another one.
        Some(kept) => Rehash {
            next_s: kept.next_s.min(latest_s),
            ..kept
        },
        None => Rehash {
            next_s: latest_s,
            ..Rehash::default()
        },
    };
    change(agent, |held| *held = kept);
}

async fn wait_for_turn(agent: &Agent) {
    loop {
        let left_s = agent.held().rehash.next_s.saturating_sub(now_s());
        if left_s == 0 {
            return;
        }
        sleep(Duration::from_secs(left_s).min(LONGEST_SLEEP)).await;
    }
}

/// Changes what is remembered, here and on the disk.
fn change(agent: &Agent, how: impl FnOnce(&mut Rehash)) {
    let kept = {
        let mut held = agent.held();
        how(&mut held.rehash);
        held.rehash.clone()
    };
    let text = serde_json::to_string(&kept).map_err(io::Error::from);
    let text = text.map_err(|error| agent.node.wrong(FILE, error));
    // Without it the pass is done again, which is no harm.
    if let Err(error) = text.and_then(|text| agent.node.write_text(FILE, &text)) {
        eprintln!("snowcache: {error}");
    }
}

/// From where it is to its end.
async fn pass(agent: &Arc<Agent>) -> Result<(), ReceiptError> {
    let node = agent.node.clone();
    let known = tokio::task::spawn_blocking(move || {
        damage::forget_what_is_over(&node)?;
        receipt::lines_of_all(&node)
    });
    let lines = known.await.unwrap_or_else(|_| Ok(BTreeMap::new()))?;
    let mut pass = agent.held().rehash.pass.clone().unwrap_or_default();
    pass.of_paths = lines.len() as u64;
    let after = pass.after.as_deref().and_then(|it| it.parse().ok());
    let from: Bound<StorePath> = after.map_or(Bound::Unbounded, Bound::Excluded);
    let store = Store::at(agent.config.store_socket.clone());
    let mut saved = Instant::now();
    for line in lines.range((from, Bound::Unbounded)).map(|(_, line)| line) {
        match look(agent, &store, line).await {
            Found::Right { nar_size_bytes } => {
                damage::mended(&agent.node, &line.path)?;
                pass.nar_size_bytes += nar_size_bytes;
            }
            Found::Damaged { what } => {
                pass.damaged += 1;
                damage::found(&agent.node, &line.path, line.stamp, &what)?;
                let path = line.path.absolute();
                eprintln!("snowcache: DAMAGED: {path}: {what}");
            }
            Found::Gone => {}
        }
        (pass.paths, pass.after) = (pass.paths + 1, Some(line.path.to_string()));
        agent.held().rehash.pass = Some(pass.clone());
        if saved.elapsed() >= SAVE {
            change(agent, |_| {});
            saved = Instant::now();
        }
    }
    Ok(())
}

/// One path, however long the nix-daemon is away.
async fn look(agent: &Agent, store: &Store, line: &Line) -> Found {
    let mut tries = 0;
    loop {
        let what = match store.path_info(&line.path).await {
            Ok(None) => return Found::Gone,
            Ok(Some(known)) => {
                let narinfo = Narinfo {
                    url: line.path.absolute(),
                    compression: Compression::None,
                    file_size_bytes: None,
                    info: known.info,
                };
                match read(agent, store, narinfo, line).await {
                    Ok(nar_size_bytes) => return Found::Right { nar_size_bytes },
                    Err(error) => Some(error),
                }
            }
            // Whoever cannot be asked says nothing of the path.
            Err(_) => None,
        };
        if Stamp::of(&line.path).ok() != Some(line.stamp) {
            return Found::Gone;
        }
        if let Some(error) = what {
            tries += 1;
            if error.kind() == Kind::Corrupt || tries == TRIES {
                let what = error.to_string();
                return Found::Damaged { what };
            }
        }
        store.forget_connections().await;
        sleep(REST).await;
    }
}

/// Reads and hashes it, at the rate, while there is time for it.
async fn read(
    agent: &Agent,
    store: &Store,
    mut narinfo: Narinfo,
    line: &Line,
) -> Result<u64, Error> {
    narinfo.info.nar_hash = line.nar_hash;
    wait_for_time(agent).await;
    let mut nar = store.nar(&narinfo).await?;
    while let Some(chunk) = nar.next().await {
        agent.rehashing.spend(chunk?.len()).await;
        wait_for_time(agent).await;
    }
    Ok(narinfo.info.nar_size)
}

/// Until nothing is brought here.
async fn wait_for_time(agent: &Agent) {
    let mut changed = agent.changed.subscribe();
    loop {
        {
            let held = agent.held();
            if held.running.is_none() && held.jobs.next(agent.now()).is_none() {
                return;
            }
        }
        drop(timeout(LOOK, changed.changed()).await);
    }
}

impl Rehash {
    /// How it stands, for people.
    pub fn line(&self) -> String {
        let size = |pass: &Pass| show::size(pass.nar_size_bytes);
        match (&self.pass, &self.last) {
            (Some(pass), _) => {
                let (paths, of) = (show::count(pass.paths), show::paths(pass.of_paths as usize));
                let (size, began) = (size(pass), show::time(pass.began_s));
                format!("{paths} of {of}, {size}, since {began}")
            }
            (None, Some(last)) => {
                let (paths, ended) = (show::paths(last.paths as usize), show::time(last.ended_s));
                let (size, again) = (size(last), show::time(self.next_s));
                let wrong = match last.damaged {
                    0 => "all of them right".to_owned(),
                    damaged => format!("{} of them DAMAGED", show::count(damaged)),
                };
                format!("{paths}, {size}, {wrong}, {ended}; again {again}")
            }
            (None, None) if self.next_s == 0 => "never".to_owned(),
            (None, None) => format!("for the first time {}", show::time(self.next_s)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_how_it_stands() {
        let never = Rehash::default();
        assert_eq!(never.line(), "never");
        let first = Rehash {
            next_s: 1_700_000_000,
            ..Rehash::default()
        };
        assert_eq!(first.line(), "for the first time 2023-11-14 22:13 UTC");
        let pass = Pass {
            began_s: 1_700_000_000,
            ended_s: 1_700_000_060,
            paths: 3,
            of_paths: 12,
            nar_size_bytes: 2048,
            ..Pass::default()
        };
        let under_way = Rehash {
            pass: Some(pass.clone()),
            last: Some(pass.clone()),
            ..first.clone()
        };
        let said = "3 of 12 paths, 2.0 KiB, since 2023-11-14 22:13 UTC";
        assert_eq!(under_way.line(), said);
        let last = Pass { damaged: 1, ..pass };
        let over = Rehash {
            last: Some(last),
            ..first
        };
        let said = "3 paths, 2.0 KiB, 1 of them DAMAGED, 2023-11-14 22:14 UTC; again 2023-11-14 \
                    22:13 UTC";
        assert_eq!(over.line(), said);
    }
}
