//! Checking a depot that nobody uses, and making its index anew: what `fsck` and `recover` do.
//!
//! ```text
//!   segments --read, unpack, hash--> damage, tails that were never committed
//!        '-----replay, changing nothing--> a second index --compare--> the present index
//!                                               '--> every path: its NAR, its references
//! ```
//!
//! The segments are the truth, so whatever the present index says is held against an index made
//! from them alone. What the present index leaves out on purpose (garbage that was collected and
//! whose bytes still lie there) is no problem; what it has beyond the segments, or points at and is
//! not there, is.
//!
//! Guarantees: without `repair` segments stay as they are, to the byte; with it only what was
//! proven useless is removed and only what can be derived is rewritten, and a second pass proves
//! the result. Never: removes a record, or a file that it does not know.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::depot::Depot;
use crate::index::rocks::RocksIndex;
use crate::index::{Index, Rows, Table};
use crate::options::Options;
use crate::quarantine::{Broken, Damage};
use crate::record::{Header, Kind, StateHeader};
use crate::replay::replay_telling;
use crate::scan::{BadSectors, Commits, Found, Item, walk};
use crate::scrub::unpack::{Effort, Unpackers, with_unpackers};
use crate::segments::local::LocalSegments;
use crate::segments::{SegmentId, Segments};
use crate::{Error, Result};

mod compare;
mod files;
mod frozen;
mod layouts;
mod paths;
mod recover;

pub use recover::{Recovered, Recovering, recover};

use compare::Pair;
use files::Leftover;
use frozen::Frozen;
use layouts::WrongFormers;

/// The index that is made beside the present one, in the depot's folder.
const BESIDE: &str = "index.check";

/// What a check tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Something is wrong.
    Problem(String),
    /// Something is there that does no harm.
    Note(String),
    /// Something was put right.
    Repaired(String),
    /// Bytes read, of so many.
    #[serde(skip)]
    Progress(u64, u64),
}

/// What a check came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Frames unpacked and hashed.
    pub frames: u64,
    /// Other records.
    pub records: u64,
    /// Paths that are visible.
    pub paths: u64,
    /// Former encodings that are still kept.
    pub former_encodings: u64,
    /// Problems that are left.
    pub problems: u64,
    /// Things that do no harm.
    pub notes: u64,
    /// Things put right.
    pub repaired: u64,
}

/// Checks the depot in the data folder `data`, which nobody else uses, and repairs what can be when
/// that is asked for.
///
/// # Errors `Refused` where there is no depot, `Storage` where the disk fails, `Corrupt` where a
/// segment was written by a newer version.
pub fn check(data: &Path, repair: bool, on: &mut dyn FnMut(Finding)) -> Result<Checked> {
    let depot = depot_of(data)?;
    let first = pass(data, &depot, on)?;
    if !repair || first.is_clean() {
        return Ok(first.checked);
    }
    let repaired = first.repair(data, &depot, on)?;
    // What is left is told by a second pass, which proves the repair.
    let mut last = pass(data, &depot, on)?;
    last.checked.repaired = repaired;
    Ok(last.checked)
}

/// The depot's folder in a data folder.
fn depot_of(data: &Path) -> Result<PathBuf> {
    let depot = data.join("depot");
    if depot.join("segments").is_dir() {
        return Ok(depot);
    }
    let data = data.display();
    Err(Error::refused(format!(
        "{data} is no data folder: there is no depot/segments in it; name one with --data"
    )))
}

/// What one pass found.
#[derive(Default)]
struct Pass {
    checked: Checked,
    damage: Vec<Damage>,
    /// Segments with bytes behind their last commit, and where that ends.
    tails: Vec<(SegmentId, u64)>,
    leftovers: Vec<Leftover>,
    wrong_formers: WrongFormers,
    /// The present index is not what the segments say.
    index_is_wrong: bool,
    /// Rows of the present index lead to damage.
    damage_is_needed: bool,
}

fn pass(data: &Path, depot: &Path, on: &mut dyn FnMut(Finding)) -> Result<Pass> {
    let segments = open_segments(depot)?;
    let mut pass = Pass::default();
    let mut checked = Checked::default();
    let mut tell = Teller {
        on,
        checked: &mut checked,
    };
    pass.leftovers = files::check(data, &mut tell)?;
    with_unpackers(Effort::all(), |unpackers| {
        pass.read(&segments, unpackers, &mut tell)
    })?;
    pass.index(depot, &segments, &mut tell)?;
    pass.checked = checked;
    Ok(pass)
}

