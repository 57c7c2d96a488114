//! What a depot holds, as far as its size goes.

use std::collections::{HashMap, HashSet};

use snowcache_core::cut::{Cutter, Piece};
use snowcache_core::recipe::{FrameId, Op, Recipe};
use snowcache_core::token::{self, Token};

use crate::nars::Nar;
use crate::ways::Way;
use crate::zstd_len;

/// What a depot holds, as far as its size goes.
pub struct Depot<'a> {
    way: &'a Way,
    compressed: &'a mut HashMap<FrameId, usize>,
    held: HashSet<FrameId>,
    pub frames: usize,
    pub recipes: usize,
    pub spans: usize,
    pub dense: usize,
    pub literals: usize,
    /// The dense frames alone.
    pub composed: usize,
    /// What they would take as skeletons and lists of their tokens.
    pub apart: usize,
}

impl<'a> Depot<'a> {
    pub fn new(way: &'a Way, compressed: &'a mut HashMap<FrameId, usize>) -> Depot<'a> {
        let held = HashSet::new();
        Depot {
            way,
            compressed,
            held,
            frames: 0,
            recipes: 0,
            spans: 0,
            dense: 0,
            literals: 0,
            composed: 0,
            apart: 0,
        }
    }

    fn frame(&mut self, raw: &[u8]) -> FrameId {
        let id = FrameId::of(raw);
        if self.held.insert(id) {
            let len = *self.compressed.entry(id).or_insert_with(|| zstd_len(raw));
            self.frames += len + self.way.header + self.way.index;
        }
        id
    }

    /// Counts what the dense piece takes composed, and what apart.
    fn compare(&mut self, raw: &[u8], tokens: &[Token], skeleton: FrameId) {
        let overhead = self.way.header + self.way.index;
        self.composed += zstd_len(raw) + overhead;
        if self.held.insert(skeleton) {
            let mut blanked = raw.to_vec();
            token::blank(&mut blanked, tokens);
            self.apart += zstd_len(&blanked) + overhead;
        }
        let list: Vec<u8> = tokens
            .iter()
            .flat_map(|token| &raw[token.start..token.end()])
            .copied()
            .collect();
        self.apart += zstd_len(&list) + overhead;
    }

    pub fn put(&mut self, nar: &Nar) {
        let mut ops = Vec::new();
        let mut cutter = Cutter::new(self.way.params);
        for &(offset, size) in &nar.files {
            cutter.file(offset, size);
        }
        let mut on = |piece: Piece<'_>| {
            let raw_len = piece.raw().len() as u32;
            ops.push(match piece {
                Piece::Span(raw) => {
                    self.spans += 1;
                    Op::Frame {
                        id: self.frame(raw),
                        raw_len,
                    }
                }
                Piece::Literal(raw) => {
                    self.literals += 1;
                    Op::Literal(raw.to_vec().into())
                }
                Piece::Dense { raw, tokens } => {
                    self.dense += 1;
                    let skeleton = FrameId::of_skeleton(raw, tokens);
                    self.compare(raw, tokens, skeleton);
                    Op::Dense {
                        id: self.frame(raw),
                        skeleton,
                        raw_len,
                    }
                }
            });
        };
        cutter.push(&nar.bytes, &mut on);
        cutter.finish(&mut on);
        let recipe = Recipe::new(ops).expect("pieces are good ops").encode();
        self.recipes += zstd_len(&recipe).min(recipe.len()) + self.way.header + self.way.index;
    }

    pub fn total(&self) -> usize {
        self.frames + self.recipes
    }
}
