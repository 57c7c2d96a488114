//! Rows of the index: what it says of each record that carries state.
//!
//! Each row begins with the place of the record that it came from, so that a record lives exactly
//! as long as a row points at it. Rows are derived: they can be made anew from the segments, and
//! are when [`SCHEMA`] changes.

use bytes::Bytes;
use snowcache_nix::{NarHash, PathInfo};

use crate::index::{Batch, Index, Table};
use crate::keys::CacheName;
use crate::pins::Pin;
use crate::record::{STATE_HEADER_BYTES, StateHeader};
use crate::segments::SegmentId;
use crate::state::{UploadState, from_json, to_json};
use crate::varint::{Reader, put};
use crate::{Error, ErrorKind, Result};

/// The version of the rows; another one in the index means that it is made anew.
pub const SCHEMA: &[u8] = b"2";

/// The key of [`SCHEMA`] in [`Table::About`].
pub const SCHEMA_KEY: &[u8] = b"schema";

/// The key, in [`Table::About`], of the time since which the index knows what was served.
pub const SINCE_KEY: &[u8] = b"since";

/// Where a state record lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The segment's number.
    pub segment: u32,
    /// Offset of the record's header.
    pub offset: u64,
    /// Length of the record with its header.
    pub len: u64,
    /// Its sequence number, which it keeps wherever it is moved.
    pub seq: u64,
}

impl Place {
    /// The place of the record with this header.
    pub fn of(segment: SegmentId, offset: u64, header: &StateHeader) -> Place {
        Place {
            segment: segment.0,
            offset,
            len: STATE_HEADER_BYTES as u64 + u64::from(header.payload_len),
            seq: header.seq,
        }
    }

    /// The segment.
    pub fn segment(&self) -> SegmentId {
        SegmentId(self.segment)
    }

    /// Appends the place to a row.
    pub fn put(&self, row: &mut Vec<u8>) {
        for number in [self.segment.into(), self.offset, self.len, self.seq] {
            put(row, number);
        }
    }

    /// Reads a place from a row.
    pub fn read(row: &mut Reader<'_>) -> Result<Place> {
        Ok(Place {
            segment: row.u32()?,
            offset: row.u64()?,
            len: row.u64()?,
            seq: row.u64()?,
        })
    }

    /// A row that is a place and nothing else.
    pub fn to_row(self) -> Vec<u8> {
        let mut row = Vec::with_capacity(16);
        self.put(&mut row);
        row
    }

    /// Reads a row that begins with a place.
    pub fn of_row(row: &[u8]) -> Result<Place> {
        Place::read(&mut Reader::new(row, "a record's place"))
    }
}

/// A visible path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathRow {
    /// Its record.
    pub place: Place,
    /// When it was published, in seconds since 1970.
    pub time: u64,
    /// The record of its latest signatures, when there is one.
    pub signatures: Option<Place>,
    /// The narinfo without what depends on the encoding, all signatures in it.
    pub narinfo: Bytes,
}

impl PathRow {
    /// The index's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = Vec::with_capacity(40 + self.narinfo.len());
        self.place.put(&mut row);
        put(&mut row, self.time);
        put(&mut row, self.signatures.is_some().into());
        if let Some(place) = &self.signatures {
            place.put(&mut row);
        }
        row.extend_from_slice(&self.narinfo);
        row
    }

    /// Reads the index's value.
    pub fn decode(value: &Bytes) -> Result<PathRow> {
        let mut row = Reader::new(value, "a path's row");
        let (place, time) = (Place::read(&mut row)?, row.u64()?);
        let signatures = match row.u64()? {
            0 => None,
            _ => Some(Place::read(&mut row)?),
        };
        Ok(PathRow {
            place,
            time,
            signatures,
            narinfo: value.slice_ref(row.rest()),
        })
    }

    /// The row of a path, when it is visible.
    pub fn get(index: &dyn Index, key: &[u8]) -> Result<Option<PathRow>> {
        let value = index.get(Table::Paths, key)?;
        value.map(|value| PathRow::decode(&value)).transpose()
    }

    /// What is known of the path.
    pub fn info(&self) -> Result<PathInfo> {
        path_info(&self.narinfo)
    }
}

/// A path's record as text.
pub fn path_info(text: &[u8]) -> Result<PathInfo> {
    let text = std::str::from_utf8(text)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a path's record does not read", e))?;
    PathInfo::from_record(text)
        .map_err(|e| Error::caused(ErrorKind::Corrupt, "a path's record does not read", e))
}

/// An upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadRow {
    /// Its record.
    pub place: Place,
    /// What it says.
    pub state: UploadState,
}

