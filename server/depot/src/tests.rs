//! Stories about a whole depot, over memory and over files.

use std::sync::Arc;

use snowcache_core::cut::{self, Cutter, Params};
use snowcache_core::path_info::{Claimed, Signed};
use snowcache_core::recipe::FrameId;
use snowcache_nix::nar::{Event, Limits, Parser, Writer};
use snowcache_nix::{PathInfo, SecretKey};

use crate::index::memory::MemoryIndex;
use crate::segments::Segments;
use crate::segments::memory::MemorySegments;
use crate::*;

mod aside;
mod backup;
mod check;
mod collect;
mod delta;
mod gather;
mod holding;
mod ingest;
mod integrity;
mod leases;
mod lookup;
mod offered;
mod publish;
mod recompress;
mod replay;
mod simulation;
mod tenants;
mod twins;
mod windows;

/// A depot over memory whose segments outlive it.
struct Bench {
    segments: MemorySegments,
    index: Arc<MemoryIndex>,
    depot: Depot,
}

impl Bench {
    fn new() -> Bench {
        Bench::over(MemorySegments::default())
    }

    /// A depot with an empty index over segments that are there.
    fn over(segments: MemorySegments) -> Bench {
        Bench::with(segments, |_| {})
    }

    /// The same, with other options.
    fn with(segments: MemorySegments, change: impl FnOnce(&mut Options)) -> Bench {
        Bench::over_both(segments, Arc::new(MemoryIndex::default()), change)
    }

    /// The same segments and the same index, as after an orderly stop.
    fn restarted(self) -> Bench {
        let (segments, index) = (self.segments.clone(), self.index.clone());
        drop(self);
        Bench::over_both(segments, index, |_| {})
    }

    fn over_both(
        segments: MemorySegments,
        index: Arc<MemoryIndex>,
        change: impl FnOnce(&mut Options),
    ) -> Bench {
        let mut options = Options::new("/nonexistent");
        options.clock = Arc::new(|| 1_700_000_000);
        change(&mut options);
        let depot = Depot::over(options, Arc::new(segments.clone()), index.clone()).expect("open");
        Bench {
            segments,
            index,
            depot,
        }
    }

    /// The same segments after the process is gone, with a new index.
    fn reopened(self) -> Bench {
        let segments = self.segments.clone();
        drop(self);
        Bench::over(segments)
    }

    fn put(&self, name: &str, nar: &[u8]) -> Nar {
        let mut ingest = self.depot.ingest().expect("ingest");
        ingest.write(nar).expect("write");
        ingest.finish(upload(name)).expect("finish")
    }

    fn publish(&self, info: PathInfo) -> Result<Published> {
        let nar = Nar {
            nar_hash: info.nar_hash,
            nar_size_bytes: info.nar_size,
        };
        self.depot.publish(&cache(), signed(info, nar), "tester")
    }

    fn raw(&self, nar: &Nar) -> Option<Vec<u8>> {
        let reader = self.depot.nar(&cache(), &nar.nar_hash).expect("look up")?;
        Some(collect(reader.raw(0..u64::MAX)))
    }

    fn total_bytes(&self) -> u64 {
        self.segments
            .list()
            .expect("list")
            .iter()
            .map(|(_, len)| len)
            .sum()
    }
}

/// A piece of a NAR as our client sends it.
enum Part {
    Literal(Vec<u8>),
    /// Its name, its raw length and how it is stored.
    Frame(FrameId, u32, Vec<u8>),
}

/// The pieces of a NAR, compressed by whoever sends them.
fn parts(nar: &[u8], level: i32) -> Vec<Part> {
    let limits = Limits {
        max_nar_size_bytes: nar.len() as u64,
    };
    let (mut parser, mut cutter) = (Parser::with_limits(limits), Cutter::new(Params::V1));
    let read = parser.feed(nar, &mut |event| {
        if let Event::File { size, offset, .. } = event {
            cutter.file(offset, size);
        }
    });
    read.expect("a canonical NAR");
    let mut parts = Vec::new();
    let mut take = |piece: cut::Piece<'_>| {
        let raw = piece.raw();
        parts.push(match piece {
            cut::Piece::Literal(bytes) => Part::Literal(bytes.to_vec()),
            _ => {
                let stored = zstd::bulk::compress(raw, level).expect("zstd");
                Part::Frame(FrameId::of(raw), raw.len() as u32, stored)
            }
        });
    };
    cutter.push(nar, &mut take);
    cutter.finish(&mut take);
    parts
}

fn cache() -> CacheName {
    CacheName::default_cache()
}

fn upload(name: &str) -> Upload {
    Upload {
        cache: cache(),
        name: name.to_owned(),
        codec: "none".to_owned(),
        file_size_bytes: 1,
        subject: "tester".to_owned(),
        expires_unix_s: 1_700_086_400,
    }
}

fn signed(info: PathInfo, nar: Nar) -> Signed {
    let key = SecretKey::generate("test-1", [1; 32]).expect("a key");
    let verified = Claimed::new(info).verify(nar.nar_hash, nar.nar_size_bytes);
    verified.expect("the test's own narinfo").sign(&[key])
}

/// The path number `number`, with the NAR given and references to other numbers.
fn path(number: u8, nar: Nar, references: &[u8]) -> PathInfo {
    let name = |number: u8| format!("{}-path{number}", digit(number).to_string().repeat(32));
    let references: Vec<_> = references.iter().map(|number| name(*number)).collect();
    let record = format!(
        "StorePath: /nix/store/{}\nNarHash: {}\nNarSize: {}\nReferences: {}\n",
        name(number),
        nar.nar_hash,
        nar.nar_size_bytes,
        references.join(" ")
    );
    PathInfo::from_record(&record).expect("a record")
}

fn digit(number: u8) -> char {
    char::from(b"0123456789abcdfghijklmnpqrsvwxyz"[number as usize % 32])
}

/// Bytes that do not compress much and are the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as u8 & 0x3f
    };
    (0..len).map(|_| next()).collect()
}

/// Text of the same few words, which a higher level makes smaller.
fn text(seed: u64, len: usize) -> Vec<u8> {
    let words: Vec<String> = (0..400u64)
        .map(|word| format!("{:x} ", word.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20))
        .collect();
    let picks = noise(seed, len);
    let words = picks.chunks(2).map(|pick| {
        let number = usize::from(pick[0]) * 64 + usize::from(*pick.last().unwrap_or(&0));
        words[number % words.len()].as_bytes()
    });
    words.flatten().copied().take(len).collect()
}

/// A NAR with one file of these bytes.
fn nar_of(content: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.file(false, content.len() as u64).expect("file");
    writer.data(content).expect("data");
    writer.finish().expect("finish")
}

/// A NAR whose file mentions `token` here and there.
fn nar_with(token: char, seed: u64, len: usize) -> Vec<u8> {
    let reference = format!("/nix/store/{}-dependency", token.to_string().repeat(32));
    let mut content = Vec::new();
    for part in noise(seed, len).chunks(50_000) {
        content.extend_from_slice(part);
        content.extend_from_slice(reference.as_bytes());
    }
    nar_of(&content)
}

fn collect(chunks: Chunks) -> Vec<u8> {
    chunks
        .map(|chunk| chunk.expect("chunk"))
        .collect::<Vec<_>>()
        .concat()
}
