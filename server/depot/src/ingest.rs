//! One NAR on its way in: parsed, hashed, cut, compressed and appended while it streams by.
//!
//! ```text
//!   write(bytes) --> parse --> SHA-256 --> cut --> BLAKE3 --> known? --> compress --> append
//!   finish()     --> recipe, upload record --> fsync --> index --> the caller may acknowledge
//! ```
//!
//! A client of ours sends pieces that are compressed already, or by name: see [`offered`]; and what
//! came of its uploads outlives a process that dies: see [`coming`].
//!
//! Guarantees: what `finish` returned is durable, and its hash and size were computed from the
//! bytes; a NAR that is not canonical is refused at its first wrong byte; dropped before `finish`,
//! an upload leaves nothing behind. Memory is bounded: the cutter's window, [`MAX_QUEUED`] pieces,
//! and about 100 bytes for each frame of the NAR.

mod coming;
mod offered;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use snowcache_core::cut::{Cutter, Params, Piece};
use snowcache_core::recipe::{FrameId, Op, Recipe};
use snowcache_nix::NarHash;
use snowcache_nix::nar::{Event, Limits, Parser};

use crate::compress::Frame;
use crate::depot::Shared;
use crate::index::{Batch, Table};
use crate::keys::CacheName;
use crate::layout::{Builder, Layout, Location};
use crate::leases::holder;
use crate::pool::{AS_SENT, Stream};
use crate::record::{FrameHeader, Kind};
use crate::relayout::header_of;
use crate::rows::UploadRow;
use crate::state::{UploadState, recipe_payload, to_json};
use crate::uses::{Flight, FramePlace};
use crate::{Error, ErrorKind, Result, tenants};
use coming::Coming;
use offered::Offers;

pub(crate) use offered::kept_as;
pub use offered::{KEEP_BYTES, Lease, is_nar, native_name};

/// Pieces of one upload that wait for compression.
pub const MAX_QUEUED: usize = 8;

/// Bytes parsed before they are cut, so that the parser's notes on them stay few.
const STEP_BYTES: usize = 64 << 10;

/// What an upload is called and whose it is.
#[derive(Debug, Clone)]
pub struct Upload {
    /// The cache it was sent to.
    pub cache: CacheName,
    /// What came behind `nar/`.
    pub name: String,
    /// The compression it came in, by the narinfo's word for it.
    pub codec: String,
    /// Its length as it came, in bytes.
    pub file_size_bytes: u64,
    /// Who sent it.
    pub subject: String,
    /// When its lease ends, in seconds since 1970.
    pub expires_unix_s: u64,
}

/// What hashing a NAR gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nar {
    /// SHA-256 of the NAR.
    pub nar_hash: NarHash,
    /// Its length in bytes.
    pub nar_size_bytes: u64,
}

/// A NAR that is being received.
pub struct Ingest {
    /// Bytes received.
    received: u64,
    parser: Parser,
    sha256: Sha256,
    cutter: Cutter,
    /// Large files of the bytes being pushed: offset and size.
    files: Vec<(u64, u64)>,
    frames: Frames,
}

impl Ingest {
    pub(crate) fn new(depot: Arc<Shared>) -> Ingest {
        let limits = Limits {
            max_nar_size_bytes: depot.max_nar_bytes,
        };
        Ingest {
            received: 0,
            parser: Parser::with_limits(limits),
            sha256: Sha256::new(),
            cutter: Cutter::new(Params::V1),
            files: Vec::new(),
            frames: Frames {
                packs_anew: false,
                flight: depot.uses.take_off(),
                depot,
                ops: Vec::new(),
                cut: 0,
                offers: Offers::default(),
                queue: VecDeque::new(),
                fresh: Vec::new(),
                uncommitted: 0,
                streams: Vec::new(),
                coming: Coming::default(),
            },
        }
    }

    /// Takes the next bytes of the NAR.
    ///
    /// # Errors `BadNar` where they cannot be part of a canonical NAR, `Full` and `Storage` where
    /// they could not be kept. After an error the upload is over: drop it.
    pub fn write(&mut self, nar_bytes: &[u8]) -> Result<()> {
        for bytes in nar_bytes.chunks(STEP_BYTES) {
            let files = &mut self.files;
            self.parser
                .feed(bytes, &mut |event| {
                    if let Event::File { size, offset, .. } = event {
                        files.push((offset, size));
                    }
                })
                .map_err(|error| {
                    Error::caused(ErrorKind::BadNar, "this is no canonical NAR", error)
                })?;
            self.sha256.update(bytes);
            self.received += bytes.len() as u64;
            for (offset, size) in self.files.drain(..) {
                self.cutter.file(offset, size);
            }
            let (frames, mut failure) = (&mut self.frames, Ok(()));
            self.cutter
                .push(bytes, &mut |piece| frames.take(piece, &mut failure));
            failure?;
        }
        Ok(())
    }

