//! Records: what a segment is made of, byte by byte.
//!
//! A segment is a sequence of records, and at the same time one valid zstd stream: every header is
//! a zstd *skippable frame* (RFC 8878, 3.1.2), and what a frame record stores is an ordinary zstd
//! frame. All integers are little-endian.
//!
//! ```text
//! frame record: 64 bytes, then one zstd frame
//!    0  u32      0x184D2A57, a skippable frame
//!    4  u32      56, its length
//!    8  u8 u8    1, format version
//!   10  u8 u8    0, 0
//!   12  [32]     FrameId: BLAKE3-256 of the raw bytes
//!   44  u32 u32  raw length, stored length
//!   52  [8]      checksum of the zstd frame
//!   60  u32      CRC-32C of bytes 0..60
//!   64           the zstd frame
//!
//! state record: 32 bytes, then n bytes of payload, all of it skippable
//!    0  u32      0x184D2A58, a skippable frame
//!    4  u32      24 + n, its length
//!    8  u8 u8    kind, format version
//!   10  u8 u8    flags, 0
//!   12  u64      sequence number
//!   20  [8]      checksum of the payload
//!   28  u32      CRC-32C of bytes 0..28
//!   32           the payload
//! ```
//!
//! `checksum` is the first 8 bytes of BLAKE3 over what is *stored* (the zstd frame, or the
//! payload), `crc` is CRC-32C of the header before it. A frame's header is a pure function of its
//! id, lengths and checksum: it is served to clients as it lies.
//!
//! What ends a commit carries the flag [`COMMIT`]: bytes behind the last such record of a segment
//! were never acknowledged and are dropped when the depot opens.

use snowcache_core::recipe::FrameId;

/// The newest version of the format that this build reads.
pub const FORMAT_VERSION: u8 = 2;

/// The version of frame records; served to clients, so that changing it changes every encoding.
const FRAME_VERSION: u8 = 1;

/// The length of a frame record's header, in bytes.
pub const FRAME_HEADER_BYTES: usize = 64;

/// The length of a state record's header, in bytes.
pub const STATE_HEADER_BYTES: usize = 32;

/// The largest payload of a state record: a recipe of 16 million ops (1 TB of NAR) at 40 bytes each
/// has 640 MB.
pub const MAX_PAYLOAD_BYTES: u32 = 768 << 20;

/// The flag of a record that ends a commit.
pub const COMMIT: u8 = 1;

const FRAME_MAGIC: u32 = 0x184D_2A57;
const STATE_MAGIC: u32 = 0x184D_2A58;
const FRAME_KIND: u8 = 1;

/// What a state record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The first record of each segment: its number.
    Segment = 2,
    /// How one NAR is rebuilt from frames and literals.
    Recipe = 3,
    /// An upload's name, the NAR it was found to hold, and when its lease ends.
    Upload = 4,
    /// A published store path, signed.
    Path = 5,
    /// Further signatures of a published path.
    Signatures = 6,
    /// A build log, a realisation or a build trace.
    Document = 7,
    /// Another NAR was offered for a published path and not taken.
    Conflict = 8,
    /// All before this in its segment is durable, whatever comes of the upload or the rewriting
    /// that it belongs to; or the end of a group that counts wholly or not at all.
    Part = 9,
    /// A path was removed: what older records say of it no longer holds.
    Removed = 10,
    /// A pin, with all its generations.
    Pin = 11,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Kind> {
        use Kind::*;
        [
            Segment, Recipe, Upload, Path, Signatures, Document, Conflict, Part, Removed, Pin,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// The format version that brought the kind: what does not know it must refuse it.
    fn version(self) -> u8 {
        match self {
            Kind::Removed | Kind::Pin => 2,
            _ => 1,
        }
    }
}

/// The first 8 bytes of BLAKE3 over stored bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Checksum(pub [u8; 8]);

impl Checksum {
    /// The checksum of `stored`.
    pub fn of(stored: &[u8]) -> Checksum {
        let mut short = [0; 8];
        short.copy_from_slice(&blake3::hash(stored).as_bytes()[..8]);
        Checksum(short)
    }
}

/// A frame record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// BLAKE3-256 of the raw bytes.
    pub id: FrameId,
    /// Length of the raw bytes.
    pub raw_len: u32,
    /// Length of the zstd frame that follows the header.
    pub stored_len: u32,
    /// Checksum of the zstd frame.
    pub checksum: Checksum,
}