fn open_segments(depot: &Path) -> Result<LocalSegments> {
    let folder = depot.join("segments");
    LocalSegments::open(&folder)
        .map_err(|e| Error::io(format!("opening the segments in {}", folder.display()), e))
}

/// Tells of findings and counts them.
struct Teller<'a> {
    on: &'a mut dyn FnMut(Finding),
    checked: &'a mut Checked,
}

impl Teller<'_> {
    fn problem(&mut self, sentence: String) {
        self.checked.problems += 1;
        (self.on)(Finding::Problem(sentence));
    }

    fn note(&mut self, sentence: String) {
        self.checked.notes += 1;
        (self.on)(Finding::Note(sentence));
    }
}

impl Pass {
    fn is_clean(&self) -> bool {
        self.checked.problems == 0 && self.checked.notes == 0
    }

    /// Reads every segment to its end.
    fn read(
        &mut self,
        segments: &LocalSegments,
        unpackers: &Unpackers,
        tell: &mut Teller<'_>,
    ) -> Result<()> {
        let listed = segments
            .list()
            .map_err(|e| Error::io("listing segments", e))?;
        let total = listed.iter().map(|(_, len)| len).sum();
        for (id, len) in listed {
            tell.checked.segments += 1;
            self.segment(segments, unpackers, (id, len), total, tell)?;
        }
        Ok(())
    }

    fn segment(
        &mut self,
        segments: &LocalSegments,
        unpackers: &Unpackers,
        (id, len): (SegmentId, u64),
        total: u64,
        tell: &mut Teller<'_>,
    ) -> Result<()> {
        let (mut end, mut damage) = (0, Vec::new());
        let (mut belongs, mut commits) = (true, Commits::default());
        walk(segments, id, 0, len, BadSectors::Damage, &mut |item| {
            end = commits.end(&item).unwrap_or(end);
            let read = match &item {
                Item::Record(record) => record.end() - record.at,
                Item::Gap(from, to) => to - from,
            };
            tell.checked.bytes += read;
            (tell.on)(Finding::Progress(tell.checked.bytes, total));
            match item {
                Item::Gap(from, to) => damage.push(damage_at(id, from, to, Broken::Bytes)),
                Item::Record(record) => {
                    let what = match record.header {
                        Header::Frame(frame) => Broken::Frame(frame.id),
                        Header::State(state) => Broken::State(state.kind),
                    };
                    if !record.whole {
                        damage.push(damage_at(id, record.at, record.end(), what));
                        return Ok(());
                    }
                    match record.header {
                        Header::Frame(frame) => {
                            tell.checked.frames += 1;
                            unpackers.hand_in(id, record.at, frame, record.body)?;
                        }
                        Header::State(state) => {
                            tell.checked.records += 1;
                            belongs &= names(&state, &record, id);
                        }
                    }
                }
            }
            Ok(())
        })?;
        damage.extend(unpackers.finish()?);
        if !belongs {
            tell.problem(format!(
                "segment {id} has another segment's number in it: was it renamed?"
            ));
        }
        if end < len {
            tell.note(format!(
                "segment {id}: {} bytes behind the last commit were never acknowledged; the next \
                 start drops them",
                len - end
            ));
            self.tails.push((id, end));
        }
        damage.retain(|one| one.offset < end);
        self.damage.append(&mut damage);
        Ok(())
    }

    /// Makes an index from the segments and holds the present one against it.
    fn index(
        &mut self,
        depot: &Path,
        segments: &LocalSegments,
        tell: &mut Teller<'_>,
    ) -> Result<()> {
        let beside = depot.join(BESIDE);
        remove_folder(&beside)?;
        let fresh = RocksIndex::open(&beside)?;
        let mut lost = Vec::new();
        replay_telling(&Frozen(segments), &fresh, 0, &mut |one| lost.push(one))?;
        let needed = self.hold_against(depot, segments, &fresh, tell)?;
        for (number, one) in self.damage.iter().enumerate() {
            let Damage {
                offset,
                bytes,
                what,
                ..
            } = one;
            let segment = SegmentId(one.segment);
            let place = format!("segment {segment} at {offset}: {what} is damaged ({bytes} bytes)");
            match needed.contains(&number) {
                true => tell.problem(place),
                false => tell.note(format!("{place}; nothing needs it")),
            }
        }
        self.damage_is_needed = !needed.is_empty();
        paths::tell_lost(segments, &fresh, &lost, tell)?;
        drop(fresh);
        remove_folder(&beside)
    }

