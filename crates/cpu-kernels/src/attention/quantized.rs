//! Scores over Q8_0 keys by integer dot products.
//!
//! Queries are rounded to int8 with one scale for each 32 elements, as llama.cpp does: an error of
//! at most 1/254 of the largest of the 32. Sums are exact over 32 elements, in f32 over blocks.

use super::runs::Ahead;
use super::tile::Vector;
use super::unpack::{BLOCK, BLOCK_BYTES, scales};
use crate::simd::{Line, Simd, Tile};

/// Groups of 16 positions in a panel.
const GROUPS: usize = super::SPAN / crate::simd::LANES;

/// Four int8 elements a word.
const WORDS: usize = BLOCK / 4;

/// Queries rounded to int8, block after block.
#[derive(Default)]
pub(super) struct Int8Queries {
    blocks: Vec<QueryBlock>,
}

#[derive(Clone, Copy)]
struct QueryBlock {
    words: [i32; WORDS],
    /// What makes up for keys being taken as unsigned: -128 times the sum of the elements.
    start: i32,
    scale: f32,
}

impl Int8Queries {
    /// Takes the place of what was there by `x`, whole blocks. Loops without closures, so that
    /// they are compiled for the instructions of their caller.
    #[inline(always)]
    pub(super) fn round(&mut self, x: &[f32]) {
        let (x, _) = x.as_chunks::<BLOCK>();
        self.blocks.resize(x.len(), QueryBlock { words: [0; WORDS], start: 0, scale: 0.0 });
        for (block, x) in self.blocks.iter_mut().zip(x) {
            let mut largest = 0u32;
            for x in x {
                // Non-negative floats compare as their bits, NaN above infinity.
                largest = largest.max(x.to_bits() & 0x7fff_ffff);
            }
            let largest = f32::from_bits(largest);
            let inverse = 127.0 / largest;
            if !largest.is_finite() || !inverse.is_finite() {
                // What is not finite must not look like a number; too small a one is nothing.
                let scale = if largest.is_finite() { 0.0 } else { f32::NAN };
                *block = QueryBlock { words: [0; WORDS], start: 0, scale };
                continue;
            }
            // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
            const ROUND: f32 = 12_582_912.0;
            let (mut q, mut sum) = ([0u8; BLOCK], 0);
            for (q, x) in q.iter_mut().zip(x) {
                let byte = (x * inverse + ROUND).to_bits() as i8;
                *q = byte as u8;
                sum += i32::from(byte);
            }
            for (word, q) in block.words.iter_mut().zip(q.as_chunks::<4>().0) {
                *word = i32::from_le_bytes(*q);
            }
            block.start = -128 * sum;
            block.scale = largest / 127.0;
        }
    }
}

/// Up to four groups of 16 keys, bytes with 128 added.
#[derive(Default)]
pub(super) struct Int8Keys {
    blocks: Vec<KeyBlock>,
}

/// Word `w` of all keys of group `g` is line `w * GROUPS + g`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct KeyBlock {
    lines: [Line; WORDS * GROUPS],
    scales: [Vector; GROUPS],
}

impl Int8Keys {
    /// Makes room for keys of `head_dim` elements.
    pub(super) fn reserve(&mut self, head_dim: usize) {
        let empty =
            KeyBlock { lines: [[0; 64]; WORDS * GROUPS], scales: [Vector::default(); GROUPS] };
        self.blocks.resize(head_dim / BLOCK, empty);
    }

    /// Takes 16 keys as group `g`.
    #[inline(always)]
    pub(super) fn unpack<S: Simd>(&mut self, s: S, tile: Tile<'_>, g: usize) {
        let offset = s.splat_i(0x8080_8080_u32 as i32);
        for (block, at) in self.blocks.iter_mut().zip((0..).step_by(BLOCK_BYTES)) {
            s.store_f(scales(s, tile, at), &mut block.scales[g].0);
            for half in 0..2 {
                let lines = s.load_4(tile, at + 2 + 16 * half);
                for (i, line) in lines.into_iter().enumerate() {
                    let to = &mut block.lines[(4 * half + i) * GROUPS + g];
                    s.store_i(s.xor(line, offset), to);
                }
            }
        }
    }
}

/// `scores[i * stride + g]` = products of query `first + i` with the keys of group `g`. Each word
/// of a query asks for one more line of `ahead`.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) fn sweep<S: Simd>(
    s: S,
    keys: &Int8Keys,
    groups: usize,
    queries: &Int8Queries,
    (first, m): (usize, usize),
    scores: &mut [Vector],
    stride: usize,
    ahead: &mut Ahead<'_>,
) {
    let keys = &keys.blocks[..];
    let queries = &queries.blocks[first * keys.len()..];
    let mut g = 0;
    while g < groups {
        let quad = S::MANY_REGISTERS && groups - g == GROUPS;
        let mut i = 0;
        while i < m {
            let (queries, scores) = (&queries[i * keys.len()..], &mut scores[i * stride + g..]);
            i += match (quad, m - i) {
                (true, 3..) => tile::<S, GROUPS, 3>(s, keys, g, queries, scores, stride, ahead),
                (true, 2) => tile::<S, GROUPS, 2>(s, keys, g, queries, scores, stride, ahead),
                (true, _) => tile::<S, GROUPS, 1>(s, keys, g, queries, scores, stride, ahead),
                (false, 3..) => tile::<S, 1, 3>(s, keys, g, queries, scores, stride, ahead),
                (false, 2) => tile::<S, 1, 2>(s, keys, g, queries, scores, stride, ahead),
                (false, _) => tile::<S, 1, 1>(s, keys, g, queries, scores, stride, ahead),
            };
        }
        g += if quad { GROUPS } else { 1 };
    }
}

/// `G` groups by `M` queries in registers. Returns `M`.
#[inline(always)]
fn tile<S: Simd, const G: usize, const M: usize>(
    s: S,
    keys: &[KeyBlock],
    first: usize,
    queries: &[QueryBlock],
    scores: &mut [Vector],
    stride: usize,
    ahead: &mut Ahead<'_>,
) -> usize {
    let mut rows = [&queries[..keys.len()]; M];
    for i in 0..M {
        rows[i] = &queries[i * keys.len()..][..keys.len()];
    }
    let mut sums = [[s.splat_f(0.0); M]; G];
    for (b, key) in keys.iter().enumerate() {
        let mut acc = [[s.splat_i(0); M]; G];
        for i in 0..M {
            let start = s.splat_i(if S::SIGNED { 0 } else { rows[i][b].start });
            for g in 0..G {
                acc[g][i] = start;
            }
        }
        for w in 0..WORDS {
            ahead.step();
            let lines = &key.lines[w * GROUPS + first..][..G];
            for i in 0..M {
                let a = s.splat_i(rows[i][b].words[w]);
                for g in 0..G {
                    acc[g][i] = s.dot::<true>(acc[g][i], s.load_i(&lines[g]), a);
                }
            }
        }
        for i in 0..M {
            let scale = s.splat_f(rows[i][b].scale);
            for g in 0..G {
                let factor = s.mul(s.load_f(&key.scales[first + g].0), scale);
                sums[g][i] = s.fma(s.to_f(acc[g][i]), factor, sums[g][i]);
            }
        }
    }
    for i in 0..M {
        for g in 0..G {
            s.store_f(sums[g][i], &mut scores[i * stride + g].0);
        }
    }
    M
}
