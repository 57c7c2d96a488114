//! Answers to questions about deltas: each made once, for everyone who asks the same.
//!
//! ```text
//!   a question --SHA-256-> kept, and nothing changed of what it says   its bytes
//!                          under way                                   its bytes as they come
//!                          neither       a task makes it: what still holds of one that was kept
//!                                        before is taken from there, the rest is compared
//! ```
//! A fleet that is told to go from one generation to the next asks one question thousands of times.
//! Those that get an answer as it grows come in turn, since each of its pieces calls all of them.
//!
//! Guarantees: what is given out was true of what the cache showed when it was asked for, or while
//! it was made since. One that nobody waits for any more is made all the same, for the next.
//! Bounded: [`MAKING`] are made at a time, [`WAITING`] wait, [`KEPT_BYTES`] are kept; those asked
//! for last stay. Never: an error that was kept.

use super::errors::Refusal;
use crate::turns::Turns;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use snowcache_depot::{Basis, CacheName, Depot};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};

/// Answers that are made at a time: each compares on one thread.
const MAKING: usize = 2;
/// Questions that wait for that: with 720 KB of question and 4 MB of swaps each some 150 MB, when
/// all are as large as they may be; of usual ones, of 1,000 paths, a tenth.
const WAITING: usize = 32;
/// Bytes of answers that are kept, with what they rest on. The answer of a rebuild of 1,000 paths
/// takes 60 KB, and 24 bytes a path.
const KEPT_BYTES: usize = 32 << 20;
/// What an answer counts as at least, so that at most 1,024 are kept.
const LEAST_BYTES: usize = 32 << 10;

/// Plans that are made, and those that were.
pub struct Plans {
    answers: Mutex<HashMap<Key, Kept>>,
    places: Semaphore,
    clock: AtomicU64,
    made: AtomicU64,
    asked: AtomicU64,
}

type Key = [u8; 32];

struct Kept {
    answer: Arc<Answer>,
    /// When it was asked for last, by [`Plans::clock`].
    used: u64,
}

/// An answer, packed, perhaps still growing.
pub struct Answer {
    /// No other answer has it.
    id: u64,
    grown: Mutex<Grown>,
    steps: watch::Sender<usize>,
}

#[derive(Default)]
struct Grown {
    pieces: Vec<Bytes>,
    end: Option<End>,
}

#[derive(Clone)]
enum End {
    /// All of it, and what it rests on, pair by pair.
    Made(Bytes, Arc<[Basis]>),
    Failed,
}

/// What follows of an answer.
enum Next {
    Piece(Bytes),
    /// It is not made yet.
    Later,
    Over,
    Failed,
}

/// What a question comes to.
pub enum Found {
    /// An answer, or the beginning of one.
    Answer(Arc<Answer>),
    /// One that is to be made: by whoever asked, upon what is left of an earlier one.
    ToMake(Arc<Answer>, Option<Earlier>),
}

/// An answer that is not right any more in all.
pub struct Earlier {
    /// Its bytes, packed.
    pub packed: Bytes,
    /// What each of its deltas rests on.
    pub bases: Arc<[Basis]>,
}

impl Default for Plans {
    fn default() -> Plans {
        Plans {
            answers: Mutex::default(),
            places: Semaphore::new(MAKING),
            clock: AtomicU64::new(0),
            made: AtomicU64::new(0),
            asked: AtomicU64::new(0),
        }
    }
}

