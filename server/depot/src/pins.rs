//! Pins: names for store paths that must stay, with the generations that each name went through.
//!
//! ```text
//!   pin "web", keep 3            generation    4   5   6   7     newest
//!                                              |   |   ^   |
//!                                  outside keep  kept  |  kept
//!                                              |    current (rolled back)
//!                                             gone
//! ```
//!
//! What it guarantees: a number is given once in a pin's life; the current generation and the
//! newest always stay; the rest stays as long as [`Keep`] says. All of it is pure: the time comes
//! in as an argument. What it never does: look whether a root is in a cache, or write anything.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use snowcache_nix::StorePath;

use crate::keys::CacheName;
use crate::{Error, Result};

/// The longest name of a pin, in bytes: it is a path segment of URLs and a word on a command line.
pub const MAX_PIN_NAME_BYTES: usize = 128;

/// The most roots of one generation. A root's name has at most 244 bytes, in JSON 247 with quotes
/// and comma: 1,000 roots are a request of 247 KB. (A machine is one root; one pull request's
/// checks are some hundreds.)
pub const MAX_PIN_ROOTS: usize = 1000;

/// The most generations that a pin holds; of more, the oldest are dropped, whatever `keep` says.
/// One a day for nearly three years.
pub const MAX_GENERATIONS: usize = 1000;

/// The most roots of all generations of a pin; of more, the oldest generations are dropped. A pin
/// is one record, written anew at each change: 100,000 roots of at most 247 bytes are 25 MB.
pub const MAX_ROOTS_OF_ALL: usize = 100_000;

/// The name of a pin: 1 to 128 of letters, digits, `.`, `_` and `-`, beginning with none of `.-`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PinName(Box<str>);

impl PinName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PinName {
    type Err = Error;

    fn from_str(name: &str) -> Result<PinName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=MAX_PIN_NAME_BYTES).contains(&name.len());
        if !fits || !name.bytes().all(good) || name.starts_with(['.', '-']) {
            return Err(Error::refused(format!(
                "{name:?} is no name of a pin: use 1 to {MAX_PIN_NAME_BYTES} of A-Z, a-z, 0-9, \
                 '.', '_' and '-', and begin with a letter, a digit or '_'"
            )));
        }
        Ok(PinName(name.into()))
    }
}

impl TryFrom<String> for PinName {
    type Error = Error;

    fn try_from(name: String) -> Result<PinName> {
        name.parse()
    }
}

impl From<PinName> for String {
    fn from(name: PinName) -> String {
        name.0.into()
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many of a pin's generations stay. Written `all`, `5` or `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Keep {
    /// All, up to [`MAX_GENERATIONS`].
    All,
    /// The newest so many, and the current one.
    Generations(u32),
    /// Those that were current at some time within the last so many seconds.
    Seconds(u64),
}

/// Units of a [`Keep::Seconds`], the largest first.
const UNITS: [(char, u64); 5] = [
    ('w', 7 * 86_400),
    ('d', 86_400),
    ('h', 3600),
    ('m', 60),
    ('s', 1),
];

impl Default for Keep {
    /// Five: today's, and four to go back to.
    fn default() -> Keep {
        Keep::Generations(5)
    }
}

impl FromStr for Keep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Keep> {
        let number = |digits: &str| {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse::<u64>().ok().filter(|n| plain && *n > 0)
        };
        let seconds = || {
            let (unit, seconds) = UNITS.iter().find(|(unit, _)| text.ends_with(*unit))?;
            number(text.strip_suffix(*unit)?)?.checked_mul(*seconds)
        };
        let generations = || number(text).and_then(|n| u32::try_from(n).ok());
        match text {
            "all" => Some(Keep::All),
            _ => generations()
                .map(Keep::Generations)
                .or_else(|| seconds().map(Keep::Seconds)),
        }
        .ok_or_else(|| {
            Error::refused(format!(
                "{text:?} does not say what a pin keeps: write all, a number of generations (5), \
                 or a time with its unit of s, m, h, d, w (30d)"
            ))
        })
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Keep::All => f.write_str("all"),
            Keep::Generations(count) => write!(f, "{count}"),
            Keep::Seconds(seconds) => {
                let whole = UNITS.iter().find(|(_, unit)| seconds % unit == 0);
                let (letter, unit) = whole.expect("invariant: one second divides every time");
                write!(f, "{}{letter}", seconds / unit)
            }
        }
    }
}

