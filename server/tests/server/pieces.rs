//! NARs in pieces, as our own client sends them, and pieces that no honest one would make.

use crate::client::{Answer, Cache};
use crate::sample::Sample;
use serde_json::{Value, json};
use snowcache_core::cut::{Cutter, Params, Piece};
use snowcache_core::recipe::FrameId;
use snowcache_core::upload::{self, MAGIC, Record};
use snowcache_nix::nar::{Event, Parser};
use snowcache_nix::{NarHash, NarInfo, PathInfo};

pub const UPLOADS: &str = "/api/v1/uploads";

/// A part of a NAR as a client sends it.
#[derive(Clone, Debug)]
pub enum Part {
    Literal(Vec<u8>),
    Frame {
        id: FrameId,
        raw_len: u32,
        stored: Vec<u8>,
    },
    Known {
        id: FrameId,
        raw_len: u32,
    },
}

impl Part {
    fn record(&self) -> Record<'_> {
        match self {
            Part::Literal(bytes) => Record::Literal(bytes),
            Part::Frame {
                id,
                raw_len,
                stored,
            } => Record::Frame {
                id: *id,
                raw_len: *raw_len,
                stored,
            },
            Part::Known { id, raw_len } => Record::Known {
                id: *id,
                raw_len: *raw_len,
            },
        }
    }

    /// The same by name only.
    pub fn known(&self) -> Part {
        match self {
            Part::Frame { id, raw_len, .. } => Part::Known {
                id: *id,
                raw_len: *raw_len,
            },
            other => other.clone(),
        }
    }
}

/// A NAR in pieces, all of them compressed.
pub fn cut(nar: &[u8]) -> Vec<Part> {
    let (mut files, mut parts) = (Vec::new(), Vec::new());
    let mut parser = Parser::new();
    let mut on = |event: Event<'_>| {
        if let Event::File { size, offset, .. } = event {
            files.push((offset, size));
        }
    };
    parser.feed(nar, &mut on).unwrap();
    let mut take = |piece: Piece<'_>| {
        parts.push(match piece {
            Piece::Literal(bytes) => Part::Literal(bytes.to_vec()),
            Piece::Span(raw) | Piece::Dense { raw, .. } => frame(raw),
        });
    };
    let mut cutter = Cutter::new(Params::V1);
    files
        .iter()
        .for_each(|(offset, size)| cutter.file(*offset, *size));
    cutter.push(nar, &mut take);
    cutter.finish(&mut take);
    parts
}

pub fn frame(raw: &[u8]) -> Part {
    Part::Frame {
        id: FrameId::of(raw),
        raw_len: raw.len() as u32,
        stored: zstd::bulk::compress(raw, 3).unwrap(),
    }
}

/// A stream of one NAR, which it says is `nar`.
pub fn stream_of(nar_hash: NarHash, nar_size_bytes: u64, parts: &[Part]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    let begin = Record::Nar {
        nar_hash,
        nar_size_bytes,
    };
    begin.put(&mut bytes);
    parts.iter().for_each(|part| part.record().put(&mut bytes));
    Record::EndOfNar.put(&mut bytes);
    let records = parts.len() as u64 + 2;
    Record::End { records }.put(&mut bytes);
    bytes
}

pub fn stream(sample: &Sample, parts: &[Part]) -> Vec<u8> {
    stream_of(sample.hash(), sample.nar.len() as u64, parts)
}

impl Cache {
    pub fn post(&self, path: &str, body: &[u8]) -> Answer {
        let bearer = format!("Bearer {}", self.token());
        self.send("POST", path, &[("Authorization", &bearer)], body)
    }

    /// Sends a stream of one NAR; what became of it.
    pub fn upload(&self, stream: &[u8]) -> Value {
        let answer = self.post(UPLOADS, stream);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let told: Value = serde_json::from_str(answer.text()).unwrap();
        told["nars"][0].clone()
    }

    #[track_caller]
    pub fn holds(&self, sample: &Sample, parts: &[Part]) {
        let fate = self.upload(&stream(sample, parts));
        assert_eq!(fate["held"], true, "{fate}");
    }

    /// Publishes paths; the status of all, and of each its status and why.
    pub fn commit(&self, records: &[String]) -> (u16, Vec<(u64, String)>) {
        let body = json!({ "paths": records }).to_string();
        let answer = self.post(&format!("{UPLOADS}/commit"), body.as_bytes());
        let told: Value = serde_json::from_str(answer.text())
            .unwrap_or_else(|_| panic!("{} {}", answer.status, answer.text()));
        let of = |one: &Value| {
            let why = one["error"].as_str().unwrap_or_default().to_owned();
            (one["status"].as_u64().unwrap(), why)
        };
        let fates = told["paths"].as_array().unwrap().iter().map(of);
        (answer.status, fates.collect())
    }

    pub fn absent_frames(&self, parts: &[Part]) -> Vec<bool> {
        let ids: Vec<FrameId> = parts.iter().filter_map(id_of).collect();
        let answer = self.post(&format!("{UPLOADS}/frames"), &upload::question(&ids));
        assert_eq!(answer.status, 200, "{}", answer.text());
        upload::absent(&answer.body, ids.len()).unwrap()
    }

    pub fn absent_nars(&self, samples: &[&Sample]) -> usize {
        let hashes: Vec<String> = samples.iter().map(|it| it.hash().to_string()).collect();
        let body = json!({ "nar_hashes": hashes }).to_string();
        let answer = self.post(&format!("{UPLOADS}/nars"), body.as_bytes());
        let told: Value = serde_json::from_str(answer.text()).unwrap();
        told["absent"].as_array().unwrap().len()
    }
}

pub fn id_of(part: &Part) -> Option<FrameId> {
    match part {
        Part::Literal(_) => None,
        Part::Frame { id, .. } | Part::Known { id, .. } => Some(*id),
    }
}

impl Sample {
    /// Its narinfo without what is about a file.
    pub fn record(&self) -> String {
        let narinfo = self.narinfo("nar/x.nar", "none");
        PathInfo::from(&NarInfo::parse(&narinfo).unwrap()).to_record()
    }
}

/// One raw block behind a header that asks for a window of 16 MiB.
pub fn huge_window(raw: &[u8]) -> Vec<u8> {
    let mut bytes = 0xFD2F_B528u32.to_le_bytes().to_vec();
    bytes.extend([0x80, 14 << 3]);
    bytes.extend((raw.len() as u32).to_le_bytes());
    let blocks: Vec<&[u8]> = raw.chunks(128 << 10).collect();
    for (number, block) in blocks.iter().enumerate() {
        let last = u32::from(number + 1 == blocks.len());
        bytes.extend(&((block.len() as u32) << 3 | last).to_le_bytes()[..3]);
        bytes.extend(*block);
    }
    bytes
}

/// A plain frame whose header names a dictionary.
pub fn with_dictionary(raw: &[u8]) -> Vec<u8> {
    let mut bytes = huge_window(raw);
    bytes[4] |= 1;
    bytes[5] = 10 << 3;
    bytes.insert(6, 77);
    bytes
}