/// A state record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateHeader {
    /// What the payload is.
    pub kind: Kind,
    /// Whether this record ends a commit.
    pub commit: bool,
    /// Depot-wide sequence number; of two records about the same key the kind's rule decides by it.
    pub seq: u64,
    /// Length of the payload that follows the header.
    pub payload_len: u32,
    /// Checksum of the payload.
    pub checksum: Checksum,
}

/// Either header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// A frame follows.
    Frame(FrameHeader),
    /// A payload follows.
    State(StateHeader),
}

/// Why bytes are no record header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadHeader {
    /// Fewer bytes than a header has.
    Short,
    /// Damaged, torn, or not a header at all.
    Damaged,
    /// Written by a newer format than this build knows.
    Newer(u8),
}

impl FrameHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut out = [0; FRAME_HEADER_BYTES];
        out[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&(FRAME_HEADER_BYTES as u32 - 8).to_le_bytes());
        out[8..12].copy_from_slice(&[FRAME_KIND, FRAME_VERSION, 0, 0]);
        out[12..44].copy_from_slice(self.id.as_bytes());
        out[44..48].copy_from_slice(&self.raw_len.to_le_bytes());
        out[48..52].copy_from_slice(&self.stored_len.to_le_bytes());
        out[52..60].copy_from_slice(&self.checksum.0);
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

