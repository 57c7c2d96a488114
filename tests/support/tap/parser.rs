//! Reads a client's side of HTTP/1.1 byte by byte, and the records of the uploads in it.

use super::Place;

/// What a byte completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A request, to this path.
    Request(String),
    /// The head of an upload.
    Stream,
    /// A record that begins a NAR, and is the first one.
    Begun,
    /// Half of a frame.
    HalfAFrame,
    /// A frame: its name, and its length.
    Frame([u8; 32], u64),
    /// The record that ends a NAR.
    NarEnded,
}

impl Read {
    pub fn is(&self, place: Place) -> bool {
        match (self, place) {
            (Read::Request(path), Place::Asked(asked)) => {
                path.split_once("/api/v1/").map(|(_, path)| path) == Some(asked)
            }
            (Read::Request(path), Place::StreamEnded) => path.ends_with(UPLOAD),
            (Read::Begun, Place::Begun)
            | (Read::HalfAFrame, Place::InFrame)
            | (Read::NarEnded, Place::NarEnded) => true,
            _ => false,
        }
    }
}

/// Behind the cache's name, where it has one.
const UPLOAD: &str = "/api/v1/uploads";
/// As docs/uploads.md has it: kind and length before a payload, a checksum behind it.
const RECORD_HEAD_BYTES: u64 = 5;
const CHECKSUM_BYTES: u64 = 8;
const MAGIC_BYTES: u64 = 4;
const NAR: u8 = 1;
const FRAME: u8 = 3;
const END_OF_NAR: u8 = 5;

/// Where in a request the next byte stands.
#[derive(Default)]
enum At {
    #[default]
    Head,
    Body(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    /// Behind the last chunk: lines until an empty one.
    Trailer,
}

/// See the module.
#[derive(Default)]
pub struct Parser {
    at: At,
    /// The head, or the line, that is being read.
    text: Vec<u8>,
    path: String,
    records: Records,
}

/// The records of an upload.
#[derive(Default)]
struct Records {
    /// Bytes of the stream.
    read: u64,
    /// Bytes of the record.
    at: u64,
    kind: u8,
    payload: [u8; 4],
    id: [u8; 32],
    number: u64,
}

impl Parser {
    /// What this byte completes.
    pub fn take(&mut self, byte: u8) -> Vec<Read> {
        match &mut self.at {
            At::Head => {
                self.text.push(byte);
                match self.text.ends_with(b"\r\n\r\n") {
                    true => self.head(),
                    false => Vec::new(),
                }
            }
            At::Body(left) => {
                *left -= 1;
                match *left {
                    0 => self.request(),
                    _ => Vec::new(),
                }
            }
            At::ChunkSize | At::ChunkEnd | At::Trailer => {
                self.text.push(byte);
                match byte {
                    b'\n' => self.line(),
                    _ => Vec::new(),
                }
            }
            At::Chunk(left) => {
                *left -= 1;
                if *left == 0 {
                    self.at = At::ChunkEnd;
                }
                match self.path.ends_with(UPLOAD) {
                    true => self.records.take(byte).into_iter().collect(),
                    false => Vec::new(),
                }
            }
        }
    }

    fn head(&mut self) -> Vec<Read> {
        let text = String::from_utf8(std::mem::take(&mut self.text)).expect("a head is ASCII");
        let mut lines = text.lines();
        let first = lines.next().expect("a request line");
        self.path = first.split(' ').nth(1).expect("a path").to_owned();
        let fields = lines.filter_map(|line| line.split_once(": "));
        for (name, value) in fields {
            match name.to_ascii_lowercase().as_str() {
                "content-length" => self.at = At::Body(value.parse().expect("a length")),
                "transfer-encoding" => self.at = At::ChunkSize,
                _ => {}
            }
        }
        match self.at {
            At::Head | At::Body(0) => self.request(),
            _ if self.path.ends_with(UPLOAD) => {
                self.records = Records::default();
                vec![Read::Stream]
            }
            _ => Vec::new(),
        }
    }

    fn line(&mut self) -> Vec<Read> {
        let line = std::mem::take(&mut self.text);
        let line = std::str::from_utf8(&line).expect("ASCII").trim_end();
        self.at = match &self.at {
            At::ChunkEnd => At::ChunkSize,
            At::ChunkSize => match u64::from_str_radix(line, 16).expect("a length") {
                0 => At::Trailer,
                len => At::Chunk(len),
            },
            _ if line.is_empty() => return self.request(),
            _ => At::Trailer,
        };
        Vec::new()
    }

    fn request(&mut self) -> Vec<Read> {
        self.at = At::Head;
        vec![Read::Request(std::mem::take(&mut self.path))]
    }
}

impl Records {
    fn take(&mut self, byte: u8) -> Option<Read> {
        self.read += 1;
        if self.read <= MAGIC_BYTES {
            return None;
        }
        let at = self.at;
        self.at += 1;
        match at {
            0 => self.kind = byte,
            1..RECORD_HEAD_BYTES => self.payload[at as usize - 1] = byte,
            _ => {}
        }
        if at < RECORD_HEAD_BYTES {
            return None;
        }
        let len = u64::from(u32::from_le_bytes(self.payload));
        let in_payload = (at - RECORD_HEAD_BYTES) as usize;
        if in_payload < self.id.len() {
            self.id[in_payload] = byte;
        }
        if self.kind == FRAME && self.at == RECORD_HEAD_BYTES + len / 2 {
            return Some(Read::HalfAFrame);
        }
        if self.at < RECORD_HEAD_BYTES + len + CHECKSUM_BYTES {
            return None;
        }
        self.at = 0;
        self.number += 1;
        match self.kind {
            NAR if self.number == 1 => Some(Read::Begun),
            FRAME => Some(Read::Frame(self.id, len)),
            END_OF_NAR => Some(Read::NarEnded),
            _ => None,
        }
    }
}
