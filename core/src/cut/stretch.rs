//! Groups tokens that lie close together. Here a token is all of its evidence.

use std::collections::VecDeque;

/// Tokens with gaps below the shortest span between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    /// Offset of its first token, or 0 where less than a span comes before that.
    pub(super) start: u64,
    /// Offset behind its last token so far, or the NAR's end where less than a span comes behind
    /// that.
    pub(super) end: u64,
    /// Whether `end` is final.
    pub(super) closed: bool,
}

/// The stretches not yet given out, and their tokens.
#[derive(Debug)]
pub(super) struct Stretches {
    span_min: u64,
    stretches: VecDeque<Stretch>,
    /// Start and end of each token.
    tokens: VecDeque<(u64, u64)>,
}

impl Stretches {
    pub(super) fn new(span_min_bytes: usize) -> Stretches {
        let span_min = span_min_bytes as u64;
        Stretches {
            span_min,
            stretches: VecDeque::new(),
            tokens: VecDeque::new(),
        }
    }

    /// The next token in the NAR. A note header may lie in the build-id before it: what overlaps
    /// counts for the first.
    pub(super) fn add(&mut self, start: u64, end: u64) {
        let start = start.max(self.last_end());
        self.tokens.push_back((start, end));
        match self.stretches.back_mut() {
            Some(last) if start - last.end < self.span_min => last.end = end,
            Some(last) => {
                last.closed = true;
                self.stretches.push_back(Stretch {
                    start,
                    end,
                    closed: false,
                });
            }
            // With a token before it, a token this near to the start would have met that one's
            // stretch above.
            None => {
                let start = if start < self.span_min { 0 } else { start };
                self.stretches.push_back(Stretch {
                    start,
                    end,
                    closed: false,
                });
            }
        }
    }

    /// All tokens whose evidence starts before `offset` have been added.
    pub(super) fn scanned(&mut self, offset: u64) {
        if let Some(last) = self.stretches.back_mut() {
            last.closed |= offset >= last.end + self.span_min;
        }
    }

    /// The NAR ends at `offset`, and all tokens have been added.
    pub(super) fn finish(&mut self, offset: u64) {
        if let Some(last) = self.stretches.back_mut().filter(|last| !last.closed) {
            last.closed = true;
            if offset - last.end < self.span_min {
                last.end = offset;
            }
        }
    }

    pub(super) fn first(&self) -> Option<Stretch> {
        self.stretches.front().copied()
    }

    /// Start and end of the tokens not yet given out.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (u64, u64)> {
        self.tokens.iter().copied()
    }

    /// Everything before `offset` has been given out.
    pub(super) fn forget(&mut self, offset: u64) {
        while self
            .tokens
            .front()
            .is_some_and(|&(start, _)| start < offset)
        {
            self.tokens.pop_front();
        }
        if self
            .stretches
            .front()
            .is_some_and(|first| first.closed && first.end <= offset)
        {
            self.stretches.pop_front();
        }
    }

    /// Where the last token known ends, 0 where that was given out.
    pub(super) fn last_end(&self) -> u64 {
        self.tokens.back().map_or(0, |&(_, end)| end)
    }
}
