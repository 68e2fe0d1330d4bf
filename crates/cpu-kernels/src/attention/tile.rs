//! One piece: tile after tile of one block's rows with one key-value head.

use super::plan::{Piece, Plan, Split};
use super::quantized::{self, Int8Keys, Int8Queries};
use super::runs::{Ahead, Cursor, HeadBytes, Part};
use super::softmax::{absorb, finish, weigh};
use super::sweep::sweep;
use super::{AttentionConfig, QueryRow, SPAN, TILE, unpack};
use crate::matmul::DisjointMut;
use crate::simd::{LANES, Op, Simd};
use bytemuck::{Pod, Zeroable};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// 16 lanes in memory, one line of the cache.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Vector(pub(super) [f32; LANES]);

/// Vectors before the sums of values in the record of a query: the maximum of the scores in all
/// lanes, and the sums of weights.
pub(super) const RECORD_HEAD: usize = 2;

/// Vectors of scores a tile.
const SCORES: usize = TILE / LANES;
/// Groups of 16 positions unpacked together.
const GROUPS: usize = SPAN / LANES;

/// Buffers of one thread. Their content means nothing between pieces.
#[derive(Default)]
struct Scratch {
    /// Queries of the block, those of a row next to each other.
    x: Vec<f32>,
    int8: Int8Queries,
    int8_keys: Int8Keys,
    panel: Vec<Vector>,
    scores: Vec<Vector>,
    /// Records of the tile at hand, and of all before.
    partial: Vec<Vector>,
    running: Vec<Vector>,
    pad: Vec<u8>,
    /// A tile of Q4_0 as Q8_0.
    wide: Vec<u8>,
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// What all pieces of a call share.
pub(super) struct PieceOp<'a> {
    pub(super) cfg: &'a AttentionConfig,
    pub(super) q: &'a [f32],
    pub(super) rows: &'a [QueryRow<'a>],
    pub(super) plan: &'a Plan,
    pub(super) piece: &'a Piece,
    pub(super) partials: &'a DisjointMut<'a, Vector>,
    pub(super) left: &'a [AtomicUsize],
    pub(super) out: &'a DisjointMut<'a, f32>,
}

/// The positions of `start..start + n` that a row sees, counted from `start`.
#[inline(always)]
fn seen(row: &QueryRow<'_>, start: usize, n: usize) -> Range<usize> {
    row.from.saturating_sub(start).min(n)..row.to.saturating_sub(start).min(n)
}

