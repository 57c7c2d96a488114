//! The thread that packs: all the CPU time of a recompression, and nothing that others wait for.
//!
//! Guarantees: what comes back unpacks to the bytes that the frame's id names, seen here. Never:
//! touches the index or a segment.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Scope;

use snowcache_core::recipe::FrameId;
use zstd::bulk::Compressor;

use crate::frames::unpack;
use crate::pool::Level;
use crate::{Error, Result};

/// A frame to be packed again.
pub struct Packing {
    /// Its id.
    pub id: FrameId,
    /// Length of what is in it.
    pub raw_len: u32,
    /// As it is stored.
    pub stored: Vec<u8>,
}

/// The handle to the thread, which ends with it.
pub struct Packer {
    frames: SyncSender<Packing>,
    packed: Receiver<Result<Option<Vec<u8>>>>,
}

impl Packer {
    /// Starts the thread, which first of all stands back.
    pub fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        level: Level,
        stand_back: fn(),
    ) -> Result<Packer> {
        let (frames, queue) = sync_channel::<Packing>(1);
        let (answers, packed) = sync_channel(1);
        let compressor = Compressor::new(level.into());
        let mut compressor = compressor.map_err(|e| Error::io("starting zstd", e))?;
        let work = move || {
            stand_back();
            for frame in queue {
                if answers.send(pack(&mut compressor, frame)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("recompress-pack".to_owned());
        let started = thread.spawn_scoped(scope, work);
        started.map_err(|e| Error::io("starting a thread", e))?;
        Ok(Packer { frames, packed })
    }

    /// Packs a frame: the smaller one of what it was and what it is at the level. None where it
    /// does not hold what its id says.
    pub fn pack(&self, frame: Packing) -> Result<Option<Vec<u8>>> {
        self.frames.send(frame).map_err(|_| Error::closed())?;
        self.packed.recv().map_err(|_| Error::closed())?
    }
}

fn pack(compressor: &mut Compressor<'_>, frame: Packing) -> Result<Option<Vec<u8>>> {
    let Packing {
        id,
        raw_len,
        stored,
    } = frame;
    let raw = unpack(id, raw_len, &stored).ok();
    let Some(raw) = raw.filter(|raw| FrameId::of(raw) == id) else {
        return Ok(None);
    };
    let packed = compressor.compress(&raw);
    let packed = packed.map_err(|e| Error::io("compressing", e))?;
    if packed.len() >= stored.len() {
        return Ok(Some(stored));
    }
    if unpack(id, raw_len, &packed).is_ok_and(|again| again == raw) {
        return Ok(Some(packed));
    }
    tracing::error!(frame = %id, "zstd does not unpack what it packed: kept as it was");
    Ok(Some(stored))
}
