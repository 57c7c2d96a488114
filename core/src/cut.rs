//! Cutting: a NAR's bytes as a sequence of pieces that rebuilds of the same thing share.
//!
//! ```text
//!   NAR  ---------------T---------------------------T-T--T-T---------------------------T--
//!        |    span     |T|   span    |    span     |  stretch  |  span   |    span    |  T  |
//!                       literal     ^             literal or dense                    literal
//!                                   a file's start or end, or FastCDC's cut
//! ```
//!
//! *Tokens* ([`crate::token`]), each with the bytes that make it one, and the gaps below
//! [`Params::span_min_bytes`] between them make stretches; what lies between stretches is spans,
//! never shorter than that. A stretch up to [`Params::literal_max_bytes`] is a *literal*, a longer
//! one is *dense*. Spans are cut at the start and end of large regular files where no span gets too
//! short by it, and between these by content; long stretches are cut by their content with the
//! tokens blanked. A token beats a file cut, and no token is ever cut through.
//!
//! Guarantees: the pieces put together are the NAR; they are a function of the NAR's bytes and the
//! [`Params`] alone, however the bytes were handed in; memory stays under three times
//! [`Params::largest_bytes`] (plus 16 bytes for every large file in one push).
//!
//! This module never interprets the NAR (the caller's parser says where files lie) and never
//! compresses or hashes.

use std::collections::VecDeque;

use crate::token::{self, Token};

mod gear;
mod stretch;
mod window;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

pub use gear::Sizes;

use gear::Search;
use stretch::{Stretch, Stretches};
use window::Window;

/// What decides where a NAR is cut. Fixed per format version: the same NAR must give the same
/// pieces for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Longest stretch that is a literal, and longest token-free NAR that is one.
    pub literal_max_bytes: usize,
    /// Shortest span: smaller gaps belong to the stretch around them.
    pub span_min_bytes: usize,
    /// Smallest regular file whose start and end are cuts.
    pub file_min_bytes: u64,
    /// Spans within files, and across small ones.
    pub span: Sizes,
    /// Stretches too long for a literal.
    pub dense: Sizes,
}

const KIB: usize = 1024;

impl Params {
    /// Format version 1; `docs/decisions/` says why.
    pub const V1: Params = Params {
        literal_max_bytes: 2 * KIB,
        span_min_bytes: KIB,
        file_min_bytes: 64 * KIB as u64,
        span: Sizes {
            min: 64 * KIB,
            avg: 256 * KIB,
            max: 1024 * KIB,
        },
        dense: Sizes {
            min: 256 * KIB,
            avg: 512 * KIB,
            max: 1024 * KIB,
        },
    };

    /// Length of the largest possible piece.
    pub const fn largest_bytes(&self) -> usize {
        let (span, dense) = (self.span.max, self.dense.max);
        let cut = if span > dense { span } else { dense };
        if cut > self.literal_max_bytes {
            cut
        } else {
            self.literal_max_bytes
        }
    }

    fn check(&self) {
        for sizes in [self.span, self.dense] {
            assert!(
                sizes.avg.is_power_of_two(),
                "the average size is a power of two"
            );
            assert!(
                sizes.min <= sizes.avg && sizes.avg <= sizes.max,
                "sizes ascend"
            );
            assert!(sizes.min >= gear::WINDOW, "the hash needs 64 bytes");
            // What the largest cut leaves over must be a span: see `Cutter::boundary`.
            assert!(
                sizes.min + self.span_min_bytes <= sizes.max,
                "room for a last piece"
            );
        }
        assert!(
            self.span_min_bytes >= token::BUILD_ID_LEN + 16,
            "a span outweighs its token"
        );
        assert!(
            (self.literal_max_bytes as u64) < self.file_min_bytes,
            "literals have no file cuts"
        );
    }
}

/// Bytes of a NAR, in NAR order. None is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Bytes without tokens.
    Span(&'a [u8]),
    /// One token with its evidence, or a few close together, or a small NAR without any.
    Literal(&'a [u8]),
    /// A longer stretch of tokens close together.
    Dense {
        /// The bytes.
        raw: &'a [u8],
        /// The tokens that [`token::scan`] finds in `raw`.
        tokens: &'a [Token],
    },
}

impl<'a> Piece<'a> {
    /// The piece's bytes as they stand in the NAR.
    pub fn raw(&self) -> &'a [u8] {
        match *self {
            Piece::Span(raw) | Piece::Literal(raw) | Piece::Dense { raw, .. } => raw,
        }
    }
}

/// Most bytes taken over from a push at a time.
const STEP: usize = 64 * KIB;
/// Bytes kept on both sides of the scan.
const CONTEXT: usize = token::LOOKBEHIND * 2 + token::LOOKAHEAD;

