//! One piece: tile after tile of one block's rows with some key-value heads.

use super::plan::{Piece, Plan, Split};
use super::quantized::{self, Int8Keys, Int8Queries};
use super::runs::{Ahead, Cursor, HeadBytes, Part};
use super::softmax::{absorb, finish, weigh};
use super::sweep::sweep;
use super::{AttentionConfig, QueryRow, SPAN, TILE, unpack};
use crate::matmul::DisjointMut;
use crate::simd::{LANES, Op, Simd};
use blocks::DType;
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
    /// Queries of the block, head after head, those of a row next to each other.
    x: Vec<f32>,
    int8: Int8Queries,
    int8_keys: Int8Keys,
    panel: Vec<Vector>,
    /// Scores and then weights of the tile at hand, head after head.
    scores: Vec<Vector>,
    /// Records of the tile at hand, and of all tiles before, head after head.
    partial: Vec<Vector>,
    running: Vec<Vector>,
    pad: Vec<u8>,
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
    /// What this thread will probably do next.
    pub(super) next: Option<&'a Piece>,
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PieceOp { cfg, q, plan, piece, partials, left, .. } = self;
        let &AttentionConfig { n_heads, n_kv_heads, head_dim, kv_dtype, .. } = cfg;
        let block = &plan.blocks[piece.block];
        let rows = &self.rows[block.rows.clone()];
        let shared = n_heads / n_kv_heads;
        let queries = rows.len() * shared;
        let record = RECORD_HEAD + head_dim.div_ceil(LANES);
        let heads = piece.kv_heads.clone();
        let mut own = SCRATCH.take().unwrap_or_default();
        let scratch = &mut *own;

        // The scale is part of the queries, and scores are in units of ln 2 unless they are yet
        // to be capped.
        let unit = if cfg.softcap.is_some() { 1.0 } else { std::f32::consts::LOG2_E };
        let scale = cfg.scale * unit;
        scratch.x.clear();
        for kv_head in heads.clone() {
            for row in block.rows.clone() {
                let at = (row * n_heads + kv_head * shared) * head_dim;
                scratch.x.extend_from_slice(&q[at..at + shared * head_dim]);
            }
        }
        for x in &mut scratch.x {
            *x *= scale;
        }
        if kv_dtype == DType::Q8_0 {
            scratch.int8.round(&scratch.x);
            scratch.int8_keys.reserve(head_dim);
        }
        grow(&mut scratch.scores, heads.len() * queries * SCORES);
        grow(&mut scratch.panel, GROUPS * head_dim.next_multiple_of(LANES).max(SPAN));
        grow(&mut scratch.panel, SPAN * head_dim.div_ceil(LANES));
        grow(&mut scratch.partial, heads.len() * queries * record);
        grow(&mut scratch.running, heads.len() * queries * record);

        let mut cursor = Cursor::new(rows[0].runs);
        for tile in piece.tiles.clone() {
            let start = tile * TILE;
            cursor.seek(start);
            let at = |head, start, cursor| TileAt { cfg, rows, start, cursor, head };
            let head = |head: usize| Head { index: head, kv_head: heads.start + head };
            // Values come when all scores are there, and then the next tile's keys, or those of the
            // next piece.
            let values = Coming { cursor, start, heads: heads.clone(), part: Part::Values };
            for i in 0..heads.len() {
                at(head(i), start, cursor).score(s, Some((&values, heads.len())), scratch);
            }
            let coming = if tile + 1 < piece.tiles.end {
                Some((cursor, tile + 1, heads.clone()))
            } else {
                self.next.map(|next| {
                    let first = plan.blocks[next.block].rows.start;
                    (Cursor::new(self.rows[first].runs), next.tiles.start, next.kv_heads.clone())
                })
            };
            let keys = coming.map(|(mut cursor, tile, heads)| {
                cursor.seek(tile * TILE);
                Coming { cursor, start: tile * TILE, heads, part: Part::Keys }
            });
            for i in 0..heads.len() {
                let coming = keys.as_ref().map(|keys| (keys, heads.len()));
                at(head(i), start, cursor).sum(s, coming, scratch);
            }
            for (head, kv_head) in heads.clone().enumerate() {
                let partial = &scratch.partial[head * queries * record..][..queries * record];
                if let Some(Split { start, stride, first, tiles, .. }) = piece.split {
                    let to = start + (kv_head * tiles + tile - first) * stride;
                    // SAFETY: this piece alone has this tile of this block and head.
                    unsafe { partials.slice_mut(to..to + stride) }.copy_from_slice(partial);
                } else {
                    let running = &mut scratch.running[head * queries * record..];
                    join(s, rows, tile, shared * record, record, running, partial);
                }
            }
        }

        for (head, kv_head) in heads.enumerate() {
            let running = &mut scratch.running[head * queries * record..][..queries * record];
            if let Some(split) = piece.split {
                // Whoever is last finds everyone's records: each piece's writes come before its
                // count.
                if left[split.counter + kv_head].fetch_sub(1, Ordering::AcqRel) > 1 {
                    continue;
                }
                let len = split.tiles * split.stride;
                let start = split.start + kv_head * len;
                // SAFETY: all other pieces of this block and head are done.
                let records = unsafe { partials.slice_mut(start..start + len) };
                for (tile, partial) in (split.first..).zip(records.chunks_exact(split.stride)) {
                    join(s, rows, tile, shared * record, record, running, partial);
                }
            }
            self.store(block.rows.clone(), kv_head, record, running);
        }
        SCRATCH.set(Some(own));
    }
}

