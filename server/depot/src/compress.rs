//! Compression on all cores, for every upload of the depot.
//!
//! Guarantees: at most [`MAX_WAITING_BYTES`] of raw bytes wait or are being compressed, whoever
//! sent them; results come back to each upload in the order in which it asked. Never touches a
//! segment.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use snowcache_core::recipe::FrameId;
use zstd::bulk::Compressor;

use crate::record::{Checksum, FrameHeader};
use crate::{Error, Result};

/// Raw bytes handed in and not yet compressed, over all uploads: 32 of the largest pieces keep many
/// cores busy.
pub const MAX_WAITING_BYTES: usize = 32 << 20;

/// A frame ready to be appended.
pub struct Frame {
    /// Its header.
    pub header: FrameHeader,
    /// One zstd frame with content size, without dictionary.
    pub stored: Vec<u8>,
}

struct Job {
    id: FrameId,
    raw: Vec<u8>,
    reply: SyncSender<Result<Frame>>,
}

/// The threads that compress.
pub struct Compressors {
    jobs: Option<Sender<Job>>,
    budget: Arc<Budget>,
    threads: Vec<JoinHandle<()>>,
}

impl Compressors {
    /// Starts `threads` threads that compress at zstd `level`.
    pub fn start(threads: usize, level: i32) -> Result<Compressors> {
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let budget = Arc::new(Budget::default());
        let start = |number: usize| {
            let (queue, budget) = (queue.clone(), budget.clone());
            let compressor = Compressor::new(level).map_err(|e| Error::io("starting zstd", e))?;
            let thread = std::thread::Builder::new().name(format!("compress-{number}"));
            let run = move || work(&queue, &budget, compressor);
            thread
                .spawn(run)
                .map_err(|e| Error::io("starting a thread", e))
        };
        let threads = (0..threads.max(1)).map(start).collect::<Result<_>>()?;
        Ok(Compressors {
            jobs: Some(jobs),
            budget,
            threads,
        })
    }

    /// Hands a span in; waits while too much is under way.
    pub fn compress(&self, id: FrameId, raw: &[u8]) -> Result<Receiver<Result<Frame>>> {
        self.budget.take(raw.len());
        let (reply, result) = sync_channel(1);
        let jobs = self.jobs.as_ref().ok_or_else(Error::closed)?;
        jobs.send(Job {
            id,
            raw: raw.to_vec(),
            reply,
        })
        .map_err(|_| Error::closed())?;
        Ok(result)
    }
}

impl Drop for Compressors {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a compression thread panicked");
            }
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, budget: &Budget, mut compressor: Compressor<'_>) {
    loop {
        let job = queue
            .lock()
            .expect("invariant: no panic while the lock is held")
            .recv();
        let Ok(Job { id, raw, reply }) = job else {
            return;
        };
        let raw_len = raw.len();
        let frame = compressor.compress(&raw).map(|stored| {
            let checksum = Checksum::of(&stored);
            let (raw_len, stored_len) = (raw_len as u32, stored.len() as u32);
            Frame {
                header: FrameHeader {
                    id,
                    raw_len,
                    stored_len,
                    checksum,
                },
                stored,
            }
        });
        drop(raw);
        budget.give_back(raw_len);
        if reply
            .send(frame.map_err(|e| Error::io("compressing", e)))
            .is_err()
        {
            tracing::trace!("an upload went away while its frame was compressed");
        }
    }
}

#[derive(Default)]
struct Budget {
    used: Mutex<usize>,
    freed: Condvar,
}

impl Budget {
    fn take(&self, bytes: usize) {
        let used = self
            .used
            .lock()
            .expect("invariant: no panic while the lock is held");
        let full = |used: &mut usize| *used > 0 && *used + bytes > MAX_WAITING_BYTES;
        let used = self.freed.wait_while(used, full);
        *used.expect("invariant: no panic while the lock is held") += bytes;
    }

    fn give_back(&self, bytes: usize) {
        *self
            .used
            .lock()
            .expect("invariant: no panic while the lock is held") -= bytes;
        self.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_in_order_and_decode() {
        let compressors = Compressors::start(3, 3).expect("start");
        let raws: Vec<Vec<u8>> = (0..100u8).map(|n| vec![n; 700_000]).collect();
        let waiting: Vec<_> = raws
            .iter()
            .map(|raw| {
                compressors
                    .compress(FrameId::of(raw), raw)
                    .expect("compress")
            })
            .collect();
        for (raw, waiting) in raws.iter().zip(waiting) {
            let frame = waiting.recv().expect("reply").expect("frame");
            assert_eq!(frame.header.id, FrameId::of(raw));
            assert_eq!(frame.header.checksum, Checksum::of(&frame.stored));
            assert_eq!(
                &zstd::bulk::decompress(&frame.stored, 1 << 20).expect("zstd"),
                raw
            );
        }
    }
}
