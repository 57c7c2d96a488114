//! The scrub: reads everything that was committed, and finds what is no longer what was written.
//!
//! ```text
//!   segment --256 KiB each--> headers, checksums --frames--> unpack, BLAKE3 (threads by rate)
//!                                        |                            |
//!                                        '--------- damage <----------'
//!                                                      v
//!                                     quarantine: not served, stored anew by the next push
//! ```
//!
//! Guarantees: every committed byte is checked against its checksum, and the raw bytes of every
//! frame against the frame's id; it takes no lock that a reader or a writer waits for; it reads at
//! most `rate_bytes_per_s`. Never: changes a segment.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::{Duration, Instant};

use serde::Serialize;
use snowcache_core::recipe::FrameId;

use crate::commit::{Change, Outcome};
use crate::depot::{Depot, Shared};
use crate::index::Table;
use crate::layout::Location;
use crate::quarantine::{Broken, Damage, Isolated};
use crate::record::{FrameHeader, Header};
use crate::scan::{BadSectors, Found, Item, walk};
use crate::segments::SegmentId;
use crate::varint::Reader;
use crate::{Error, ErrorKind, Result};

pub(crate) mod unpack;

use unpack::{Effort, Unpackers, with_unpackers};

/// Between two reports of progress.
pub const REPORT_EVERY: Duration = Duration::from_millis(250);

/// The longest sleep of a scrub that reads too fast: soon enough to notice that it was stopped.
pub const NAP: Duration = Duration::from_millis(50);

/// What to read, and how fast.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Scrub {
    /// Only a part of the segments.
    pub subset: Option<Subset>,
    /// Stored bytes read a second, at most; as fast as it goes where there is none.
    pub rate_bytes_per_s: Option<u64>,
}

/// Part `n` of `t`: the segments whose number divided by `t` leaves `n - 1`. Written `n/t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subset {
    part: u32,
    of: u32,
}

impl Subset {
    /// Part `part` of `of`, counted from 1.
    pub fn new(part: u32, of: u32) -> Option<Subset> {
        (1..=of).contains(&part).then_some(Subset { part, of })
    }

    fn has(self, segment: SegmentId) -> bool {
        segment.0 % self.of == self.part - 1
    }
}

impl fmt::Display for Subset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.part, self.of)
    }
}

impl FromStr for Subset {
    type Err = Error;

    fn from_str(text: &str) -> Result<Subset> {
        let numbers = text.split_once('/').and_then(|(part, of)| {
            let (part, of) = (part.parse().ok()?, of.parse().ok()?);
            Subset::new(part, of)
        });
        numbers.ok_or_else(|| {
            Error::refused(format!(
                "{text:?} is no subset: write part/of with 1 <= part <= of, as in 1/7"
            ))
        })
    }
}

/// What a scrub tells while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scrubbing {
    /// How far it is.
    Progress(Progress),
    /// What it found.
    Damage(Damage),
    /// A path that is not served any more.
    Lost(String),
}

/// How far a scrub is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Segments read.
    pub segments_done: u64,
    /// Segments to read.
    pub segments: u64,
    /// Bytes read.
    pub bytes_done: u64,
    /// Bytes to read.
    pub bytes: u64,
    /// Damaged places found.
    pub damaged: u64,
}

/// What a scrub came to.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Scrubbed {
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Frames that were unpacked and hashed.
    pub frames: u64,
    /// Other records.
    pub states: u64,
    /// Places that are damaged.
    pub damaged: u64,
    /// NARs that are no longer served since this scrub.
    pub sick_nars: u64,
    /// NARs that other copies of their frames were found for.
    pub healed_nars: u64,
    /// Former encodings that lay there and were let go; their NARs have current ones.
    pub former_encodings: u64,
    /// State records that were written anew from what the index knew of them.
    pub rewritten_records: u64,
    /// Store paths that these NARs belonged to.
    pub lost_paths: u64,
    /// Whether it was stopped before its end.
    pub stopped: bool,
    /// How long it took.
    pub seconds: f64,
}

impl Depot {
    /// Takes damaged places out of use, and writes damaged records again as far as the index knows
    /// them.
    pub(crate) fn isolate(&self, damage: &[Damage]) -> Result<Isolated> {
        let mut isolated = self.shared().isolate(damage)?;
        let harmed = self.shared().harmed(damage)?;
        if !harmed.is_empty() {
            let written = self.commit(Change::Again(harmed))?;
            if let Outcome::Again(records) = written {
                isolated.rewritten_records = records;
            }
        }
        Ok(isolated)
    }