    /// Whether more has come than this NAR has.
    ///
    /// # Errors
    /// `Refused` where it has.
    pub fn within(&self, claimed: &Nar) -> Result<()> {
        match self.received <= claimed.nar_size_bytes {
            true => Ok(()),
            false => Err(Error::refused(format!(
                "more came than the {} bytes that it was said to have; send it again",
                claimed.nar_size_bytes
            ))),
        }
    }

    /// The NAR is complete: makes it durable under the upload's name.
    ///
    /// # Errors
    /// `BadNar` where the NAR is not complete, `Full` and `Storage` where it could not be kept.
    pub fn finish(self, upload: Upload) -> Result<Nar> {
        let (mut frames, nar) = self.end()?;
        frames.commit(nar, upload)?;
        Ok(nar)
    }

    /// As [`Ingest::finish`], of a NAR that must be this one.
    ///
    /// # Errors
    /// `Refused` where it is another one; nothing is kept then.
    pub fn finish_as(self, claimed: Nar, upload: Upload) -> Result<()> {
        let (mut frames, nar) = self.end()?;
        if nar != claimed {
            return Err(Error::refused(format!(
                "it was said to be {} of {} bytes, but is {} of {} bytes; send it again",
                claimed.nar_hash, claimed.nar_size_bytes, nar.nar_hash, nar.nar_size_bytes
            )));
        }
        frames.commit(nar, upload)
    }

    /// Cuts and appends what is left.
    fn end(self) -> Result<(Frames, Nar)> {
        let Ingest {
            parser,
            sha256,
            cutter,
            mut frames,
            ..
        } = self;
        let size = parser.finish();
        let nar_size_bytes = size
            .map_err(|error| Error::caused(ErrorKind::BadNar, "this is no complete NAR", error))?;
        let mut failure = Ok(());
        cutter.finish(&mut |piece| frames.take(piece, &mut failure));
        failure?;
        frames.drain(0)?;
        let nar = Nar {
            nar_hash: NarHash::from_bytes(sha256.finalize().into()),
            nar_size_bytes,
        };
        Ok((frames, nar))
    }
}

/// The pieces of one NAR, on their way into segments.
struct Frames {
    /// Frames are stored neither as they are sent, nor as they were compressed again.
    packs_anew: bool,
    depot: Arc<Shared>,
    ops: Vec<Op>,
    /// Bytes of the NAR that are in pieces.
    cut: u64,
    /// Frames that came with bytes not cut yet.
    offers: Offers,
    /// Where each frame of the NAR lies; the collector leaves alone what is shared.
    flight: Arc<Flight>,
    /// From the compressors.
    queue: VecDeque<Receiver<Result<Frame>>>,
    /// Frames that came since the last commit.
    fresh: Vec<FrameId>,
    /// Stored bytes appended since the last commit.
    uncommitted: u64,
    /// The segments written to; all but the last are full.
    streams: Vec<Stream>,
    /// How they outlive the process, where they are to.
    coming: Coming,
}

impl Frames {
    /// Takes a piece, unless an earlier one failed.
    fn take(&mut self, piece: Piece<'_>, failure: &mut Result<()>) {
        if failure.is_ok() {
            *failure = self.piece(piece);
        }
    }

    fn piece(&mut self, piece: Piece<'_>) -> Result<()> {
        let raw = piece.raw();
        let raw_len = raw.len() as u32;
        let offer = self.offers.take(self.cut, raw_len);
        self.cut += u64::from(raw_len);
        if let Piece::Literal(bytes) = piece {
            self.ops.push(Op::Literal(Bytes::copy_from_slice(bytes)));
            return Ok(());
        }
        // That name had these very bytes when they came.
        let id = offer.unwrap_or_else(|| FrameId::of(raw));
        let op = match piece {
            Piece::Literal(_) => unreachable!("was taken above"),
            Piece::Span(_) => Op::Frame { id, raw_len },
            Piece::Dense { tokens, .. } => Op::Dense {
                id,
                skeleton: FrameId::of_skeleton(raw, tokens),
                raw_len,
            },
        };
        self.ops.push(op);
        match self.is_here(id)? {
            true => Ok(()),
            false => self.compress(id, raw),
        }
    }