/// The rows from the first to the last that see some of `start..start + n`.
#[inline(always)]
fn seeing(rows: &[QueryRow<'_>], start: usize, n: usize) -> Range<usize> {
    let sees = |row: &QueryRow<'_>| !seen(row, start, n).is_empty();
    let first = rows.iter().position(sees).unwrap_or(rows.len());
    first..rows.iter().rposition(sees).map_or(first, |last| last + 1)
}

impl Op for PieceOp<'_> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PieceOp { cfg, q, plan, piece, partials, left, .. } = self;
        let &AttentionConfig { n_heads, n_kv_heads, head_dim, kv_dtype, .. } = cfg;
        let block = &plan.blocks[piece.block];
        let rows = &self.rows[block.rows.clone()];
        let shared = n_heads / n_kv_heads;
        let queries = rows.len() * shared;
        let record = RECORD_HEAD + head_dim.div_ceil(LANES);
        let mut own = SCRATCH.take().unwrap_or_default();
        let scratch = &mut *own;

        // The scale is part of the queries, and scores are in units of ln 2 unless they are yet
        // to be capped.
        let unit = if cfg.softcap.is_some() { 1.0 } else { std::f32::consts::LOG2_E };
        let scale = cfg.scale * unit;
        scratch.x.clear();
        for row in block.rows.clone() {
            let at = (row * n_heads + piece.kv_head * shared) * head_dim;
            scratch.x.extend_from_slice(&q[at..at + shared * head_dim]);
        }
        for x in &mut scratch.x {
            *x *= scale;
        }
        if unpack::is_quantized(kv_dtype) {
            scratch.int8.round(&scratch.x);
            scratch.int8_keys.reserve(head_dim);
        }
        grow(&mut scratch.scores, queries * SCORES);
        grow(&mut scratch.panel, GROUPS * head_dim.next_multiple_of(LANES).max(SPAN));
        grow(&mut scratch.panel, SPAN * head_dim.div_ceil(LANES));
        grow(&mut scratch.partial, queries * record);
        grow(&mut scratch.running, queries * record);

        let mut cursor = Cursor::new(rows[0].runs);
        for tile in piece.tiles.clone() {
            let start = tile * TILE;
            let seeing = seeing(rows, start, TILE);
            if seeing.is_empty() {
                continue;
            }
            let at = TileAt { cfg, rows, kv_head: piece.kv_head, start };
            at.compute(s, &mut cursor, tile + 1 < piece.tiles.end, scratch);
            let span = seeing.start * shared * record..seeing.end * shared * record;
            match piece.split {
                None => {
                    for row in seeing {
                        let at = row * shared * record..(row + 1) * shared * record;
                        let (running, partial) =
                            (&mut scratch.running[at.clone()], &scratch.partial[at]);
                        join(s, &rows[row], tile, record, running, partial);
                    }
                }
                Some(Split { start, stride, first, .. }) => {
                    let to = start + (tile - first) * stride;
                    // SAFETY: this piece alone has this tile of this block and head.
                    let to = unsafe { partials.slice_mut(to..to + stride) };
                    to[span.clone()].copy_from_slice(&scratch.partial[span]);
                }
            }
        }

        let Some(split) = piece.split else {
            self.store(block.rows.clone(), record, &scratch.running);
            SCRATCH.set(Some(own));
            return;
        };
        // Whoever is last finds everyone's records: each piece's writes come before its count.
        if left[split.counter].fetch_sub(1, Ordering::AcqRel) == 1 {
            let records = split.start..split.start + split.tiles * split.stride;
            // SAFETY: all other pieces of this block and head are done.
            let records = unsafe { partials.slice_mut(records) };
            for (tile, partial) in (split.first..).zip(records.chunks_exact(split.stride)) {
                for row in seeing(rows, tile * TILE, TILE) {
                    let at = row * shared * record..(row + 1) * shared * record;
                    let (running, partial) = (&mut scratch.running[at.clone()], &partial[at]);
                    join(s, &rows[row], tile, record, running, partial);
                }
            }
            self.store(block.rows.clone(), record, &scratch.running);
        }
        SCRATCH.set(Some(own));
    }
}

impl PieceOp<'_> {
    /// Writes the results of a block.
    #[inline(always)]
    fn store(&self, rows: Range<usize>, record: usize, running: &[Vector]) {
        let &AttentionConfig { n_heads, n_kv_heads, head_dim, .. } = self.cfg;
        let shared = n_heads / n_kv_heads;
        let heads = rows.flat_map(|row| {
            let first = row * n_heads + self.piece.kv_head * shared;
            first..first + shared
        });
        for (head, running) in heads.zip(running.chunks_exact(record)) {
            let at = head * head_dim..(head + 1) * head_dim;
            // SAFETY: this block and key-value head alone write this row's head, and only once.
            finish(running, unsafe { self.out.slice_mut(at) });
        }
    }
}

#[inline(always)]
fn grow(buffer: &mut Vec<Vector>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, Vector::default());
    }
}

/// Adds the records of one row's queries over a tile to those over all tiles before.
#[inline(always)]
fn join<S: Simd>(
    s: S,
    row: &QueryRow<'_>,
    tile: usize,
    record: usize,
    running: &mut [Vector],
    partial: &[Vector],
) {
    if tile == row.from / TILE {
        running.copy_from_slice(partial);
    } else if tile > row.from / TILE && tile * TILE < row.to {
        let pairs = running.chunks_exact_mut(record).zip(partial.chunks_exact(record));
        for (running, partial) in pairs {
            absorb(s, running, partial);
        }
    }
}

/// A tile of positions from `start` on, for a block of rows and a key-value head.
struct TileAt<'a> {
    cfg: &'a AttentionConfig,
    rows: &'a [QueryRow<'a>],
    kv_head: usize,
    start: usize,
}