    /// Reads what was committed, or a subset of it, checks all of it, and quarantines what is
    /// damaged. `on` is told of damage at once and of progress now and then, and may stop it.
    ///
    /// # Errors `Busy` while another scrub runs, `Storage` where the disk fails altogether.
    pub fn scrub(
        &self,
        scrub: &Scrub,
        on: &mut dyn FnMut(Scrubbing) -> ControlFlow<()>,
    ) -> Result<Scrubbed> {
        let _only = self.shared().quarantine.only_scrub().ok_or_else(|| {
            Error::new(
                ErrorKind::Busy,
                "a scrub is under way already; wait for its end",
            )
        })?;
        let mut segments = committed(self.shared())?;
        segments.retain(|(id, _)| scrub.subset.is_none_or(|subset| subset.has(*id)));
        let progress = Progress {
            segments: segments.len() as u64,
            bytes: segments.iter().map(|(_, len)| len).sum(),
            ..Progress::default()
        };
        let began = Instant::now();
        with_unpackers(Effort::for_rate(scrub.rate_bytes_per_s), |unpackers| {
            let mut run = Run {
                depot: self,
                shared: self.shared(),
                on,
                unpackers,
                pace: Pace::new(scrub.rate_bytes_per_s),
                told: Instant::now(),
                progress,
                result: Scrubbed::default(),
                wanted: HashSet::new(),
                found: Vec::new(),
            };
            for (id, len) in segments {
                if run.result.stopped {
                    break;
                }
                run.segment(id, len)?;
            }
            run.finish(began)
        })
    }
}

/// Every segment and how much of it was committed, as one moment has it.
pub(crate) fn committed(shared: &Shared) -> Result<Vec<(SegmentId, u64)>> {
    let marks = shared.index.scan(Table::Marks, &[], None, usize::MAX)?;
    let mut lens = BTreeMap::new();
    for (key, value) in marks {
        if let Ok(number) = <[u8; 4]>::try_from(&key[..]) {
            let len = Reader::new(&value, "a replay mark").u64()?;
            lens.insert(SegmentId(u32::from_be_bytes(number)), len);
        }
    }
    let listed = shared
        .segments
        .list()
        .map_err(|e| Error::io("listing segments", e))?;
    let known = listed
        .into_iter()
        .filter_map(|(id, _)| Some((id, *lens.get(&id)?)));
    Ok(known.collect())
}

/// One scrub under way.
struct Run<'a> {
    depot: &'a Depot,
    shared: &'a Shared,
    on: &'a mut dyn FnMut(Scrubbing) -> ControlFlow<()>,
    unpackers: &'a Unpackers,
    pace: Pace,
    told: Instant,
    progress: Progress,
    result: Scrubbed,
    /// Frames that a sick NAR lacks: a copy may turn up.
    wanted: HashSet<FrameId>,
    /// Copies that turned up, not yet unpacked.
    found: Vec<(FrameId, Location)>,
}

