//! Unpacking and hashing frames, for a scrub: on all cores, or on as few as keep its rate.
//!
//! Guarantees: at most [`BATCHES`] batches of [`BATCH_BYTES`] wait; `finish` returns when all that
//! was handed in has been checked.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Instant;

use snowcache_core::recipe::{FRAME_MAX_BYTES, FrameId};

use crate::quarantine::{Broken, Damage};
use crate::record::{FRAME_HEADER_BYTES, FrameHeader};
use crate::segments::SegmentId;
use crate::{Error, Result};

/// Stored bytes handed to a thread at once: a dozen frames, some 3 ms of work.
const BATCH_BYTES: usize = 512 << 10;

/// A thread that is to stand back sleeps so many times as long as it worked, after each frame: it
/// never keeps a core for more than a frame's 0.1 to 2 ms, whatever the scheduler thinks of it.
const REST: u32 = 2;

/// Stored bytes that a thread that stands back unpacks and hashes a second: a third of the slowest
/// seen.
const THREAD_BYTES_PER_S: u64 = 64 << 20;

/// Batches that wait, over all threads.
const BATCHES: usize = 8;

/// Frames, and where their bytes lie in the batch.
#[derive(Default)]
struct Batch {
    segment: SegmentId,
    frames: Vec<(u64, FrameHeader)>,
    stored: Vec<u8>,
}

impl Batch {
    /// One that need not grow: growing moves what it holds, and page faults hold up other threads.
    fn roomy() -> Batch {
        Batch {
            stored: Vec::with_capacity(BATCH_BYTES + FRAME_MAX_BYTES),
            ..Batch::default()
        }
    }
}

/// The handle to the threads.
pub struct Unpackers {
    open: Mutex<Open>,
    damage: Mutex<Receiver<Vec<Damage>>>,
}

struct Open {
    batches: SyncSender<Batch>,
    batch: Batch,
    /// Batches whose answer was not taken yet.
    under_way: usize,
}

/// How much of the machine is used.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Threads that unpack.
    pub threads: usize,
    /// Whether they rest after each frame.
    pub stands_back: bool,
}

impl Effort {
    /// All cores.
    pub fn all() -> Effort {
        Effort {
            threads: cores(),
            stands_back: false,
        }
    }

    /// Threads that stand back, as many as keep the rate; all cores without a rate, or where it is
    /// too high for that.
    pub fn for_rate(bytes_per_s: Option<u64>) -> Effort {
        let wanted = bytes_per_s.map(|rate| rate.div_ceil(THREAD_BYTES_PER_S).max(1));
        match wanted.map(usize::try_from) {
            Some(Ok(threads)) if threads <= cores() => Effort {
                threads,
                stands_back: true,
            },
            _ => Effort::all(),
        }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get())
}

/// Runs `work` with threads that unpack for it.
pub fn with_unpackers<T>(effort: Effort, work: impl FnOnce(&Unpackers) -> Result<T>) -> Result<T> {
    let (batches, queue) = sync_channel(BATCHES);
    let (answers, damage) = channel();
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        for number in 0..effort.threads {
            let (queue, answers) = (&queue, answers.clone());
            std::thread::Builder::new()
                .name(format!("scrub-{number}"))
                .spawn_scoped(scope, move || unpack(queue, &answers, effort.stands_back))
                .map_err(|e| Error::io("starting a thread", e))?;
        }
        let open = Open {
            batches,
            batch: Batch::roomy(),
            under_way: 0,
        };
        let unpackers = Unpackers {
            open: Mutex::new(open),
            damage: Mutex::new(damage),
        };
        work(&unpackers) // dropping the queue's end ends the threads
    })
}

impl Unpackers {
    /// Hands a frame in; waits while too much is under way.
    pub fn hand_in(
        &self,
        segment: SegmentId,
        at: u64,
        frame: FrameHeader,
        stored: &[u8],
    ) -> Result<()> {
        let mut open = self.open.lock().expect("invariant: one thread hands in");
        open.batch.segment = segment;
        open.batch.frames.push((at, frame));
        open.batch.stored.extend_from_slice(stored);
        if open.batch.stored.len() < BATCH_BYTES {
            return Ok(());
        }
        open.send()
    }

    /// Waits until everything handed in was checked; what was damaged.
    pub fn finish(&self) -> Result<Vec<Damage>> {
        let mut open = self.open.lock().expect("invariant: one thread hands in");
        if !open.batch.frames.is_empty() {
            open.send()?;
        }
        let damage = self.damage.lock().expect("invariant: one thread takes");
        let mut all = Vec::new();
        while open.under_way > 0 {
            all.extend(damage.recv().map_err(|_| Error::closed())?);
            open.under_way -= 1;
        }
        Ok(all)
    }
}

impl Open {
    fn send(&mut self) -> Result<()> {
        self.under_way += 1;
        let batch = std::mem::replace(&mut self.batch, Batch::roomy());
        self.batches.send(batch).map_err(|_| Error::closed())
    }
}

fn unpack(queue: &Mutex<Receiver<Batch>>, answers: &Sender<Vec<Damage>>, stands_back: bool) {
    let mut decompressor = match zstd::bulk::Decompressor::new() {
        Ok(decompressor) => decompressor,
        Err(error) => return tracing::error!(%error, "zstd does not start"),
    };
    let mut raw = Vec::with_capacity(FRAME_MAX_BYTES);
    loop {
        let batch = queue
            .lock()
            .expect("invariant: no panic in a receive")
            .recv();
        let Ok(batch) = batch else { return };
        let (mut damage, mut from) = (Vec::new(), 0);
        for (at, frame) in &batch.frames {
            let began = Instant::now();
            let stored = &batch.stored[from..from + frame.stored_len as usize];
            from += stored.len();
            raw.clear();
            let unpacked = decompressor.decompress_to_buffer(stored, &mut raw).is_ok();
            let same =
                unpacked && raw.len() == frame.raw_len as usize && FrameId::of(&raw) == frame.id;
            if !same {
                damage.push(Damage {
                    segment: batch.segment.0,
                    offset: *at,
                    bytes: FRAME_HEADER_BYTES as u64 + u64::from(frame.stored_len),
                    what: Broken::Frame(frame.id),
                });
            }
            if stands_back {
                std::thread::sleep(began.elapsed() * REST);
            }
        }
        if answers.send(damage).is_err() {
            return;
        }
    }
}