impl StateHeader {
    /// The header for `payload`.
    pub fn of(kind: Kind, commit: bool, seq: u64, payload: &[u8]) -> StateHeader {
        let payload_len = payload.len() as u32;
        StateHeader {
            kind,
            commit,
            seq,
            payload_len,
            checksum: Checksum::of(payload),
        }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; STATE_HEADER_BYTES] {
        let mut out = [0; STATE_HEADER_BYTES];
        let content = STATE_HEADER_BYTES as u32 - 8 + self.payload_len;
        out[0..4].copy_from_slice(&STATE_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&content.to_le_bytes());
        let flags = if self.commit { COMMIT } else { 0 };
        out[8..12].copy_from_slice(&[self.kind as u8, self.kind.version(), flags, 0]);
        out[12..20].copy_from_slice(&self.seq.to_le_bytes());
        out[20..28].copy_from_slice(&self.checksum.0);
        let crc = crc32c::crc32c(&out[..28]);
        out[28..].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

impl Header {
    /// Reads the header at the start of `bytes`, which may hold more than the header.
    pub fn decode(bytes: &[u8]) -> Result<Header, BadHeader> {
        let magic = u32_at(bytes, 0).ok_or(BadHeader::Short)?;
        match magic {
            FRAME_MAGIC => decode_frame(bytes).map(Header::Frame),
            STATE_MAGIC => decode_state(bytes).map(Header::State),
            _ => Err(BadHeader::Damaged),
        }
    }

    /// Length of the header itself.
    pub fn header_len(&self) -> usize {
        match self {
            Header::Frame(_) => FRAME_HEADER_BYTES,
            Header::State(_) => STATE_HEADER_BYTES,
        }
    }

    /// Length of what follows the header.
    pub fn body_len(&self) -> u32 {
        match self {
            Header::Frame(frame) => frame.stored_len,
            Header::State(state) => state.payload_len,
        }
    }

    /// Checksum of what follows the header.
    pub fn checksum(&self) -> Checksum {
        match self {
            Header::Frame(frame) => frame.checksum,
            Header::State(state) => state.checksum,
        }
    }
}

fn decode_frame(bytes: &[u8]) -> Result<FrameHeader, BadHeader> {
    let header = bytes.get(..FRAME_HEADER_BYTES).ok_or(BadHeader::Short)?;
    let field = |at| u32_at(header, at).ok_or(BadHeader::Short);
    if field(4)? != FRAME_HEADER_BYTES as u32 - 8 || field(60)? != crc32c::crc32c(&header[..60]) {
        return Err(BadHeader::Damaged);
    }
    if header[9] > FRAME_VERSION {
        return Err(BadHeader::Newer(header[9]));
    }
    if header[8] != FRAME_KIND || header[9] == 0 {
        return Err(BadHeader::Damaged);
    }
    let mut id = [0; 32];
    id.copy_from_slice(&header[12..44]);
    Ok(FrameHeader {
        id: FrameId::from_bytes(id),
        raw_len: field(44)?,
        stored_len: field(48)?,
        checksum: checksum_at(header, 52),
    })
}

fn decode_state(bytes: &[u8]) -> Result<StateHeader, BadHeader> {
    let header = bytes.get(..STATE_HEADER_BYTES).ok_or(BadHeader::Short)?;
    let field = |at| u32_at(header, at).ok_or(BadHeader::Short);
    if field(28)? != crc32c::crc32c(&header[..28]) {
        return Err(BadHeader::Damaged);
    }
    if header[9] > FORMAT_VERSION {
        return Err(BadHeader::Newer(header[9]));
    }
    let payload_len = field(4)?.checked_sub(STATE_HEADER_BYTES as u32 - 8);
    let payload_len = payload_len
        .filter(|len| *len <= MAX_PAYLOAD_BYTES)
        .ok_or(BadHeader::Damaged)?;
    let kind = Kind::from_u8(header[8]).ok_or(BadHeader::Damaged)?;
    let mut seq = [0; 8];
    seq.copy_from_slice(&header[12..20]);
    Ok(StateHeader {
        kind,
        commit: header[10] & COMMIT != 0,
        seq: u64::from_le_bytes(seq),
        payload_len,
        checksum: checksum_at(header, 20),
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(
        four.try_into().expect("invariant: four bytes were taken"),
    ))
}

fn checksum_at(bytes: &[u8], at: usize) -> Checksum {
    let mut short = [0; 8];
    short.copy_from_slice(&bytes[at..at + 8]);
    Checksum(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> FrameHeader {
        let id = FrameId::from_bytes([7; 32]);
        FrameHeader {
            id,
            raw_len: 70_000,
            stored_len: 1234,
            checksum: Checksum::of(b"stored"),
        }
    }

    #[test]
    fn both_headers_read_back_as_written() {
        let header = frame();
        assert_eq!(Header::decode(&header.encode()), Ok(Header::Frame(header)));
        for commit in [false, true] {
            let header = StateHeader::of(Kind::Path, commit, 99, b"payload");
            assert_eq!(Header::decode(&header.encode()), Ok(Header::State(header)));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let frame = frame().encode().to_vec();
        let state = StateHeader::of(Kind::Upload, true, 3, b"payload")
            .encode()
            .to_vec();
        for good in [frame, state] {
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Header::decode(&bad).is_err(), "bit {bit} went unnoticed");
            }
        }
    }

    #[test]
    fn a_newer_format_is_named_not_called_damaged() {
        let mut bytes = frame().encode();
        bytes[9] = FORMAT_VERSION + 1;
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(
            Header::decode(&bytes),
            Err(BadHeader::Newer(FORMAT_VERSION + 1))
        );
    }

    #[test]
    fn a_header_and_its_frame_are_a_zstd_stream_as_they_lie() {
        let raw = b"spans become frames".repeat(100);
        let stored = zstd::bulk::compress(&raw, 3).expect("compress");
        let header = FrameHeader {
            stored_len: stored.len() as u32,
            ..frame()
        };
        let state = StateHeader::of(Kind::Recipe, true, 1, b"a recipe");
        let mut stream = header.encode().to_vec();
        stream.extend(&stored);
        stream.extend(state.encode());
        stream.extend(b"a recipe");
        stream.extend(header.encode());
        stream.extend(&stored);
        let decoded = zstd::stream::decode_all(&stream[..]).expect("one valid stream");
        assert_eq!(decoded, raw.repeat(2));
    }
}
