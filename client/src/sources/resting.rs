//! Which caches are left alone for a while, and whether that is a guess.
//!
//! ```text
//!   silent   somebody else was faster, once       asked after those that are well
//!   gone     did not answer when asked whether    the same; and what only it can give is not
//!            it lives, refused, broke off, or     waited for where others have the whole path
//!            was left in the middle of a NAR
//! ```
//! Guarantees: nobody rests for longer than [`REST`] after the last time. Pure: the time is passed
//! in.

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a cache that did not answer is left alone: nix-daemon does so for a minute; here a
/// restart of the cache should be noticed within a prefetch.
pub const REST: Duration = Duration::from_secs(10);

/// Caches by their number, with until when they rest and until when they count as gone.
#[derive(Default)]
pub(super) struct Resting(BTreeMap<usize, (Instant, Option<Instant>)>);

impl Resting {
    /// It was slower than another one.
    pub fn silent(&mut self, cache: usize, now: Instant) {
        let gone = self.0.get(&cache).and_then(|(_, gone)| *gone);
        self.0.insert(cache, (now + REST, gone));
    }

    /// It gives nothing any more.
    pub fn gone(&mut self, cache: usize, now: Instant) {
        self.0.insert(cache, (now + REST, Some(now + REST)));
    }

    /// Whether others are asked before it.
    pub fn rests(&self, cache: usize, now: Instant) -> bool {
        self.0.get(&cache).is_some_and(|(until, _)| *until > now)
    }

    /// Whether it is no use to ask.
    pub fn is_gone(&self, cache: usize, now: Instant) -> bool {
        let gone = self.0.get(&cache).and_then(|(_, gone)| *gone);
        gone.is_some_and(|until| until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_guess_and_everything_passes() {
        let (mut resting, now) = (Resting::default(), Instant::now());
        resting.silent(0, now);
        assert!(resting.rests(0, now) && !resting.is_gone(0, now));
        resting.gone(0, now);
        // Silent once more, it is gone no longer than from the time that it was.
        let later = now + REST / 2;
        resting.silent(0, later);
        assert!(resting.is_gone(0, later));
        assert!(!resting.is_gone(0, now + REST) && resting.rests(0, now + REST));
        assert!(!resting.rests(0, later + REST));
        assert!(!resting.rests(1, now));
    }
}
