//! A lane: packs one NAR after another, asks for each window of pieces which frames are absent,
//! compresses these, and sends all of it down one stream.
//!
//! ```text
//!   pack --pieces--> window (4 MiB) --ids--> absent? --> compress --> records --> stream
//!                                                        known: its name            |
//!   the stream ends behind a NAR, after 64 MiB or 256 NARs: what became of each?  <-+
//! ```
//! Guarantees: a broken stream costs asking again: its NARs that had ended are held, and of the
//! last one what the cache got. Never: the same NAR tried without end.

use super::engine::{Job, MAX_ATTEMPTS, Work};
use super::pack::{PackError, pack};
use crate::remote::{NarFate, Next, RemoteError, Sending, wait_after};
use bytes::Bytes;
use snowcache_core::cut::Piece;
use snowcache_core::recipe::FrameId;
use snowcache_core::upload::{MAGIC, Record};
use snowcache_nix::NarHash;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use zstd::bulk::Compressor;

/// Raw bytes of pieces asked for at once: a dozen frames, so that asking costs little.
const WINDOW_BYTES: usize = 4 << 20;
/// Pieces asked for at once, the short ones included.
const WINDOW_PARTS: usize = 16_384;
/// Bytes handed to the connection at once.
const SEND_BYTES: usize = 256 << 10;
/// A stream ends after so many bytes, so that what came of them is known.
const STREAM_BYTES: u64 = 64 << 20;
/// And after so many NARs.
const STREAM_NARS: usize = 256;

/// A part of a NAR that waits to be sent.
enum Part {
    Begin(NarHash, u64),
    Literal(Vec<u8>),
    Piece { id: FrameId, raw: Vec<u8> },
    End,
}

/// The stream that is open.
struct Stream {
    sending: Sending,
    records: u64,
    bytes: u64,
    /// NARs whose records were begun on it.
    begun: usize,
    /// Frames sent on it, and for which of its NARs, by number.
    sent: HashMap<FrameId, usize>,
}

/// See the module.
pub(super) struct Lane {
    work: Arc<Work>,
    window: Vec<Part>,
    window_bytes: usize,
    /// How often the window was emptied.
    flushes: u64,
    /// NARs on the stream and in the window, in order.
    jobs: Vec<Job>,
    stream: Option<Stream>,
    failure: Option<RemoteError>,
}

impl Lane {
    pub fn new(work: Arc<Work>) -> Lane {
        Lane {
            work,
            window: Vec::new(),
            window_bytes: 0,
            flushes: 0,
            jobs: Vec::new(),
            stream: None,
            failure: None,
        }
    }

    /// Works until nothing is left.
    pub fn run(mut self) {
        loop {
            match self.work.next() {
                Some(job) => self.job(job),
                None if self.jobs.is_empty() || self.work.is_over() => return,
                None => self.finish(),
            }
        }
    }

    fn job(&mut self, job: Job) {
        let work = self.work.clone();
        let path = &work.paths[job.at];
        let nar = path.info.nar_hash;
        if job.attempt > 1 {
            match work.runtime.block_on(work.remote.absent_nars(&[nar])) {
                Ok(absent) if absent.is_empty() => return work.held(),
                Ok(_) => {}
                Err(error) => {
                    self.jobs.push(job);
                    self.failure = Some(error);
                    return self.broken();
                }
            }
        }
        let (begin, flushes) = (self.window.len(), self.flushes);
        self.window.push(Part::Begin(nar, path.info.nar_size));
        self.jobs.push(job);
        match pack(&path.file(), &mut |piece| self.take(piece)) {
            Ok(()) => {
                self.window.push(Part::End);
                let full = |stream: &Stream| stream.bytes >= STREAM_BYTES;
                if self.stream.as_ref().is_some_and(full) || self.jobs.len() >= STREAM_NARS {
                    self.finish();
                }
            }
            Err(PackError::Stopped) => self.broken(),
            Err(error) => {
                self.jobs.pop();
                work.failed(job, error.to_string());
                if self.flushes == flushes {
                    let dropped = self.window.drain(begin..);
                    self.window_bytes -= dropped.map(|part| part.len()).sum::<usize>();
                } else {
                    self.broken(); // what had ended before it is held, and found to be so
                }
            }
        }
    }

