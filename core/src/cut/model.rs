//! Cutting as it is told in `docs/decisions` and in the module above: the whole NAR at once, slowly
//! and plainly.

use std::ops::Range;

use super::{Params, Sizes, gear};
use crate::token::{self, Token};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Span,
    Literal,
    Dense,
}

/// Kind and end of each piece.
pub(super) fn cut(nar: &[u8], files: &[(u64, u64)], params: Params) -> Vec<(Kind, usize)> {
    if nar.is_empty() {
        return Vec::new();
    }
    let tokens = token::scan(nar);
    if tokens.is_empty() && nar.len() <= params.literal_max_bytes {
        return vec![(Kind::Literal, nar.len())];
    }
    let tokens = evidence(&tokens);
    let mut blanked = nar.to_vec();
    for token in &tokens {
        blanked[token.clone()].fill(0);
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    for (start, end) in stretches(&tokens, nar.len(), params.span_min_bytes) {
        spans(nar, at, start, files, params, &mut pieces);
        if end - start <= params.literal_max_bytes {
            pieces.push((Kind::Literal, end));
        } else {
            let cuts = by_content(
                &blanked,
                start,
                end,
                &tokens,
                params.dense,
                params.span_min_bytes,
            );
            pieces.extend(cuts.into_iter().map(|cut| (Kind::Dense, cut)));
        }
        at = end;
    }
    spans(nar, at, nar.len(), files, params, &mut pieces);
    pieces
}

/// Where each token and what makes it one lie; what overlaps counts for the first.
fn evidence(tokens: &[Token]) -> Vec<Range<usize>> {
    let mut last = 0;
    let ranges = tokens.iter().map(|token| token.evidence());
    ranges
        .map(|range| {
            range.start.max(last)..{
                last = range.end;
                last
            }
        })
        .collect()
}

fn stretches(tokens: &[Range<usize>], nar_len: usize, span_min: usize) -> Vec<(usize, usize)> {
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    for token in tokens {
        match stretches.last_mut() {
            Some((_, end)) if token.start - *end < span_min => *end = token.end,
            _ => stretches.push((token.start, token.end)),
        }
    }
    if let Some((start, _)) = stretches.first_mut().filter(|(start, _)| *start < span_min) {
        *start = 0;
    }
    if let Some((_, end)) = stretches
        .last_mut()
        .filter(|(_, end)| nar_len - *end < span_min)
    {
        *end = nar_len;
    }
    stretches
}

fn spans(
    nar: &[u8],
    start: usize,
    end: usize,
    files: &[(u64, u64)],
    params: Params,
    pieces: &mut Vec<(Kind, usize)>,
) {
    let mut sections = Vec::new();
    let mut last = start;
    for &(offset, size) in files
        .iter()
        .filter(|(_, size)| *size >= params.file_min_bytes)
    {
        for cut in [offset as usize, (offset + size) as usize] {
            if cut >= last + params.span_min_bytes && cut + params.span_min_bytes <= end {
                sections.push((last, cut));
                last = cut;
            }
        }
    }
    if last < end {
        sections.push((last, end));
    }
    for (start, end) in sections {
        let cuts = by_content(nar, start, end, &[], params.span, params.span_min_bytes);
        pieces.extend(cuts.into_iter().map(|cut| (Kind::Span, cut)));
    }
}

fn by_content(
    bytes: &[u8],
    mut at: usize,
    end: usize,
    tokens: &[Range<usize>],
    sizes: Sizes,
    span_min: usize,
) -> Vec<usize> {
    let in_token = |cut: usize| {
        tokens
            .iter()
            .find(|token| token.start < cut && cut <= token.end)
    };
    let mut cuts = Vec::new();
    while at < end {
        let left = end - at;
        let most = left.saturating_sub(span_min).min(sizes.max);
        let level = sizes.avg.ilog2();
        let found = (sizes.min..=most).find(|&len| {
            let bits = if len <= sizes.avg {
                level + 2
            } else {
                level - 2
            };
            hash(&bytes[at + len - 64..at + len]) >> (64 - bits) == 0
                && in_token(at + len).is_none()
        });
        at += match found {
            Some(len) => len,
            None if left <= sizes.max => left,
            None => in_token(at + most).map_or(most, |token| token.start - at),
        };
        cuts.push(at);
    }
    cuts
}

fn hash(window: &[u8]) -> u64 {
    window.iter().fold(0, |hash, &byte| {
        (hash << 1).wrapping_add(gear::GEAR[usize::from(byte)])
    })
}