impl TryFrom<String> for Keep {
    type Error = Error;

    fn try_from(text: String) -> Result<Keep> {
        text.parse()
    }
}

impl From<Keep> for String {
    fn from(keep: Keep) -> String {
        keep.to_string()
    }
}

/// What a pin stood for at one time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Counts up from 1 and is never given twice.
    pub number: u64,
    /// The store paths that it keeps, with all that they refer to.
    #[serde(with = "base_names")]
    pub roots: Vec<StorePath>,
    /// When it was made, in seconds since 1970.
    pub time: u64,
    /// Who made it.
    pub subject: String,
    /// When it last ceased to be the current one, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

/// A pin of one cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name.
    pub name: PinName,
    /// The number of the generation that counts.
    pub current: u64,
    /// How long others stay.
    pub keep: Keep,
    /// When the whole pin ends, in seconds since 1970.
    pub expires: Option<u64>,
    /// By rising number. Empty only in the record that says that the pin was removed.
    pub generations: Vec<Generation>,
}

/// A pin as it is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinState {
    /// The cache that it belongs to.
    pub cache: CacheName,
    /// The pin.
    #[serde(flatten)]
    pub pin: Pin,
}

/// A new generation for a pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinChange {
    /// What it keeps.
    pub roots: Vec<StorePath>,
    /// How long older generations stay; `None`: as before, for a new pin the default.
    pub keep: Option<Keep>,
    /// When the whole pin ends, in seconds since 1970; `None`: never.
    pub expires: Option<u64>,
}

impl Pin {
    /// The pin after `change`. The roots become a new, current generation, unless the current one
    /// has the same: then it stays, so that a repeated request moves nothing out of `keep`. Of a
    /// pin that had expired only the numbering goes on, since what it kept may be gone.
    ///
    /// # Errors
    /// No roots, or more than [`MAX_PIN_ROOTS`].
    pub fn set(
        before: Option<Pin>,
        name: &PinName,
        change: PinChange,
        now: u64,
        subject: &str,
    ) -> Result<Pin> {
        let roots = distinct(name, change.roots)?;
        let mut pin = before.unwrap_or_else(|| Pin::new(name));
        let newest = pin.generations.last().map_or(0, |newest| newest.number);
        if pin.is_expired(now) {
            pin.generations.clear();
        }
        pin.keep = change.keep.unwrap_or(pin.keep);
        pin.expires = change.expires;
        let same = |current: &Generation| {
            let set = |roots: &[StorePath]| roots.iter().cloned().collect::<BTreeSet<_>>();
            set(&current.roots) == set(&roots)
        };
        if !pin.current_generation().is_some_and(same) {
            pin.generations.push(Generation {
                number: newest + 1,
                roots,
                time: now,
                subject: subject.to_owned(),
                until: None,
            });
            pin.move_to(newest + 1, now);
        }
        Ok(pin.pruned(now))
    }

    /// The pin with generation `to` as the current one, or the newest below the current.
    ///
    /// # Errors
    /// There is no such generation any more, or the pin has expired.
    pub fn rollback(self, to: Option<u64>, now: u64) -> Result<Pin> {
        if self.is_expired(now) {
            return Err(Error::refused(format!(
                "pin {} has expired, what it kept may be gone: set it anew",
                self.name
            )));
        }
        let mut pin = self.pruned(now);
        let numbers = || pin.generations.iter().map(|generation| generation.number);
        let to = match to {
            Some(to) if numbers().any(|number| number == to) => to,
            Some(to) => {
                let there = list(numbers());
                return Err(Error::refused(format!(
                    "pin {} has no generation {to}: there are {there}",
                    pin.name
                )));
            }
            None => numbers()
                .rfind(|number| *number < pin.current)
                .ok_or_else(|| {
                    let there = list(numbers());
                    Error::refused(format!(
                        "pin {} has no generation before its current one, {}: there are {there}",
                        pin.name, pin.current
                    ))
                })?,
        };
        pin.move_to(to, now);
        Ok(pin)
    }

