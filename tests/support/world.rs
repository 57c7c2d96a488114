//! The few paths of a depot to which a fault happens.

use super::codec::Codec;
use super::nar::{Nar, Upload, hash_part};
use super::random::Random;

/// What is pushed, before the fault and under it.
pub struct World {
    /// Published before.
    pub old: Upload,
    /// Its NAR was acknowledged before, its narinfo comes after the fault.
    pub pending: Upload,
    /// Pushed under the fault.
    pub new: Upload,
    /// Published before and after `old`, and removed before the fault.
    pub gone: [Upload; 2],
    pub log: &'static [u8],
}

impl World {
    pub fn new() -> World {
        let nar = |seed: u64, length: usize| {
            let script = format!("#! /nix/store/{}-sh\n", hash_part(seed));
            Nar::new()
                .directory()
                .entry(b"data", |nar| nar.file(&Random::seeded(seed).bytes(length)))
                .entry(b"script", |nar| nar.file(script.repeat(40).as_bytes()))
                .end()
        };
        let upload = |seed, name, length, codec| {
            Upload::honest(seed, name, &nar(seed, length), Codec::named(codec))
        };
        World {
            old: upload(1, "old", 400_000, "zstd"),
            pending: upload(2, "pending", 50_000, "gzip"),
            new: upload(3, "new", 1_500_000, "none"),
            gone: [4, 5].map(|seed| upload(seed, "gone", 600_000, "none")),
            log: b"building...\nbuilt\n",
        }
    }

    pub fn log_path(&self) -> String {
        format!("log/{}-old.drv", hash_part(9))
    }

    /// A path of `old`'s NAR with a narinfo of almost a megabyte: nine of these fill a memtable.
    pub fn filler(&self, number: u64) -> Upload {
        let mut filler = self.old.clone();
        filler.store_path = format!("/nix/store/{}-filler-{number}", hash_part(100 + number));
        filler.more = format!("X-Filler: {}\n", "f".repeat(1_000_000));
        filler
    }
}

/// How many of these are pushed.
pub const FILLERS: u64 = 12;