/// Cuts one NAR while it streams by.
///
/// ```
/// use snowcache_core::cut::{Cutter, Params, Piece};
///
/// let path = b"/nix/store/0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm-hello";
/// let nar = [&[0u8; 5000][..], path, &[0; 7000]].concat();
/// let mut pieces = Vec::new();
/// let mut cutter = Cutter::new(Params::V1);
/// cutter.push(&nar[..3], &mut |piece| pieces.push(piece.raw().to_vec()));
/// cutter.push(&nar[3..], &mut |piece| pieces.push(piece.raw().to_vec()));
/// cutter.finish(&mut |piece| pieces.push(piece.raw().to_vec()));
/// assert_eq!(pieces[1], b"0zzf3lklh2b7m1arz9kw3yq1yq0vv0mm-");
/// assert_eq!(pieces.concat(), nar);
/// ```
#[derive(Debug)]
pub struct Cutter {
    params: Params,
    window: Window,
    stretches: Stretches,
    /// Starts and ends of large files, from `at` on.
    files: VecDeque<u64>,
    /// All tokens that start before this offset are known.
    scanned: u64,
    /// Everything before this offset has been given out.
    at: u64,
    /// The last cut at or before `at` that is not FastCDC's: the NAR's start, a stretch's end or a
    /// file cut.
    section: u64,
    finished: bool,
    /// Tokens of the dense piece that is being given out.
    slots: Vec<Token>,
}

/// What is known of where a run of bytes ends.
#[derive(Clone, Copy)]
enum End {
    At(u64),
    /// Here or later.
    NotBefore(u64),
}

#[derive(Clone, Copy)]
enum Kind {
    Span,
    Literal,
    Dense,
}

impl Cutter {
    /// A cutter for one NAR.
    ///
    /// # Panics
    ///
    /// Where the parameters contradict each other.
    pub fn new(params: Params) -> Cutter {
        params.check();
        // What may wait for a decision is a piece, the span that must be left behind it, a gap and
        // the scanner's lookahead; twice that, so that keeping it costs less than one copy of each
        // byte.
        let waiting = params.largest_bytes() + 2 * params.span_min_bytes + CONTEXT;
        Cutter {
            params,
            window: Window::with_capacity(2 * waiting + STEP),
            stretches: Stretches::new(params.span_min_bytes),
            files: VecDeque::new(),
            scanned: 0,
            at: 0,
            section: 0,
            finished: false,
            slots: Vec::new(),
        }
    }

    /// A regular file's content takes the NAR's bytes from `offset` to `offset + size_bytes`. Files
    /// are announced in order, each before any of its bytes is pushed.
    pub fn file(&mut self, offset: u64, size_bytes: u64) {
        if size_bytes >= self.params.file_min_bytes {
            for cut in [offset, offset.saturating_add(size_bytes)] {
                if self.files.back().is_none_or(|&last| last < cut) {
                    self.files.push_back(cut);
                }
            }
        }
    }

