//! NARs that come in pieces: frames that the client compressed, and names of frames that are here.
//!
//! ```text
//!   literal ------------------------------------------> write    as any NAR's bytes
//!   frame: checked, unpacked, its BLAKE3 is its name: stored -> offer, write
//!   known: read here, unpacked ------------------------------> offer, write
//!            a piece is cut at the very place of the offer: it has that name, and is here.
//!            Cut elsewhere: compressed here; what was stored is garbage.
//! ```
//!
//! Guarantees: every byte takes the way of a NAR that was sent whole: parsed, hashed, cut here. A
//! frame counts as it was sent only where its content is the piece that was cut, byte for byte, and
//! the piece's BLAKE3 its name. What [`Ingest::keep`] saves of a broken upload is no NAR: it
//! cannot be published or read, and goes when its lease ends.
//!
//! Never: a recipe taken from outside.

use std::collections::VecDeque;

use snowcache_core::recipe::{FrameId, Op};
use snowcache_nix::NarHash;

use super::{Frames, Ingest, Nar, Upload};
use crate::frames::unpack;
use crate::keys::CacheName;
use crate::layout::Location;
use crate::record::{Checksum, FrameHeader};
use crate::uses::FramePlace;
use crate::{Error, ErrorKind, Result, tenants};

/// What begins the names of frames kept without a NAR; no URL leads to them.
const KEPT: &str = "frames/";

/// Stored bytes of a NAR after which what came of it is made durable, before the NAR ends: what a
/// power cut costs each upload at most, beside what had not been read from its socket. Some 80
/// frames of 100 KiB, which took a core of the client's 30 ms or more: the time of some fsyncs.
pub const KEEP_BYTES: u64 = 8 << 20;

/// The name of a NAR that came over the native API; a stock client's have no `/`.
pub fn native_name(nar_hash: &NarHash) -> String {
    format!("native/{}", nar_hash.base32())
}

/// Whether an upload of this name is a NAR, not frames that were kept of a broken one.
pub fn is_nar(name: &str) -> bool {
    !name.starts_with(KEPT)
}

/// For whom frames are kept, and until when.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The cache they were sent to.
    pub cache: CacheName,
    /// Who sent them.
    pub subject: String,
    /// When they go, in seconds since 1970.
    pub expires_unix_s: u64,
}

/// A piece whose name is known, and its place in the NAR.
struct Offer {
    offset: u64,
    raw_len: u32,
    id: FrameId,
}

/// Offers, in the NAR's order.
#[derive(Default)]
pub(super) struct Offers(VecDeque<Offer>);

impl Offers {
    /// The name of exactly the `raw_len` bytes at `offset`, if it is known; offers for earlier
    /// places are over.
    pub(super) fn take(&mut self, offset: u64, raw_len: u32) -> Option<FrameId> {
        while self.0.front().is_some_and(|offer| offer.offset < offset) {
            self.0.pop_front();
        }
        let next = self.0.front()?;
        let fits = next.offset == offset && next.raw_len == raw_len;
        let fitting = fits.then(|| self.0.pop_front()).flatten();
        fitting.map(|offer| offer.id)
    }
}

impl Ingest {
    /// Takes the next bytes of the NAR as a frame. It is stored before it is cut, which takes what
    /// comes behind it, up to a MiB.
    ///
    /// # Errors
    /// `Refused` where it is not one plain frame of `raw_len` bytes with that name; as
    /// [`Ingest::write`].
    pub fn frame(&mut self, id: FrameId, raw_len: u32, stored: &[u8]) -> Result<()> {
        let raw = unpack(id, raw_len, stored)?;
        let found = FrameId::of(&raw);
        if found != id {
            let what = format!("what was sent as frame {id} is frame {found}; send it again");
            return Err(Error::refused(what));
        }
        self.frames.sent(id, &raw, stored)?;
        self.offer(id, raw_len);
        self.write(&raw)
    }

    /// From here on the frames that are sent are compressed here, and those that were compressed
    /// again are not shared: how a frame was packed would tell another cache that has it, too, that
    /// it was here before.
    pub fn pack_anew(&mut self) {
        self.frames.packs_anew = true;
    }

    /// Takes the next bytes of the NAR from a frame that is here, and known to the cache that it is
    /// for. False where it is not, or not whole: the upload is over then, and the frame has to be
    /// sent.
    ///
    /// # Errors
    /// `Refused` where the frame has another length; as [`Ingest::write`].
    pub fn known(&mut self, cache: &CacheName, id: FrameId, raw_len: u32) -> Result<bool> {
        let known = tenants::known(&*self.frames.depot.index, cache, &[id])?;
        if known != [true] {
            return Ok(false);
        }
        let Some(raw) = self.frames.depot.read_frame(id)? else {
            return Ok(false);
        };
        if raw.len() != raw_len as usize {
            let len = raw.len();
            let what = format!("frame {id} has {len} bytes, not {raw_len}; send the NAR again");
            return Err(Error::refused(what));
        }
        self.offer(id, raw_len);
        self.write(&raw)?;
        Ok(true)
    }