impl PieceOp<'_> {
    /// Writes the results of a block.
    #[inline(always)]
    fn store(&self, rows: Range<usize>, kv_head: usize, record: usize, running: &[Vector]) {
        let &AttentionConfig { n_heads, n_kv_heads, head_dim, .. } = self.cfg;
        let shared = n_heads / n_kv_heads;
        let heads = rows.flat_map(|row| {
            let first = row * n_heads + kv_head * shared;
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

/// Adds the records over a tile to those over all tiles before, for the rows that see some of it;
/// `stride` vectors are a row's, `record` a query's.
#[inline(always)]
fn join<S: Simd>(
    s: S,
    rows: &[QueryRow<'_>],
    tile: usize,
    stride: usize,
    record: usize,
    running: &mut [Vector],
    partial: &[Vector],
) {
    let records = running.chunks_exact_mut(stride).zip(partial.chunks_exact(stride));
    for (row, (running, partial)) in rows.iter().zip(records) {
        if tile == row.from / TILE {
            running.copy_from_slice(partial);
        } else if tile > row.from / TILE && tile * TILE < row.to {
            let pairs = running.chunks_exact_mut(record).zip(partial.chunks_exact(record));
            for (running, partial) in pairs {
                absorb(s, running, partial);
            }
        }
    }
}

/// Keys or values of some key-value heads over a tile, which will be needed soon.
struct Coming<'a> {
    /// At the tile's start.
    cursor: Cursor<'a>,
    start: usize,
    heads: Range<usize>,
    part: Part,
}

impl<'a> Coming<'a> {
    /// One of `parts` parts of the span at `at` of the tile.
    #[inline(always)]
    fn ahead(&self, at: usize, (part, parts): (usize, usize), head: HeadBytes) -> Ahead<'a> {
        let Range { start, end } = self.heads;
        let heads = HeadBytes { at: start * head.len, len: (end - start) * head.len, ..head };
        let (from, to) = (SPAN * part / parts, SPAN * (part + 1) / parts);
        self.cursor.ahead(self.start + at + from, to - from, heads, self.part)
    }
}

/// A key-value head: which of those that the scratch has the queries of, and which of all.
#[derive(Clone, Copy)]
struct Head {
    index: usize,
    kv_head: usize,
}

/// A tile of positions from `start` on, for a block of rows and a key-value head. While one thing
/// is computed, a part of what is coming, one of as many as there are heads, is brought near.
struct TileAt<'a> {
    cfg: &'a AttentionConfig,
    rows: &'a [QueryRow<'a>],
    start: usize,
    /// At the tile's start.
    cursor: Cursor<'a>,
    head: Head,
}