    /// The next bytes of the NAR; gives out the pieces that are certain.
    pub fn push(&mut self, nar_bytes: &[u8], on: &mut dyn FnMut(Piece<'_>)) {
        for bytes in nar_bytes.chunks(STEP) {
            self.window
                .append(bytes, self.at.saturating_sub(token::LOOKBEHIND as u64));
            self.scan(self.window.end().saturating_sub(token::LOOKAHEAD as u64));
            self.stretches.scanned(self.known());
            self.give_out(on);
        }
    }

    /// The NAR is complete; gives out what is left.
    pub fn finish(mut self, on: &mut dyn FnMut(Piece<'_>)) {
        self.finished = true;
        self.scan(self.window.end());
        self.stretches.finish(self.scanned);
        self.give_out(on);
        debug_assert_eq!(self.at, self.window.end(), "every byte is in a piece");
    }

    fn scan(&mut self, until: u64) {
        let from = self.scanned.max(self.stretches.last_end());
        if until > from {
            let (window, stretches) = (&self.window, &mut self.stretches);
            token::scan_from(
                window.bytes(),
                window.index(from),
                window.index(until),
                |token| {
                    let evidence = token.evidence();
                    stretches.add(window.offset(evidence.start), window.offset(evidence.end));
                },
            );
        }
        self.scanned = self.scanned.max(until);
    }

    /// All tokens whose evidence starts before this offset are known.
    fn known(&self) -> u64 {
        self.scanned.saturating_sub(token::LOOKBEHIND as u64)
    }

    fn give_out(&mut self, on: &mut dyn FnMut(Piece<'_>)) {
        while let Some((kind, end)) = self.next() {
            let raw = self.window.slice(self.at, end);
            match kind {
                Kind::Span => on(Piece::Span(raw)),
                Kind::Literal => on(Piece::Literal(raw)),
                Kind::Dense => {
                    self.slots.clear();
                    token::scan_from(raw, 0, raw.len(), |token| self.slots.push(token));
                    on(Piece::Dense {
                        raw,
                        tokens: &self.slots,
                    });
                }
            }
            self.at = end;
            self.stretches.forget(end);
            while self.files.front().is_some_and(|&cut| cut <= end) {
                self.files.pop_front();
            }
        }
    }

    /// The piece that starts at `at`, once no byte still to come can change it.
    fn next(&mut self) -> Option<(Kind, u64)> {
        match self.stretches.first() {
            Some(stretch) if stretch.start <= self.at => self.next_of_stretch(stretch),
            Some(stretch) => self.next_of_gap(End::At(stretch.start)),
            None if self.finished => self.next_of_gap(End::At(self.scanned)),
            None => self.next_of_gap(End::NotBefore(self.known())),
        }
    }

    fn next_of_stretch(&mut self, stretch: Stretch) -> Option<(Kind, u64)> {
        let end = if stretch.closed {
            End::At(stretch.end)
        } else {
            End::NotBefore(stretch.end)
        };
        if stretch.closed && stretch.end - stretch.start <= self.params.literal_max_bytes as u64 {
            self.section = stretch.end;
            return Some((Kind::Literal, stretch.end));
        }
        let cut = self.boundary(end, self.params.dense, self.stretches.tokens())?;
        if cut == stretch.end {
            self.section = cut;
        }
        Some((Kind::Dense, cut))
    }

    fn next_of_gap(&mut self, gap: End) -> Option<(Kind, u64)> {
        if let End::At(end) = gap {
            if end <= self.at {
                return None;
            }
            let is_whole_nar = self.at == 0 && self.finished && end == self.scanned;
            if is_whole_nar && end <= self.params.literal_max_bytes as u64 {
                return Some((Kind::Literal, end));
            }
        }
        let section = self.section_end(gap);
        let cut = self.boundary(section, self.params.span, std::iter::empty())?;
        if matches!(section, End::At(end) if end == cut) {
            self.section = cut;
        }
        Some((Kind::Span, cut))
    }

    /// Where the next file cut or else the gap ends.
    fn section_end(&self, gap: End) -> End {
        let span_min = self.params.span_min_bytes as u64;
        let cut = self
            .files
            .iter()
            .copied()
            .find(|&cut| cut >= self.section + span_min);
        match (cut, gap) {
            (Some(cut), End::At(end) | End::NotBefore(end)) if cut + span_min <= end => {
                End::At(cut)
            }
            (Some(cut), End::NotBefore(end)) => End::NotBefore(cut.min(end)),
            (_, gap) => gap,
        }
    }

    /// The end of the piece from `at` in a run that ends at `end`. FastCDC's, but what is left of
    /// the run is nothing or at least a span, and no boundary is in a token or between a hash part
    /// and its `-`.
    fn boundary(
        &self,
        end: End,
        sizes: Sizes,
        tokens: impl Iterator<Item = (u64, u64)>,
    ) -> Option<u64> {
        let span_min = self.params.span_min_bytes;
        let (run, is_whole) = match end {
            End::At(end) => (self.window.slice(self.at, end), true),
            End::NotBefore(end) => (self.window.slice(self.at, end.max(self.at)), false),
        };
        if !is_whole && run.len() < sizes.max + span_min {
            return None;
        }
        let most = run.len().saturating_sub(span_min).min(sizes.max);
        let len = match search(&run[..most], self.at, sizes, tokens) {
            Ok(boundary) => boundary,
            Err(_) if run.len() <= sizes.max => run.len(),
            Err(latest) => latest,
        };
        Some(self.at + len as u64)
    }
}

/// The first boundary in `run`, or else the latest place that is not in a token. `at` is where the
/// run starts in the NAR, `tokens` are offsets there.
fn search(
    run: &[u8],
    at: u64,
    sizes: Sizes,
    tokens: impl Iterator<Item = (u64, u64)>,
) -> Result<usize, usize> {
    let in_run = |offset: u64| usize::try_from(offset - at).expect("invariant: runs fit in memory");
    let mut search = Search::new(sizes);
    let mut latest = run.len();
    for (start, end) in tokens.map(|(start, end)| (in_run(start), in_run(end))) {
        if start >= run.len() {
            break;
        }
        if run.len() <= end {
            latest = start;
        }
        if let Some(len) = search.over(run.get(search.len()..start).unwrap_or_default()) {
            return Ok(len);
        }
        search.over_token(end.saturating_sub(search.len()));
    }
    search
        .over(run.get(search.len()..).unwrap_or_default())
        .ok_or(latest)
}