impl Plans {
    /// The answer to a question in a cache.
    ///
    /// # Errors
    /// 503 where too many wait for theirs to be made.
    pub fn find(
        &self,
        depot: &Depot,
        cache: &CacheName,
        question: &[u8],
    ) -> Result<Found, Refusal> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let key = key(cache, question);
        let used = self.clock.fetch_add(1, Ordering::Relaxed);
        let known = self.answers().get_mut(&key).map(|kept| {
            kept.used = used;
            kept.answer.clone()
        });
        // Not under the lock: of a large answer this looks at thousands of counters.
        let earlier = match known.map(|answer| (answer.end(), answer)) {
            Some((None, answer)) => return Ok(Found::Answer(answer)),
            Some((Some(End::Made(packed, bases)), answer)) => {
                if bases.iter().all(|basis| depot.rests(basis)) {
                    return Ok(Found::Answer(answer));
                }
                Some((answer.id, Earlier { packed, bases }))
            }
            Some((Some(End::Failed), answer)) => Some((answer.id, Earlier::default())),
            None => None,
        };
        let mut answers = self.answers();
        // Somebody else may have seen the same.
        if let Some(kept) = answers.get(&key)
            && earlier.as_ref().is_none_or(|(id, _)| *id != kept.answer.id)
        {
            return Ok(Found::Answer(kept.answer.clone()));
        }
        let waiting = answers.values().filter(|it| it.answer.end().is_none());
        if waiting.count() >= MAKING + WAITING {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many plans are asked for at once; begin a little later, or fetch whole NARs",
            )
            .retry());
        }
        let answer = Arc::new(Answer::new());
        let kept = Kept {
            answer: answer.clone(),
            used,
        };
        answers.insert(key, kept);
        self.made.fetch_add(1, Ordering::Relaxed);
        let earlier = earlier.map(|(_, earlier)| earlier);
        Ok(Found::ToMake(answer, earlier))
    }

    /// The answer that is kept or under way, right or not: for who has some of it.
    pub fn kept(&self, cache: &CacheName, question: &[u8]) -> Option<Arc<Answer>> {
        let answers = self.answers();
        answers
            .get(&key(cache, question))
            .map(|it| it.answer.clone())
    }

    /// Waits for a place to make one in.
    pub async fn place(&self) -> tokio::sync::SemaphorePermit<'_> {
        let place = self.places.acquire().await;
        place.expect("invariant: the semaphore is never closed")
    }

    /// One was made: those asked for longest ago go, where it is too much.
    pub fn made(&self) {
        let mut answers = self.answers();
        let sizes = answers.iter().filter_map(|(key, kept)| {
            let bytes = kept.answer.kept_bytes()?;
            Some((kept.used, *key, bytes))
        });
        let mut sizes: Vec<(u64, Key, usize)> = sizes.collect();
        sizes.sort_unstable();
        let mut sum = 0;
        for (_, key, bytes) in sizes.into_iter().rev() {
            sum += bytes;
            if sum > KEPT_BYTES {
                answers.remove(&key);
            }
        }
    }

    /// How many were asked for and made since the start, and how many bytes are kept.
    pub fn counted(&self) -> (u64, u64, usize) {
        let kept = self
            .answers()
            .values()
            .filter_map(|it| it.answer.kept_bytes())
            .sum();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (count(&self.asked), count(&self.made), kept)
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Key, Kept>> {
        // Whole whatever panicked: every change is one insert or remove.
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(cache: &CacheName, question: &[u8]) -> Key {
    let hasher = Sha256::new_with_prefix(cache.as_str());
    hasher
        .chain_update([0])
        .chain_update(question)
        .finalize()
        .into()
}

impl Default for Earlier {
    fn default() -> Earlier {
        Earlier {
            packed: Bytes::new(),
            bases: Arc::new([]),
        }
    }
}

impl Answer {
    fn new() -> Answer {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Answer {
            id: since.unwrap_or_default().as_nanos() as u64,
            grown: Mutex::default(),
            steps: watch::Sender::new(0),
        }
    }

    /// Its id, as its asker tells it.
    pub fn id(&self) -> String {
        format!("{:016x}", self.id)
    }

    /// The same as a header.
    pub fn etag(&self) -> HeaderValue {
        let etag = HeaderValue::from_str(&format!("\"{}\"", self.id()));
        etag.expect("invariant: hex and quotes")
    }

    /// Some more of it.
    pub fn grow(&self, piece: Bytes) {
        self.grown().pieces.push(piece);
        self.steps.send_modify(|steps| *steps += 1);
    }

    fn end(&self) -> Option<End> {
        self.grown().end.clone()
    }

    /// It ends here: with what its deltas rest on, or failed.
    pub fn ends(&self, bases: Option<Vec<Basis>>) {
        let mut grown = self.grown();
        let pieces = std::mem::take(&mut grown.pieces);
        let mut whole = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
        pieces
            .iter()
            .for_each(|piece| whole.extend_from_slice(piece));
        grown.end = Some(match bases {
            Some(bases) => End::Made(whole.freeze(), bases.into()),
            None => End::Failed,
        });
        drop(grown);
        self.steps.send_modify(|steps| *steps += 1);
    }

    /// What it takes of what may be kept; nothing while it grows.
    fn kept_bytes(&self) -> Option<usize> {
        Some(match self.end()? {
            End::Made(bytes, bases) => LEAST_BYTES + bytes.len() + size_of_val(&*bases),
            End::Failed => LEAST_BYTES,
        })
    }

    /// Its bytes from there on, as they come by turns, and how many they are if that is known.
    pub fn body(self: &Arc<Answer>, from: usize, turns: &Turns) -> Option<(Body, Option<usize>)> {
        if let Some(End::Made(bytes, _)) = self.end() {
            let rest = (from <= bytes.len()).then(|| bytes.slice(from..))?;
            let len = rest.len();
            return Some((Body::from(rest), Some(len)));
        }
        let start = (self.clone(), self.steps.subscribe(), turns.clone(), from);
        let pieces = futures::stream::unfold(start, |(answer, mut steps, turns, at)| async move {
            loop {
                match answer.after(at) {
                    Next::Piece(piece) => {
                        let next = at + piece.len();
                        return Some((Ok(piece), (answer, steps, turns, next)));
                    }
                    Next::Over => return None,
                    Next::Failed => {
                        let failed = Err("the depot failed; its log says why");
                        return Some((failed, (answer, steps, turns, usize::MAX)));
                    }
                    Next::Later => {
                        steps.changed().await.ok()?;
                        turns.take().await;
                    }
                }
            }
        });
        Some((Body::from_stream(pieces), None))
    }

    /// What there is of it from byte `at` on.
    fn after(&self, at: usize) -> Next {
        let grown = self.grown();
        match &grown.end {
            Some(End::Made(bytes, _)) if at < bytes.len() => Next::Piece(bytes.slice(at..)),
            Some(End::Made(..)) => Next::Over,
            Some(End::Failed) if at == usize::MAX => Next::Over,
            Some(End::Failed) => Next::Failed,
            None => {
                let (mut begin, mut rest) = (0, BytesMut::new());
                for piece in &grown.pieces {
                    let here = at.saturating_sub(begin).min(piece.len());
                    rest.extend_from_slice(&piece[here..]);
                    begin += piece.len();
                }
                match rest.is_empty() {
                    true => Next::Later,
                    false => Next::Piece(rest.freeze()),
                }
            }
        }
    }

    fn grown(&self) -> MutexGuard<'_, Grown> {
        // Whole whatever panicked: a piece is pushed, or the end set.
        self.grown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
