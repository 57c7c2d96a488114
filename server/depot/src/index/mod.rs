//! The index: where things are, so that nobody has to search segments.
//!
//! It is derived: everything in it can be replayed from the segments, and is when the index is new,
//! lost or behind. Two implementations pass the same contract suite ([`contract`]): RocksDB, and
//! memory for tests and simulations.

pub mod contract;
pub(crate) mod forward;
pub mod memory;
pub(crate) mod owed;
pub mod renewing;
pub mod rocks;
pub(crate) mod watched;

use std::time::Duration;

use bytes::Bytes;

use crate::Result;

/// What a key and its value are about. Each table is a key space of its own, ordered by key bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// FrameId -> where the frame lies.
    Frames,
    /// NarHash -> summary, NarHash and block number -> a block of the layout.
    Layouts,
    /// NarHash and the name of an encoding that is not the current one any more -> until when it is
    /// kept, summary; the same and block number -> a block of its layout.
    Formers,
    /// Cache, 0, upload name -> where its record lies, upload.
    Uploads,
    /// Cache, 0, store hash -> where its records lie, path.
    Paths,
    /// Cache, 0, NarHash -> nothing: a visible path of the cache has this NAR, or had it lately.
    Visible,
    /// Cache, 0, kind, document key -> where the document lies.
    Documents,
    /// Segment number (big-endian) -> how far it was replayed.
    Marks,
    /// Cache, 0, pin name -> where its record lies, pin.
    Pins,
    /// Cache, 0, store hash -> where the record of its removal lies, where older records may lie.
    Removed,
    /// Cache, 0, store hash, sequence number -> where the record of a lost offer lies.
    Conflicts,
    /// Cache, 0, store hash -> when it was last served or asked for.
    Used,
    /// Cache, 0, NarHash -> since when no visible path has this NAR.
    Doomed,
    /// About the index itself: its version, and since when it counts uses.
    About,
    /// Cache, 0, FrameId -> nothing: the frame was sent to this cache, which is a named one.
    Sent,
    /// FrameId -> nothing: the frame was sent to named caches only.
    Hidden,
    /// NarHash, and FrameId where it lacks one -> nothing, or where its recipe lay: why a NAR is
    /// not served.
    Sick,
}

impl Table {
    /// Every table.
    pub const ALL: [Table; 17] = [
        Table::Frames,
        Table::Layouts,
        Table::Formers,
        Table::Uploads,
        Table::Paths,
        Table::Visible,
        Table::Documents,
        Table::Marks,
        Table::Pins,
        Table::Removed,
        Table::Conflicts,
        Table::Used,
        Table::Doomed,
        Table::About,
        Table::Sent,
        Table::Hidden,
        Table::Sick,
    ];

    /// A short name for people and column families.
    pub fn name(self) -> &'static str {
        match self {
            Table::Frames => "frames",
            Table::Layouts => "layouts",
            Table::Formers => "formers",
            Table::Uploads => "uploads",
            Table::Paths => "paths",
            Table::Visible => "visible",
            Table::Documents => "documents",
            Table::Marks => "marks",
            Table::Pins => "pins",
            Table::Removed => "removed",
            Table::Conflicts => "conflicts",
            Table::Used => "used",
            Table::Doomed => "doomed",
            Table::About => "about",
            Table::Sent => "sent",
            Table::Hidden => "hidden",
            Table::Sick => "sick",
        }
    }
}

/// Changes that become visible together.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    pub(crate) changes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    /// Sets a key.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    /// Removes a key, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }
}

/// A row of a scan: key and value.
pub type Row = (Bytes, Bytes);

/// An ordered key-value index with atomic batches.
pub trait Index: Send + Sync {
    /// The value at `key`.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// The values at `keys`, in their order, in one pass.
    fn get_many(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>>;

    /// Applies all changes of `batch` or none. A crash may lose a suffix of the batches written,
    /// never a part of one.
    fn write(&self, batch: Batch) -> Result<()>;

    /// Up to `limit` rows whose key starts with `prefix` and lies behind `after`, by rising key.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>>;

    /// How many rows a table has, roughly and at once.
    fn rows_about(&self, table: Table) -> Result<u64>;

    /// How often writes were held up, since the index was opened, because it could not be put in
    /// order as fast as they came. Reads are never held up.
    fn stalls(&self) -> Result<u64>;

    /// How long whoever is about to write many rows had better wait, so that what was written
    /// before is put in order meanwhile and no write is ever held up.
    fn pause(&self) -> Result<Duration>;

    /// Makes what was written survive a crash without replay. Called now and then to bound the
    /// replay at start.
    fn checkpoint(&self) -> Result<()>;

    /// Whether it can be written, and what it says is all that was committed. Tries to be so again
    /// where an earlier write failed. Ask before anything is decided, and appended, upon it.
    ///
    /// Returns how often it began anew: with another number than before, what was written and not
    /// made durable by [`Index::checkpoint`] may have to be decided again.
    fn ready(&self) -> Result<u64>;
}

/// Rows read at once by [`Rows`].
const PAGE_ROWS: usize = 4096;

/// All rows of a table whose key starts with a prefix, page by page. Rows that are written
/// meanwhile may or may not come.
pub struct Rows<'a> {
    index: &'a dyn Index,
    table: Table,
    prefix: &'a [u8],
    page: std::vec::IntoIter<Row>,
    last: Option<Bytes>,
    over: bool,
}

impl<'a> Rows<'a> {
    /// From the first row on.
    pub fn new(index: &'a dyn Index, table: Table, prefix: &'a [u8]) -> Rows<'a> {
        Rows {
            index,
            table,
            prefix,
            page: Vec::new().into_iter(),
            last: None,
            over: false,
        }
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        if self.page.len() == 0 && !self.over {
            let after = self.last.as_deref();
            match self.index.scan(self.table, self.prefix, after, PAGE_ROWS) {
                Ok(page) => self.page = page.into_iter(),
                Err(error) => {
                    self.over = true;
                    return Some(Err(error));
                }
            }
        }
        let row = self.page.next();
        match &row {
            Some((key, _)) => self.last = Some(key.clone()),
            None => self.over = true,
        }
        row.map(Ok)
    }
}