impl UploadRow {
    /// Puts the row into `batch`.
    pub fn put(&self, batch: &mut Batch) {
        let mut row = self.place.to_row();
        row.extend(to_json(&self.state));
        batch.put(Table::Uploads, self.key(), row);
    }

    /// Reads the index's value.
    pub fn decode(value: &[u8]) -> Result<UploadRow> {
        let mut row = Reader::new(value, "an upload's row");
        let place = Place::read(&mut row)?;
        let state = from_json(row.rest(), "an upload in the index")?;
        Ok(UploadRow { place, state })
    }

    /// The row's key.
    pub fn key(&self) -> Vec<u8> {
        self.state.cache.key(self.state.name.as_bytes())
    }
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRow {
    /// Its record.
    pub place: Place,
    /// What it says.
    pub pin: Pin,
}

impl PinRow {
    /// The index's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = self.place.to_row();
        row.extend(to_json(&self.pin));
        row
    }

    /// Reads the index's value.
    pub fn decode(value: &[u8]) -> Result<PinRow> {
        let mut row = Reader::new(value, "a pin's row");
        let place = Place::read(&mut row)?;
        let pin = from_json(row.rest(), "a pin in the index")?;
        Ok(PinRow { place, pin })
    }
}

/// The removal of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemovedRow {
    /// Its record.
    pub place: Place,
    /// Segments that may hold older records of the path: only when none of them is left may this
    /// one go.
    pub corpses: Vec<u32>,
}

impl RemovedRow {
    /// The index's value.
    pub fn encode(&self) -> Vec<u8> {
        let mut row = self.place.to_row();
        for segment in &self.corpses {
            put(&mut row, (*segment).into());
        }
        row
    }

    /// Reads the index's value.
    pub fn decode(value: &[u8]) -> Result<RemovedRow> {
        let mut row = Reader::new(value, "a removal's row");
        let place = Place::read(&mut row)?;
        let mut corpses = Vec::new();
        while !row.is_empty() {
            corpses.push(row.u32()?);
        }
        Ok(RemovedRow { place, corpses })
    }

    /// The latest removal of a path, when there is one.
    pub fn get(index: &dyn Index, key: &[u8]) -> Result<Option<RemovedRow>> {
        let value = index.get(Table::Removed, key)?;
        value.map(|value| RemovedRow::decode(&value)).transpose()
    }
}

/// The key of a lost offer's row.
pub fn conflict_key(path_key: &[u8], seq: u64) -> Vec<u8> {
    [path_key, &seq.to_be_bytes()].concat()
}

/// A time as a row.
pub fn time_row(unix_s: u64) -> Vec<u8> {
    let mut row = Vec::new();
    put(&mut row, unix_s);
    row
}

/// Reads a time from a row.
pub fn time_of(row: &[u8]) -> Result<u64> {
    Reader::new(row, "a time in the index").u64()
}

/// The cache and the NarHash in a key of [`Table::Visible`] or [`Table::Doomed`].
pub fn nar_of_key(key: &[u8]) -> Result<(CacheName, NarHash)> {
    let (cache, hash) = cache_of_key(key)?;
    let hash = hash.try_into().map_err(|_| bad_key())?;
    Ok((cache, NarHash::from_bytes(hash)))
}

/// The cache in a key, and what follows it.
pub fn cache_of_key(key: &[u8]) -> Result<(CacheName, &[u8])> {
    let zero = key.iter().position(|byte| *byte == 0).ok_or_else(bad_key)?;
    let name = std::str::from_utf8(&key[..zero]).map_err(|_| bad_key())?;
    Ok((name.parse()?, &key[zero + 1..]))
}

fn bad_key() -> Error {
    Error::corrupt("a key of the index does not read; run `snowcached recover`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_read_back_as_written() {
        let place = |n| Place {
            segment: n,
            offset: 1 << 40,
            len: 300,
            seq: 77,
        };
        for signatures in [None, Some(place(2))] {
            let row = PathRow {
                place: place(1),
                time: 1_700_000_000,
                signatures,
                narinfo: Bytes::from_static(b"StorePath: x\n"),
            };
            assert_eq!(PathRow::decode(&row.encode().into()).expect("reads"), row);
        }
        let row = RemovedRow {
            place: place(3),
            corpses: vec![1, 900],
        };
        assert_eq!(RemovedRow::decode(&row.encode()).expect("reads"), row);
    }

    #[test]
    fn a_key_gives_its_cache_back() {
        let cache: CacheName = "team-a".parse().expect("a name");
        let nar = NarHash::from_bytes([0; 32]);
        let (found, hash) = nar_of_key(&cache.nar_key(&nar)).expect("reads");
        assert_eq!((found, hash), (cache, nar));
    }
}