    /// Compares the present index with one from the segments; which damage its rows lead to.
    fn hold_against(
        &mut self,
        depot: &Path,
        segments: &LocalSegments,
        fresh: &dyn Index,
        tell: &mut Teller<'_>,
    ) -> Result<HashSet<usize>> {
        let folder = depot.join("index");
        if !folder.is_dir() {
            tell.note("there is no index; the next start makes it anew".to_owned());
            paths::check(fresh, tell)?;
            return compare::damage_in(fresh, &self.damage);
        }
        let before = tell.checked.problems;
        let present = match RocksIndex::open(&folder) {
            Ok(present) => present,
            Err(error) => {
                tell.problem(format!("the index does not open: {error}"));
                self.index_is_wrong = true;
                paths::check(fresh, tell)?;
                return compare::damage_in(fresh, &self.damage);
            }
        };
        // As every start does, but for the segments, which stay as they are.
        if let Err(error) = replay_telling(&Frozen(segments), &present, 0, &mut |_| {}) {
            tell.problem(format!("the index cannot be brought up to date: {error}"));
        }
        let pair = Pair {
            segments,
            present: &present,
            fresh,
            damage: &self.damage,
        };
        compare::indexes(&pair, tell)?;
        self.index_is_wrong = tell.checked.problems > before;
        self.index_is_wrong |= paths::check(&present, tell)? > 0;
        self.wrong_formers = pair.formers(tell)?;
        compare::damage_in(&present, &self.damage)
    }

    /// Puts right what this pass found; how many things.
    fn repair(&self, data: &Path, depot: &Path, on: &mut dyn FnMut(Finding)) -> Result<u64> {
        let mut repaired = 0;
        let mut done = |sentence: String| {
            repaired += 1;
            on(Finding::Repaired(sentence));
        };
        for leftover in &self.leftovers {
            done(leftover.remove()?);
        }
        let segments = open_segments(depot)?;
        for (id, end) in &self.tails {
            let failed = |e| Error::io(format!("cutting segment {id}"), e);
            match end {
                0 => segments.remove(*id).map_err(failed)?,
                end => segments
                    .append(*id, *end)
                    .and_then(|mut writer| writer.sync())
                    .map_err(failed)?,
            }
            done(format!("segment {id}: dropped what was never committed"));
        }
        if self.wrong_formers.count() > 0 && !self.index_is_wrong {
            self.wrong_formers
                .remove(&RocksIndex::open(&depot.join("index"))?)?;
            done(format!(
                "{} former encodings were let go; their URLs give the present bytes, whole",
                self.wrong_formers.count()
            ));
        }
        // First, for the index may know what damaged records said.
        if self.damage_is_needed && !self.index_is_wrong {
            let depot = Depot::open(Options::new(depot))?;
            let isolated = depot.isolate(&self.damage)?;
            done(format!(
                "{} records were written anew from the index, {} former encodings let go, {} NARs \
                 quarantined until they are pushed again",
                isolated.rewritten_records,
                isolated.former_encodings,
                isolated.sick.len()
            ));
        }
        if self.index_is_wrong {
            let recovered = recover(data, &mut |_| {})?;
            done(format!(
                "the index was made anew: {} paths",
                recovered.paths
            ));
        }
        Ok(repaired)
    }
}

fn damage_at(segment: SegmentId, from: u64, to: u64, what: Broken) -> Damage {
    Damage {
        segment: segment.0,
        offset: from,
        bytes: to - from,
        what,
    }
}

/// Whether a segment's first record names it, as far as this record tells.
fn names(state: &StateHeader, record: &Found<'_>, id: SegmentId) -> bool {
    state.kind != Kind::Segment || record.body.starts_with(&id.0.to_le_bytes())
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(format!("removing {}", folder.display()), error))
        }
        _ => Ok(()),
    }
}

/// How many rows a table has.
fn count(index: &dyn Index, table: Table) -> Result<u64> {
    let mut rows = 0;
    for row in Rows::new(index, table, &[]) {
        row?;
        rows += 1;
    }
    Ok(rows)
}