impl TileAt<'_> {
    /// Query heads that share a key-value head.
    fn shared(&self) -> usize {
        self.cfg.n_heads / self.cfg.n_kv_heads
    }

    fn head_bytes(&self) -> HeadBytes {
        let &AttentionConfig { n_kv_heads, head_dim, kv_dtype, .. } = self.cfg;
        let len = kv_dtype.bytes_for(head_dim).expect("whole blocks");
        HeadBytes { row: n_kv_heads * len, at: self.head.kv_head * len, len }
    }

    /// The spans that some row sees some of, counted from the tile's start, and their lengths.
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let clips = || self.rows.iter().map(|row| seen(row, self.start, TILE));
        let clips = || clips().filter(|clip| !clip.is_empty());
        let from = clips().map(|clip| clip.start).min().unwrap_or(0);
        let to = clips().map(|clip| clip.end).max().unwrap_or(0);
        (from / SPAN * SPAN..to).step_by(SPAN).map(move |at| (at, SPAN.min(to - at)))
    }

    /// Scores of the positions.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, coming: Option<(&Coming<'_>, usize)>, scratch: &mut Scratch) {
        let &AttentionConfig { head_dim, kv_dtype, .. } = self.cfg;
        let (start, shared, bytes) = (self.start, self.shared(), self.head_bytes());
        let before = self.head.index * self.rows.len() * shared;
        let Scratch { x, int8, int8_keys, panel, scores, pad, .. } = scratch;
        for (at, n) in self.spans() {
            let (groups, rows) = (n.div_ceil(LANES), seeing(self.rows, start + at, n));
            for g in 0..groups {
                let (position, n) = (start + at + g * LANES, n - g * LANES);
                let tile = self.cursor.tile(position, n, bytes, Part::Keys, pad);
                if kv_dtype == DType::Q8_0 {
                    int8_keys.unpack(s, tile, g);
                } else {
                    unpack::keys(s, kv_dtype, tile, &mut panel[g..], GROUPS);
                }
            }
            let mut ahead = Ahead::nothing();
            if let Some((coming, parts)) = coming {
                ahead = coming.ahead(at, (self.head.index, parts), bytes);
            }
            let (first, m) = (before + rows.start * shared, rows.len() * shared);
            let scores = &mut scores[first * SCORES + at / LANES..];
            if kv_dtype == DType::Q8_0 {
                let queries = (first, m);
                quantized::sweep(s, int8_keys, groups, int8, queries, scores, SCORES, &mut ahead);
            } else {
                let (x, strides) = (&x[first * head_dim..], (head_dim, SCORES));
                let size = (GROUPS, groups);
                sweep::<S, true>(s, panel, size, head_dim, x, m, scores, strides, &mut ahead);
            }
        }
    }

    /// Weights of the positions, and the sums over them: fills the records of the rows that see
    /// some of the tile.
    #[inline(always)]
    fn sum<S: Simd>(&self, s: S, coming: Option<(&Coming<'_>, usize)>, scratch: &mut Scratch) {
        let &AttentionConfig { head_dim, kv_dtype, softcap, .. } = self.cfg;
        let (start, shared, bytes) = (self.start, self.shared(), self.head_bytes());
        let out_groups = head_dim.div_ceil(LANES);
        let record = RECORD_HEAD + out_groups;
        let queries = self.rows.len() * shared;
        let Scratch { panel, scores, partial, pad, .. } = scratch;
        let scores = &mut scores[self.head.index * queries * SCORES..][..queries * SCORES];
        let partial = &mut partial[self.head.index * queries * record..][..queries * record];

        for (i, row) in self.rows.iter().enumerate() {
            let seen = seen(row, start, TILE);
            if seen.is_empty() {
                continue;
            }
            for i in i * shared..(i + 1) * shared {
                let record = &mut partial[i * record..][..record];
                weigh(s, softcap, seen.clone(), &mut scores[i * SCORES..][..SCORES], record);
                record[RECORD_HEAD..].fill(Vector::default());
            }
        }

        let weights: &[f32] = bytemuck::cast_slice(scores);
        for (at, n) in self.spans() {
            for g in 0..n.div_ceil(LANES) {
                let (position, n) = (start + at + g * LANES, LANES.min(n - g * LANES));
                let tile = self.cursor.tile(position, n, bytes, Part::Values, pad);
                let panel = &mut panel[g * LANES * out_groups..];
                unpack::values(s, kv_dtype, tile, n, panel, out_groups);
            }
            let mut ahead = Ahead::nothing();
            if let Some((coming, parts)) = coming {
                ahead = coming.ahead(at, (self.head.index, parts), bytes);
            }
            // Neighbours that see the same of these positions go together.
            let clip = |row: &QueryRow<'_>| seen(row, start + at, n);
            let mut i = 0;
            for rows in self.rows.chunk_by(|a, b| clip(a) == clip(b)) {
                let (seen, first) = (clip(&rows[0]), i * shared);
                i += rows.len();
                if seen.is_empty() {
                    continue;
                }
                let panel = &panel[seen.start * out_groups..];
                let x = &weights[first * TILE + at + seen.start..];
                let sums = &mut partial[first * record + RECORD_HEAD..];
                let (size, m) = ((out_groups, out_groups), rows.len() * shared);
                let strides = (TILE, record);
                sweep::<S, false>(s, panel, size, seen.len(), x, m, sums, strides, &mut ahead);
            }
        }
    }
}