impl TileAt<'_> {
    /// Fills the partial records of the rows that see some of the tile.
    #[inline(always)]
    fn compute<S: Simd>(self, s: S, cursor: &mut Cursor<'_>, more: bool, scratch: &mut Scratch) {
        let TileAt { cfg, rows, kv_head, start } = self;
        let &AttentionConfig { n_heads, n_kv_heads, head_dim, kv_dtype, .. } = cfg;
        let shared = n_heads / n_kv_heads;
        let out_groups = head_dim.div_ceil(LANES);
        let record = RECORD_HEAD + out_groups;
        let len = kv_dtype.bytes_for(head_dim).expect("whole blocks");
        let head = HeadBytes { row: n_kv_heads * len, at: kv_head * len, len };
        let spans = || {
            let clips = || rows.iter().map(|row| seen(row, start, TILE)).filter(|r| !r.is_empty());
            let from = clips().map(|r| r.start).min().unwrap_or(0);
            let to = clips().map(|r| r.end).max().unwrap_or(0);
            let all = (from / SPAN * SPAN..to).step_by(SPAN);
            let all = all.map(move |at| (at, SPAN.min(to - at)));
            // Between what the one row sees and what the next does may lie what none does.
            all.filter(|&(at, n)| !seeing(rows, start + at, n).is_empty())
        };
        let Scratch { x, int8, int8_keys, panel, scores, partial, pad, wide, .. } = scratch;
        let quantized = unpack::is_quantized(kv_dtype);

        for (at, n) in spans() {
            cursor.rows(start + at, Part::Keys, head.row);
            let (groups, rows) = (n.div_ceil(LANES), seeing(rows, start + at, n));
            for g in 0..groups {
                let tile =
                    cursor.tile(start + at + g * LANES, n - g * LANES, head, Part::Keys, pad);
                if quantized {
                    int8_keys.unpack(s, unpack::as_q8_0(kv_dtype, tile, wide), g);
                } else {
                    unpack::keys(s, kv_dtype, tile, &mut panel[g..], GROUPS);
                }
            }
            let ahead = &mut cursor.ahead(start + at, n, head, Part::Values);
            let (first, m) = (rows.start * shared, rows.len() * shared);
            let scores = &mut scores[first * SCORES + at / LANES..];
            if quantized {
                quantized::sweep(s, int8_keys, groups, int8, (first, m), scores, SCORES, ahead);
            } else {
                let (x, strides) = (&x[first * head_dim..], (head_dim, SCORES));
                sweep::<S, true>(
                    s,
                    panel,
                    (GROUPS, groups),
                    head_dim,
                    x,
                    m,
                    scores,
                    strides,
                    ahead,
                );
            }
        }

        for (i, row) in rows.iter().enumerate() {
            let seen = seen(row, start, TILE);
            if seen.is_empty() {
                continue;
            }
            for i in i * shared..(i + 1) * shared {
                let record = &mut partial[i * record..][..record];
                weigh(s, cfg.softcap, seen.clone(), &mut scores[i * SCORES..][..SCORES], record);
                record[RECORD_HEAD..].fill(Vector::default());
            }
        }

        let weights: &[f32] = bytemuck::cast_slice(scores);
        let mut values = Cursor::new(rows[0].runs);
        for (at, n) in spans() {
            values.rows(start + at, Part::Values, head.row);
            for g in 0..n.div_ceil(LANES) {
                let n = LANES.min(n - g * LANES);
                let tile = values.tile(start + at + g * LANES, n, head, Part::Values, pad);
                let tile = unpack::as_q8_0(kv_dtype, tile, wide);
                let panel = &mut panel[g * LANES * out_groups..];
                unpack::values(s, kv_dtype, tile, n, panel, out_groups);
            }
            let ahead = &mut if more {
                cursor.ahead(start + at + TILE, SPAN, head, Part::Keys)
            } else {
                Ahead::nothing()
            };
            // Neighbours that see the same of these positions go together.
            let mut i = 0;
            while i < rows.len() {
                let seen = seen(&rows[i], start + at, n);
                let same = |row: &QueryRow<'_>| self::seen(row, start + at, n) == seen;
                let end = i + rows[i..].iter().take_while(|row| same(row)).count();
                if !seen.is_empty() {
                    let x = &weights[i * shared * TILE + at + seen.start..];
                    let sums = &mut partial[i * shared * record + RECORD_HEAD..];
                    sweep::<S, false>(
                        s,
                        &panel[seen.start * out_groups..],
                        (out_groups, out_groups),
                        seen.len(),
                        x,
                        (end - i) * shared,
                        sums,
                        (TILE, record),
                        ahead,
                    );
                }
                i = end;
            }
        }
    }
}
