//! Former encodings: how a NAR was sent until its frames were compressed anew.
//!
//! ```text
//!   layout --frames compressed anew--> layout           what narinfos name from here on
//!      '---> former, until clients have forgotten it    what URLs name that went out before
//! ```
//! A URL names an encoding, and who broke off a download asks for the rest of those very bytes. So
//! the layout that is replaced is kept, and the segments that it leads to are not rewritten, until
//! no client remembers a narinfo with it. It lives in the index only: where that is lost, or the
//! room is needed, a request for all of it gets the current encoding whole, and one for a part is
//! refused.
//!
//! Guarantees: what a former leads to stays where it is as long as it is in the index. Never:
//! counts on what a former leads to; the NAR is whole without it.

use bytes::Bytes;
use snowcache_nix::NarHash;

use crate::Result;
use crate::index::{Batch, Index, Rows, Table};
use crate::layout::{Encoding, Layout};
use crate::rows::time_row;
use crate::varint::Reader;

/// An encoding's name, in characters.
pub const NAME_BYTES: usize = 16;

/// NarHash and the name; in the key of a block its number follows.
pub const KEY_BYTES: usize = 32 + NAME_BYTES;

/// A former encoding of a NAR.
#[derive(Debug)]
pub struct Former {
    /// The NAR.
    pub nar: NarHash,
    /// Until when it is kept, in seconds since 1970.
    pub until: u64,
    /// Where it lies.
    pub layout: Layout,
}

/// All rows of formers that are no blocks, of one NAR or of all.
pub fn all<'a>(
    index: &'a dyn Index,
    prefix: &'a [u8],
) -> impl Iterator<Item = Result<Former>> + 'a {
    let rows = Rows::new(index, Table::Formers, prefix);
    rows.filter_map(|row| match row {
        Ok((key, value)) => {
            let nar = key.first_chunk().filter(|_| key.len() == KEY_BYTES)?;
            Some(decode(NarHash::from_bytes(*nar), &value))
        }
        Err(error) => Some(Err(error)),
    })
}

/// The former encoding of a NAR with this name, if it is still kept.
pub fn named(index: &dyn Index, nar: &NarHash, name: &str) -> Result<Option<Layout>> {
    let key = [nar.as_bytes().as_slice(), name.as_bytes()].concat();
    Ok(Former::read(index, &key)?.map(|former| former.layout))
}

/// Keeps the layout that a NAR has, which is about to be replaced. The caller holds the gate.
pub fn keep(
    index: &dyn Index,
    nar: &NarHash,
    layout: &Layout,
    until: u64,
    batch: &mut Batch,
) -> Result<()> {
    let Some(summary) = index.get(Table::Layouts, nar.as_bytes())? else {
        return Ok(());
    };
    for number in 0..layout.blocks.len() {
        let row = layout.block_row(index, nar, number)?.unwrap_or_default();
        batch.put(
            Table::Formers,
            block_key(nar, &layout.encoding, number),
            &row[..],
        );
    }
    let row = [&time_row(until)[..], &summary].concat();
    batch.put(Table::Formers, key(nar, &layout.encoding), row);
    Ok(())
}

impl Former {
    /// The one with this key, if it has a row.
    pub fn read(index: &dyn Index, key: &[u8]) -> Result<Option<Former>> {
        let Some(nar) = key.first_chunk().filter(|_| key.len() == KEY_BYTES) else {
            return Ok(None);
        };
        let row = index.get(Table::Formers, key)?;
        row.map(|row| decode(NarHash::from_bytes(*nar), &row))
            .transpose()
    }

    /// Keeps it until another time.
    pub fn keep_until(&self, index: &dyn Index, until: u64, batch: &mut Batch) -> Result<()> {
        let key = key(&self.nar, &self.layout.encoding);
        let Some(row) = index.get(Table::Formers, &key)? else {
            return Ok(());
        };
        let mut reader = time_of_former(&row);
        reader.u64()?;
        batch.put(
            Table::Formers,
            key,
            [&time_row(until)[..], reader.rest()].concat(),
        );
        Ok(())
    }

    /// Lets go of it.
    pub fn remove(&self, batch: &mut Batch) {
        let encoding = &self.layout.encoding;
        batch.delete(Table::Formers, key(&self.nar, encoding));
        for number in 0..self.layout.blocks.len() {
            batch.delete(Table::Formers, block_key(&self.nar, encoding, number));
        }
    }
}

fn decode(nar: NarHash, row: &Bytes) -> Result<Former> {
    let mut reader = time_of_former(row);
    let until = reader.u64()?;
    let layout = Layout {
        is_former: true,
        ..Layout::decode(reader.rest())?
    };
    Ok(Former { nar, until, layout })
}

fn time_of_former(row: &[u8]) -> Reader<'_> {
    Reader::new(row, "a former encoding")
}

fn key(nar: &NarHash, encoding: &Encoding) -> Vec<u8> {
    [nar.as_bytes().as_slice(), encoding.name.as_bytes()].concat()
}

/// The key of a block of a former's layout.
pub fn block_key(nar: &NarHash, encoding: &Encoding, number: usize) -> Vec<u8> {
    let mut key = key(nar, encoding);
    key.extend((number as u32).to_be_bytes());
    key
}
