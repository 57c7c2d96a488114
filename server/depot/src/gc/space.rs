//! Which bytes of which segment live.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use crate::segments::SegmentId;

/// Living bytes as ranges that do not touch, for each segment.
///
/// Memory: neighbouring records are one range, so a segment without garbage is one of 48 bytes; at
/// worst every other record is dead, and a segment of 256 MiB with frames of 30 KB has 4,000.
#[derive(Default)]
pub struct Coverage {
    segments: HashMap<SegmentId, BTreeMap<u64, u64>>,
}

impl Coverage {
    /// Adds a range; returns how many of its bytes are new.
    pub fn add(&mut self, segment: SegmentId, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let ranges = self.segments.entry(segment).or_default();
        let (mut start, mut end, mut known) = (range.start, range.end, 0);
        // What begins within the range or touches its end, and the one before it.
        let near = ranges.range(..=range.end).rev();
        let near = near.take_while(|(_, to)| **to >= range.start);
        let near: Vec<(u64, u64)> = near.map(|(from, to)| (*from, *to)).collect();
        for (from, to) in near {
            known += to.min(range.end).saturating_sub(from.max(range.start));
            start = start.min(from);
            end = end.max(to);
            ranges.remove(&from);
        }
        ranges.insert(start, end);
        range.end - range.start - known
    }

    /// Whether the byte at `offset` lives.
    pub fn has(&self, segment: SegmentId, offset: u64) -> bool {
        let ranges = self.segments.get(&segment);
        let before = ranges.and_then(|ranges| ranges.range(..=offset).next_back());
        before.is_some_and(|(_, end)| offset < *end)
    }

    /// Whether all bytes of `range` live.
    pub fn holds(&self, segment: SegmentId, range: Range<u64>) -> bool {
        let ranges = self.segments.get(&segment);
        let before = ranges.and_then(|ranges| ranges.range(..=range.start).next_back());
        range.is_empty() || before.is_some_and(|(_, end)| range.end <= *end)
    }

    /// Whether any byte of `range` lives.
    pub fn touches(&self, segment: SegmentId, range: Range<u64>) -> bool {
        let ranges = self.segments.get(&segment);
        let before = ranges.and_then(|ranges| ranges.range(..range.end).next_back());
        before.is_some_and(|(_, end)| range.start < *end)
    }

    /// Living bytes of a segment.
    pub fn bytes(&self, segment: SegmentId) -> u64 {
        let ranges = self.segments.get(&segment);
        ranges.map_or(0, |ranges| ranges.iter().map(|(from, to)| to - from).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_counts_like_a_set_of_bytes(
            ranges in proptest::collection::vec((0u64..200, 0u64..40), 1..40)
        ) {
            let (mut coverage, mut bytes) = (Coverage::default(), vec![false; 300]);
            let segment = SegmentId(1);
            for (from, len) in ranges {
                let range = from..from + len;
                let new = bytes[from as usize..(from + len) as usize].iter().filter(|b| !**b);
                prop_assert_eq!(coverage.add(segment, range.clone()), new.count() as u64);
                bytes[from as usize..(from + len) as usize].fill(true);
            }
            for (at, lives) in bytes.iter().enumerate() {
                prop_assert_eq!(coverage.has(segment, at as u64), *lives);
            }
            for (from, len) in [(0, 7), (60, 30), (200, 90)] {
                let lives = bytes[from..from + len].contains(&true);
                let range = from as u64..(from + len) as u64;
                prop_assert_eq!(coverage.touches(segment, range.clone()), lives);
                let all = bytes[from..from + len].iter().all(|byte| *byte);
                prop_assert_eq!(coverage.holds(segment, range), all);
            }
            let living = bytes.iter().filter(|b| **b).count() as u64;
            prop_assert_eq!(coverage.bytes(segment), living);
        }
    }
}