    /// Takes a piece of the NAR that is being packed; false when there is no point in going on.
    fn take(&mut self, piece: Piece<'_>) -> bool {
        let part = match piece {
            Piece::Literal(bytes) => Part::Literal(bytes.to_vec()),
            Piece::Span(raw) | Piece::Dense { raw, .. } => Part::Piece {
                id: FrameId::of(raw),
                raw: raw.to_vec(),
            },
        };
        let packed = &self.work.counts.packed_bytes;
        packed.fetch_add(part.len() as u64, Ordering::Relaxed);
        self.window_bytes += part.len();
        self.window.push(part);
        if self.window_bytes < WINDOW_BYTES && self.window.len() < WINDOW_PARTS {
            return !self.work.is_over();
        }
        match self.flush() {
            Ok(()) => true,
            Err(error) => {
                self.failure = Some(error);
                false
            }
        }
    }

    /// Sends the window.
    fn flush(&mut self) -> Result<(), RemoteError> {
        if self.window.is_empty() {
            return Ok(());
        }
        self.flushes += 1;
        self.window_bytes = 0;
        let window = std::mem::take(&mut self.window);
        let mut absent = self.compress(&window)?;
        let work = self.work.clone();
        let stream = self.stream.get_or_insert_with(|| Stream {
            // Spawns a task, so in the runtime's context.
            sending: work
                .runtime
                .block_on(async { work.remote.send_nars(&work.waits) }),
            records: 0,
            bytes: 0,
            begun: 0,
            sent: HashMap::new(),
        });
        let mut out = Vec::new();
        if stream.records == 0 {
            out.extend(MAGIC);
        }
        let mut going = true;
        for part in window {
            let is_frame = stream.put(part, &mut absent, &work, &mut out);
            if going && (is_frame || out.len() >= SEND_BYTES) {
                let bytes = Bytes::from(std::mem::take(&mut out));
                let piece = Next { bytes, is_frame };
                going = work.runtime.block_on(stream.send(piece, &work))?;
            }
        }
        if going {
            work.runtime
                .block_on(stream.send(Next::without_frame(out), &work))?;
        }
        Ok(())
    }

    /// The frames of the window that the cache does not have, compressed.
    fn compress(&self, window: &[Part]) -> Result<HashMap<FrameId, Vec<u8>>, RemoteError> {
        let mut raws: HashMap<FrameId, &[u8]> = HashMap::new();
        for part in window {
            if let Part::Piece { id, raw } = part {
                raws.insert(*id, raw);
            }
        }
        let ids: Vec<FrameId> = raws.keys().copied().collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let absent = self.work.remote.absent_frames(&ids);
        let absent = self.work.runtime.block_on(absent)?;
        let absent = ids.into_iter().zip(absent).filter(|(_, absent)| *absent);
        let mut compressor =
            Compressor::new(self.work.options.level).expect("invariant: a level that zstd has");
        let frames = absent.map(|(id, _)| {
            let frame = compressor.compress(raws[&id]);
            (
                id,
                frame.expect("invariant: the buffer has room for any frame"),
            )
        });
        Ok(frames.collect())
    }

    /// Ends the stream and sees to what became of its NARs.
    fn finish(&mut self) {
        if let Err(error) = self.flush() {
            self.failure = Some(error);
            return self.broken();
        }
        let Some(mut stream) = self.stream.take() else {
            return;
        };
        let work = self.work.clone();
        let mut out = Vec::new();
        let records = stream.records;
        Record::End { records }.put(&mut out);
        let ended = work.runtime.block_on(async {
            stream.send(Next::without_frame(out), &work).await?;
            stream.sending.finish().await
        });
        match ended {
            Ok(fates) if fates.len() == self.jobs.len() => {
                let jobs = std::mem::take(&mut self.jobs).into_iter();
                jobs.zip(fates)
                    .for_each(|(job, fate)| see_to(&work, job, fate));
            }
            Ok(_) => work.fatal(RemoteError::answered(
                work.remote.endpoint().join("api/v1/uploads"),
                "it tells of another number of NARs than were sent",
            )),
            Err(error) => {
                self.failure = Some(error);
                self.broken();
            }
        }
    }