    fn offer(&mut self, id: FrameId, raw_len: u32) {
        self.frames.offers.0.push_back(Offer {
            offset: self.received,
            raw_len,
            id,
        });
    }

    /// Ends an upload that broke, and keeps what came of it, durably, so that it need not be sent
    /// again: how many frames.
    ///
    /// # Errors
    /// `Full` and `Storage` where they could not be kept.
    pub fn keep(self, lease: Lease) -> Result<u64> {
        let mut frames = self.frames;
        frames.drain(0)?;
        frames.keep(lease)
    }

    /// Whether more than [`KEEP_BYTES`] would be lost if the power went now.
    pub fn is_long(&self) -> bool {
        self.frames.uncommitted >= KEEP_BYTES
    }

    /// Makes durable what came so far, and goes on.
    ///
    /// # Errors
    /// As [`Ingest::keep`].
    pub fn keep_so_far(&mut self, lease: Lease) -> Result<u64> {
        self.frames.drain(0)?;
        let ops = std::mem::take(&mut self.frames.ops);
        let kept = self.frames.keep(lease)?;
        self.frames.ops = ops;
        Ok(kept)
    }
}

impl Frames {
    /// Stores a frame that was found to be what it is called, unless it is here.
    fn sent(&mut self, id: FrameId, raw: &[u8], stored: &[u8]) -> Result<()> {
        if self.is_here(id)? {
            return Ok(());
        }
        let header = FrameHeader {
            id,
            raw_len: raw.len() as u32,
            stored_len: stored.len() as u32,
            checksum: Checksum::of(stored),
        };
        if self.packs_anew {
            self.depot.room.check(stored.len() as u64)?;
            self.coming.put_aside(&self.depot.pool, &header, stored)?;
            return self.compress(id, raw);
        }
        self.queued(id);
        self.append(header, stored)
    }

    /// What was appended is committed, or of no use; what the upload shares it still counts on.
    pub(super) fn forget_new(&self) {
        let is_shared = |place: &FramePlace| matches!(place, FramePlace::Known(_));
        self.at().retain(|_, place| is_shared(place));
    }

    /// Commits what was appended as an upload of its own kind: see [`kept_as`].
    fn keep(&mut self, lease: Lease) -> Result<u64> {
        let mut kept: Vec<(Location, FrameId)> = Vec::new();
        kept.extend(self.at().iter().filter_map(|(id, place)| match place {
            FramePlace::New(at) => Some((*at, *id)),
            _ => None,
        }));
        if kept.is_empty() {
            return Ok(0);
        }
        kept.sort_unstable_by_key(|(at, _)| (at.segment, at.offset));
        let (ops, nar, upload) = kept_as(&kept, lease);
        self.ops = ops;
        self.commit(nar, upload)?;
        self.uncommitted = 0;
        self.forget_new();
        for (_, id) in &kept {
            if !self.is_here(*id)? {
                let what = format!("frame {id} went away while it was kept; send the NAR again");
                return Err(Error::new(ErrorKind::Storage, what));
            }
        }
        Ok(kept.len() as u64)
    }
}

/// What is recorded of frames that are kept without a NAR: a recipe of them, one after another, and
/// an upload whose name and hash are those of this list and of nothing else.
pub(crate) fn kept_as(kept: &[(Location, FrameId)], lease: Lease) -> (Vec<Op>, Nar, Upload) {
    let mut list = blake3::Hasher::new();
    list.update(KEPT.as_bytes());
    let ops = kept.iter().map(|(at, id)| {
        list.update(id.as_bytes());
        let (id, raw_len) = (*id, at.raw_len);
        Op::Frame { id, raw_len }
    });
    let ops = ops.collect();
    let nar = Nar {
        nar_hash: NarHash::from_bytes(list.finalize().into()),
        nar_size_bytes: kept.iter().map(|(at, _)| u64::from(at.raw_len)).sum(),
    };
    let upload = Upload {
        cache: lease.cache,
        name: format!("{KEPT}{}", nar.nar_hash.base32()),
        codec: "frames".to_owned(),
        file_size_bytes: kept.iter().map(|(at, _)| u64::from(at.stored_len)).sum(),
        subject: lease.subject,
        expires_unix_s: lease.expires_unix_s,
    };
    (ops, nar, upload)
}