impl Run<'_> {
    fn segment(&mut self, id: SegmentId, len: u64) -> Result<()> {
        self.wanted = self.shared.quarantine.wanted();
        let mut damage = Vec::new();
        let shared = self.shared;
        let (segments, bad_sectors) = (&*shared.segments, BadSectors::Damage);
        let read = walk(segments, id, 0, len, bad_sectors, &mut |item| {
            let bytes = match &item {
                Item::Record(record) => record.end() - record.at,
                Item::Gap(from, to) => to - from,
            };
            damage.extend(self.check(id, item)?);
            self.read(bytes)
        });
        match read {
            Err(error) if self.result.stopped => tracing::debug!(%error, "the scrub was stopped"),
            // Rewritten and removed since the list was made.
            Err(error) if error.is_gone() => {
                tracing::debug!(segment = %id, "went away during the scrub");
                damage.clear();
            }
            read => read?,
        }
        damage.extend(self.unpackers.finish()?);
        self.progress.segments_done += 1;
        self.result.segments += 1;
        self.settle(&damage)
    }

    /// What is wrong with an item, as far as it can be told without unpacking.
    fn check(&mut self, segment: SegmentId, item: Item<'_>) -> Result<Option<Damage>> {
        let damage = |at, end: u64, what| {
            Ok(Some(Damage {
                segment: segment.0,
                offset: at,
                bytes: end - at,
                what,
            }))
        };
        match item {
            Item::Gap(from, to) => damage(from, to, Broken::Bytes),
            Item::Record(record) => match record.header {
                Header::Frame(frame) => {
                    self.result.frames += 1;
                    if !record.whole {
                        return damage(record.at, record.end(), Broken::Frame(frame.id));
                    }
                    if self.wanted.contains(&frame.id) {
                        self.found
                            .push((frame.id, location(segment, &record, &frame)));
                    }
                    self.unpackers
                        .hand_in(segment, record.at, frame, record.body)?;
                    Ok(None)
                }
                Header::State(state) => {
                    self.result.states += 1;
                    match record.whole {
                        true => Ok(None),
                        false => damage(record.at, record.end(), Broken::State(state.kind)),
                    }
                }
            },
        }
    }

    /// Notes that bytes were read; waits where that was too fast.
    fn read(&mut self, bytes: u64) -> Result<()> {
        self.progress.bytes_done += bytes;
        self.result.bytes += bytes;
        self.pace.read(bytes);
        loop {
            let wait = self.pace.wait();
            if self.told.elapsed() >= REPORT_EVERY {
                self.told = Instant::now();
                self.tell(Scrubbing::Progress(self.progress));
            }
            if self.result.stopped {
                return Err(Error::closed());
            }
            match wait {
                Some(wait) => std::thread::sleep(wait.min(NAP)),
                None => return Ok(()),
            }
        }
    }

    fn tell(&mut self, event: Scrubbing) {
        if (self.on)(event).is_break() {
            self.result.stopped = true;
        }
    }

    /// Quarantines what a segment's end brought, and puts to use the copies that turned up.
    fn settle(&mut self, damage: &[Damage]) -> Result<()> {
        for one in damage {
            let (segment, offset) = (one.segment, one.offset);
            tracing::error!(segment, offset, what = %one.what, "damaged");
            self.result.damaged += 1;
            self.progress.damaged += 1;
            self.tell(Scrubbing::Damage(one.clone()));
        }
        if !damage.is_empty() {
            let isolated = self.depot.isolate(damage)?;
            self.result.sick_nars += isolated.sick.len() as u64;
            self.result.former_encodings += isolated.former_encodings;
            self.result.rewritten_records += isolated.rewritten_records;
            for path in self.shared.paths_of(&isolated.sick)? {
                self.result.lost_paths += 1;
                self.tell(Scrubbing::Lost(path));
            }
        }
        let mut found = std::mem::take(&mut self.found);
        found.retain(|(id, _)| !damage.iter().any(|one| one.what == Broken::Frame(*id)));
        if !found.is_empty() {
            self.result.healed_nars += self.shared.found_again(&found)?;
        }
        Ok(())
    }

    fn finish(mut self, began: Instant) -> Result<Scrubbed> {
        self.tell(Scrubbing::Progress(self.progress));
        self.result.seconds = began.elapsed().as_secs_f64();
        Ok(self.result)
    }
}

fn location(segment: SegmentId, record: &Found<'_>, frame: &FrameHeader) -> Location {
    Location {
        segment,
        offset: record.at,
        stored_len: frame.stored_len,
        raw_len: frame.raw_len,
        checksum: frame.checksum,
    }
}

/// Keeps a rate, in the mean since the start.
pub struct Pace {
    rate_bytes_per_s: Option<u64>,
    began: Instant,
    bytes: u64,
}

impl Pace {
    /// A rate in bytes a second, or none.
    pub fn new(rate_bytes_per_s: Option<u64>) -> Pace {
        Pace {
            rate_bytes_per_s: rate_bytes_per_s.filter(|rate| *rate > 0),
            began: Instant::now(),
            bytes: 0,
        }
    }

    /// So many bytes more were read.
    pub fn read(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// How long to wait before more may be read.
    pub fn wait(&self) -> Option<Duration> {
        let rate = self.rate_bytes_per_s?;
        let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        due.checked_sub(self.began.elapsed())
            .filter(|wait| *wait > Duration::from_millis(1))
    }
}