    /// The stream is no more: everything on it is to be tried again.
    fn broken(&mut self) {
        self.window.clear();
        self.window_bytes = 0;
        // Its end would say that it was whole; dropped, it is cut off.
        let answered = self.stream.take().map(|stream| stream.sending.finish());
        let answered = answered.map(|answer| self.work.runtime.block_on(answer));
        let mut failure = self.failure.take();
        if let (Some(failure), Some(Err(said @ RemoteError::Status { .. }))) =
            (&mut failure, answered)
        {
            *failure = said; // rather than that the connection broke
        }
        if let Some(error) = failure {
            let most = self.jobs.iter().map(|job| job.attempt).max().unwrap_or(1);
            if most >= MAX_ATTEMPTS || !error.may_pass() {
                return self.work.fatal(error);
            }
            std::thread::sleep(wait_after(most));
        }
        for Job { at, attempt } in std::mem::take(&mut self.jobs) {
            let attempt = attempt + 1;
            self.work.again(Job { at, attempt });
        }
    }
}

fn see_to(work: &Work, job: Job, fate: NarFate) {
    let again = Job {
        attempt: job.attempt + 1,
        ..job
    };
    match fate {
        NarFate { held: true, .. } => work.held(),
        NarFate {
            refused: Some(why), ..
        } => work.failed(job, format!("the cache refused it: {why}")),
        _ if job.attempt < MAX_ATTEMPTS => work.again(again),
        _ => work.failed(job, "frames of it went away again and again".to_owned()),
    }
}

impl Part {
    /// NAR bytes in it.
    fn len(&self) -> usize {
        match self {
            Part::Begin(..) | Part::End => 0,
            Part::Literal(bytes) | Part::Piece { raw: bytes, .. } => bytes.len(),
        }
    }
}

impl Stream {
    /// Appends the record of a part; whether that is a frame.
    fn put(
        &mut self,
        part: Part,
        absent: &mut HashMap<FrameId, Vec<u8>>,
        work: &Work,
        out: &mut Vec<u8>,
    ) -> bool {
        self.records += 1;
        match part {
            Part::Begin(nar_hash, nar_size_bytes) => {
                self.begun += 1;
                Record::Nar {
                    nar_hash,
                    nar_size_bytes,
                }
                .put(out);
            }
            Part::Literal(bytes) => Record::Literal(&bytes).put(out),
            Part::End => Record::EndOfNar.put(out),
            Part::Piece { id, raw } => {
                let raw_len = raw.len() as u32;
                // What an earlier NAR of the stream brought is there when this one is read.
                let brought = self.sent.get(&id).is_some_and(|nar| *nar < self.begun);
                match absent.get(&id).filter(|_| !brought) {
                    Some(stored) => {
                        Record::Frame {
                            id,
                            raw_len,
                            stored,
                        }
                        .put(out);
                        self.sent.entry(id).or_insert(self.begun);
                        work.counts.sent_frames.fetch_add(1, Ordering::Relaxed);
                        return true;
                    }
                    None => {
                        Record::Known { id, raw_len }.put(out);
                        work.counts.known_frames.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        }
        false
    }

    async fn send(&mut self, next: Next, work: &Work) -> Result<bool, RemoteError> {
        let len = next.bytes.len() as u64;
        if len == 0 {
            return Ok(true);
        }
        self.bytes += len;
        let sent = &work.counts.sent_bytes;
        sent.fetch_add(len, Ordering::Relaxed);
        self.sending.send(next).await
    }
}