    fn compress(&mut self, id: FrameId, raw: &[u8]) -> Result<()> {
        self.drain(MAX_QUEUED - 1)?;
        self.queue
            .push_back(self.depot.compressors.compress(id, raw)?);
        self.queued(id);
        Ok(())
    }

    /// Whether the frame needs no storing. Looked up and noted under one lock, so that the
    /// collector sees it noted, or the look-up sees it gone.
    fn is_here(&mut self, id: FrameId) -> Result<bool> {
        let mut at = self.at();
        if at.contains_key(&id) {
            return Ok(true);
        }
        let Some(value) = self.depot.index.get(Table::Frames, id.as_bytes())? else {
            return Ok(false);
        };
        let location = Location::decode(&value)?;
        let level = self.depot.pool.level(location.segment);
        if level == AS_SENT || self.packs_anew && level > 0 {
            return Ok(false);
        }
        at.insert(id, FramePlace::Known(location));
        drop(at);
        self.fresh.push(id);
        Ok(true)
    }

    /// The frame is stored by this upload.
    fn queued(&mut self, id: FrameId) {
        self.at().insert(id, FramePlace::Queued);
        self.fresh.push(id);
    }

    fn at(&self) -> MutexGuard<'_, HashMap<FrameId, FramePlace>> {
        self.flight
            .lock()
            .expect("invariant: no panic while the lock is held")
    }

    /// Appends compressed frames, in order, until at most `leave` are still under way.
    fn drain(&mut self, leave: usize) -> Result<()> {
        while self.queue.len() > leave {
            let Some(next) = self.queue.pop_front() else {
                return Ok(());
            };
            let Frame { header, stored } = next.recv().map_err(|_| Error::closed())??;
            self.append(header, &stored)?;
        }
        Ok(())
    }

    fn append(&mut self, header: FrameHeader, stored: &[u8]) -> Result<()> {
        self.depot.room.check(stored.len() as u64)?;
        self.uncommitted += stored.len() as u64;
        let mut coming = std::mem::take(&mut self.coming);
        let is_as_sent = !self.packs_anew;
        let stream = self.stream()?;
        let segment = stream.id();
        let offset = match is_as_sent {
            true => coming.frame(stream, &header, stored)?,
            false => stream.frame(&header, stored)?,
        };
        self.coming = coming;
        let FrameHeader {
            id,
            raw_len,
            stored_len,
            checksum,
        } = header;
        let at = Location {
            segment,
            offset,
            stored_len,
            raw_len,
            checksum,
        };
        self.at().insert(id, FramePlace::New(at));
        Ok(())
    }

    fn stream(&mut self) -> Result<&mut Stream> {
        if self.streams.last().is_none_or(Stream::is_full) {
            self.streams.push(self.depot.pool.borrow()?);
        }
        Ok(self
            .streams
            .last_mut()
            .expect("invariant: one was just pushed"))
    }

    /// The one rule: append, fsync, index; only then the caller may acknowledge. The gate keeps the
    /// collector out from the first look to the last write.
    fn commit(&mut self, nar: Nar, upload: Upload) -> Result<()> {
        let depot = self.depot.clone();
        let gate = depot.commits()?;
        let visible = upload.cache.nar_key(&nar.nar_hash);
        let named = depot.index.get(Table::Visible, &visible)?.is_some();
        let holder = holder(&upload.cache, &upload.subject);
        if !named {
            depot.leases.check(&holder, &nar)?;
        }
        let mut batch = Batch::default();
        let fresh = std::mem::take(&mut self.fresh);
        tenants::sent(&*depot.index, &upload.cache, &fresh, &mut batch)?;
        let known = Layout::read(&*depot.index, &nar.nar_hash)?;
        let sick = depot.quarantine.is_sick(&nar.nar_hash);
        let whole = known.is_some() && !sick && self.adds_nothing()?;
        if whole {
            self.forget_new();
            self.streams.clear(); // cuts them back
        } else {
            let recipe = Recipe::new(std::mem::take(&mut self.ops))
                .map_err(|e| Error::caused(ErrorKind::Corrupt, "the NAR was cut wrongly", e))?;
            let payload = recipe_payload(&nar.nar_hash, nar.nar_size_bytes, &recipe)?;
            let place = self.stream()?.state(Kind::Recipe, false, &payload)?;
            self.index_frames(&recipe, &mut batch)?;
            if let Some(known) = known {
                known.remove(&mut batch, &nar.nar_hash);
            }
            self.layout(&recipe)?
                .finish(&mut batch, &nar.nar_hash, place);
        }
        let state = upload_state(nar, upload);
        let place = self.stream()?.state(Kind::Upload, true, &to_json(&state))?;
        self.sync()?;
        self.coming.is_durable();
        depot.uses.nar(nar.nar_hash);
        if !named {
            depot.leases.hold(&holder, &nar);
        }
        UploadRow { place, state }.put(&mut batch);
        depot.index_committed(batch, &self.streams)?;
        drop(gate);
        if depot.quarantine.any() {
            depot.heal(&self.at().keys().copied().collect(), Some(&nar.nar_hash))?;
        }
        Ok(())
    }

    /// Whether all frames of the NAR are in the index, also those that were stored here: another
    /// upload of the same NAR was faster.
    fn adds_nothing(&self) -> Result<bool> {
        let at = self.at();
        let new = at
            .iter()
            .filter(|(_, place)| !matches!(place, FramePlace::Known(_)));
        let keys: Vec<&[u8]> = new.map(|(id, _)| id.as_bytes().as_slice()).collect();
        let found = self.depot.index.get_many(Table::Frames, &keys)?;
        Ok(found.iter().all(Option::is_some))
    }

    /// Puts the frames of `recipe` that are stored here into `batch`, and looks those up once more
    /// that it shares: they may have been moved since.
    fn index_frames(&self, recipe: &Recipe, batch: &mut Batch) -> Result<()> {
        let mut at = self.at();
        let named = recipe.ops().iter().filter_map(|op| match op {
            Op::Frame { id, .. } | Op::Dense { id, .. } => Some(*id),
            Op::Literal(_) => None,
        });
        let named: HashSet<FrameId> = named.collect();
        let is_shared = |id: &&FrameId| matches!(at.get(*id), Some(FramePlace::Known(_)));
        let shared: Vec<FrameId> = named.iter().filter(is_shared).copied().collect();
        let keys: Vec<&[u8]> = shared.iter().map(|id| id.as_bytes().as_slice()).collect();
        let found = self.depot.index.get_many(Table::Frames, &keys)?;
        for (id, value) in shared.iter().zip(found) {
            let value = value.ok_or_else(|| {
                let lost = format!("frame {id} was found damaged during the upload");
                Error::new(ErrorKind::Storage, format!("{lost}; upload the NAR again"))
            })?;
            at.insert(*id, FramePlace::Known(Location::decode(&value)?));
        }
        for (id, place) in at.iter() {
            if let FramePlace::New(location) = place
                && named.contains(id)
            {
                batch.put(Table::Frames, id.as_bytes().as_slice(), location.encode());
            }
        }
        Ok(())
    }

    fn layout(&self, recipe: &Recipe) -> Result<Builder> {
        let (mut builder, at) = (Builder::default(), self.at());
        for op in recipe.ops() {
            match op {
                Op::Literal(bytes) => builder.literal(bytes),
                Op::Frame { id, .. } | Op::Dense { id, .. } => match at.get(id) {
                    Some(FramePlace::Known(at) | FramePlace::New(at)) => {
                        builder.frame(&header_of(*id, at), at)
                    }
                    _ => return Err(Error::corrupt(format!("frame {id} was never appended"))),
                },
            }
        }
        Ok(builder)
    }

    /// Makes all streams durable, the one with the upload record last.
    fn sync(&mut self) -> Result<()> {
        tracing::debug!(phase = "fsync", "making an upload durable");
        if let Some((last, earlier)) = self.streams.split_last_mut() {
            for stream in earlier {
                stream.state(Kind::Part, true, &[])?;
                stream.sync()?;
            }
            last.sync()?;
        }
        self.streams.iter_mut().for_each(Stream::committed);
        Ok(())
    }
}

pub(crate) fn upload_state(nar: Nar, upload: Upload) -> UploadState {
    UploadState {
        cache: upload.cache,
        name: upload.name,
        nar_hash: nar.nar_hash,
        nar_size: nar.nar_size_bytes,
        codec: upload.codec,
        file_size: upload.file_size_bytes,
        subject: upload.subject,
        expires: upload.expires_unix_s,
    }
}