    /// The pin without the generations that `keep` and the limits let go. The current one and the
    /// newest always stay: the newest so that its number is not given again.
    pub fn pruned(mut self, now: u64) -> Pin {
        let dropped = self.generations.len() - self.kept(now).count();
        if dropped > 0 {
            self.generations = self.kept(now).cloned().collect();
        }
        self
    }

    /// Whether the pin has ended.
    pub fn is_expired(&self, now: u64) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// What must live: the roots of all generations that stay; of an expired pin none.
    pub fn roots(&self, now: u64) -> impl Iterator<Item = &StorePath> {
        let live = (!self.is_expired(now)).then(|| self.kept(now));
        live.into_iter()
            .flatten()
            .flat_map(|generation| &generation.roots)
    }

    /// The roots of the generation that counts; of an expired pin none.
    pub fn current_roots(&self, now: u64) -> &[StorePath] {
        match self.current_generation() {
            Some(generation) if !self.is_expired(now) => &generation.roots,
            _ => &[],
        }
    }

    /// The generation that counts.
    pub fn current_generation(&self) -> Option<&Generation> {
        self.generations
            .iter()
            .find(|generation| generation.number == self.current)
    }

    fn new(name: &PinName) -> Pin {
        Pin {
            name: name.clone(),
            current: 0,
            keep: Keep::default(),
            expires: None,
            generations: Vec::new(),
        }
    }

    fn move_to(&mut self, number: u64, now: u64) {
        if number == self.current {
            return;
        }
        for generation in &mut self.generations {
            if generation.number == self.current {
                generation.until = Some(now);
            } else if generation.number == number {
                generation.until = None;
            }
        }
        self.current = number;
    }

    /// The generations that stay, the oldest first.
    fn kept(&self, now: u64) -> impl Iterator<Item = &Generation> {
        let count = self.generations.len();
        let (mut stay, mut taken, mut roots) = (vec![false; count], 0, 0);
        for (at, generation) in self.generations.iter().enumerate().rev() {
            let fits =
                taken < MAX_GENERATIONS && roots + generation.roots.len() <= MAX_ROOTS_OF_ALL;
            let wanted = match self.keep {
                Keep::All => true,
                Keep::Generations(newest) => count - at <= newest as usize,
                Keep::Seconds(seconds) => self
                    .ended(at)
                    .is_some_and(|ended| now < ended.saturating_add(seconds)),
            };
            let always = at + 1 == count || generation.number == self.current;
            stay[at] = always || fits && wanted;
            if stay[at] {
                taken += 1;
                roots += generation.roots.len();
            }
        }
        self.generations
            .iter()
            .zip(stay)
            .filter_map(|(generation, stays)| stays.then_some(generation))
    }

    /// When the generation at this place ceased to be current: as recorded, or when its successor
    /// was made.
    fn ended(&self, at: usize) -> Option<u64> {
        let successor = || self.generations.get(at + 1).map(|next| next.time);
        self.generations[at].until.or_else(successor)
    }
}

/// The roots in their order, each once.
fn distinct(name: &PinName, mut roots: Vec<StorePath>) -> Result<Vec<StorePath>> {
    let mut seen = BTreeSet::new();
    roots.retain(|root| seen.insert(root.clone()));
    if roots.is_empty() {
        return Err(Error::refused(format!(
            "pin {name} was given no store path: name at least one, or remove the pin"
        )));
    }
    if roots.len() > MAX_PIN_ROOTS {
        return Err(Error::refused(format!(
            "pin {name} was given {} store paths, a generation has at most {MAX_PIN_ROOTS}: pin \
             one path that refers to the others, or use several pins",
            roots.len()
        )));
    }
    Ok(roots)
}

/// Numbers as a sentence says them, runs shortened.
fn list(numbers: impl Iterator<Item = u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let words = runs.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first}, {last}"),
        _ => format!("{first} to {last}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// Store paths as their base names.
mod base_names {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use snowcache_nix::StorePath;

    pub fn serialize<S: Serializer>(paths: &[StorePath], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(paths.iter().map(StorePath::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<StorePath>, D::Error> {
        let names = Vec::<String>::deserialize(from)?;
        let read = |name: String| name.parse().map_err(D::Error::custom);
        names.into_iter().map(read).collect()
    }
}

#[cfg(test)]
#[path = "pins_tests.rs"]
mod tests;
