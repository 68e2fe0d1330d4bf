//! One block of rows with one key-value head, tile after tile.

use super::runs::{Cursor, Part};
use super::{AttentionConfig, QueryRow};
use crate::matmul::float::{FloatGroup, SPAN, sweep, unpack};
use crate::matmul::{DisjointMut, PANEL_GROUPS, Scratch};
use crate::simd::{LANES, Op, Simd, math};
use blocks::DType;
use std::ops::Range;

/// Positions of a tile.
const TILE: usize = 64;
const _: () = assert!(TILE == PANEL_GROUPS * LANES && TILE == SPAN);

pub(super) struct BlockOp<'a> {
    pub(super) cfg: &'a AttentionConfig,
    pub(super) q: &'a [f32],
    pub(super) rows: &'a [QueryRow<'a>],
    pub(super) block: Range<usize>,
    pub(super) kv_head: usize,
    pub(super) out: &'a DisjointMut<'a, f32>,
}

/// One query's running softmax.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    /// Sums of `exp(score - max)`, position modulo 16 a lane.
    sums: [f32; LANES],
}

impl Op for BlockOp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let BlockOp { cfg, q, rows, block, kv_head, out } = self;
        let &AttentionConfig { n_heads, n_kv_heads, head_dim, kv_dtype, .. } = cfg;
        let rows = &rows[block.clone()];
        let shared = n_heads / n_kv_heads;
        let queries = rows.len() * shared;
        let size = kv_dtype.block_bytes();
        let row_bytes = n_kv_heads * head_dim * size;
        let head_at = kv_head * head_dim * size;

        let mut own = Scratch::take();
        let scratch = &mut *own;
        let x = &mut scratch.decoded;
        x.clear();
        for row in block.clone() {
            let at = (row * n_heads + kv_head * shared) * head_dim;
            x.extend_from_slice(&q[at..at + shared * head_dim]);
        }
        let mut scores = vec![[0.0f32; LANES]; queries * PANEL_GROUPS];
        let mut running = vec![Running { max: f32::NEG_INFINITY, sums: [0.0; LANES] }; queries];
        let out_groups = head_dim.div_ceil(LANES);
        let acc = scratch.sums.zeroed(queries * out_groups);

        let from = rows[0].from;
        let to = rows.iter().map(|row| row.to).max().unwrap_or(from);
        let mut cursor = Cursor::new(rows[0].runs);
        for start in (from..to).step_by(TILE) {
            let n = TILE.min(to - start);
            cursor.rows(start, Part::Keys, row_bytes);

            scores.fill([0.0; LANES]);
            let groups = &mut scratch.float[..n.div_ceil(LANES)];
            for d in (0..head_dim).step_by(SPAN) {
                let span = SPAN.min(head_dim - d);
                for (g, group) in groups.iter_mut().enumerate() {
                    let (position, n) = (start + g * LANES, n - g * LANES);
                    let bytes = (head_at + d * size, span * size);
                    let pad = &mut scratch.pad;
                    let tile = cursor.tile(position, n, row_bytes, bytes, Part::Keys, pad);
                    unpack(s, kv_dtype, tile, group);
                }
                sweep(s, groups, span, &x[d..], head_dim, queries, &mut scores, PANEL_GROUPS);
            }

            for i in 0..queries {
                let seen = rows[i / shared].to.saturating_sub(start).min(TILE);
                if seen == 0 {
                    continue;
                }
                let scores = &mut scores[i * PANEL_GROUPS..][..PANEL_GROUPS];
                let factor = weigh(s, cfg, seen, scores, &mut running[i]);
                if factor != 1.0 {
                    let factor = s.splat_f(factor);
                    for lanes in &mut acc[i * out_groups..][..out_groups] {
                        s.store_f(s.mul(s.load_f(lanes), factor), lanes);
                    }
                }
            }

            for (part, d) in (0..head_dim).step_by(SPAN).enumerate() {
                let span = SPAN.min(head_dim - d);
                let groups = &mut scratch.float[..span.div_ceil(LANES)];
                let mut position = 0;
                let mut cursor = cursor;
                while position < n {
                    let (bytes, left) = cursor.rows(start + position, Part::Values, row_bytes);
                    for r in 0..left.min(n - position) {
                        let row = &bytes[r * row_bytes + head_at + d * size..][..span * size];
                        widen(s, kv_dtype, row, position, groups);
                        position += 1;
                    }
                }
                // Neighbours that see equally much of the tile go together.
                let weights = scores.as_flattened();
                let mut i = 0;
                while i < rows.len() {
                    let seen = rows[i].to.saturating_sub(start).min(TILE);
                    let mut end = i + 1;
                    while end < rows.len() && rows[end].to.saturating_sub(start).min(TILE) == seen {
                        end += 1;
                    }
                    if seen > 0 {
                        let (first, count) = (i * shared, (end - i) * shared);
                        let x = &weights[first * TILE..];
                        let sums = &mut acc[first * out_groups + part * PANEL_GROUPS..];
                        sweep(s, groups, seen, x, TILE, count, sums, out_groups);
                    }
                    i = end;
                }
            }
        }

        for (i, running) in running.iter().enumerate() {
            let (row, head) = (block.start + i / shared, kv_head * shared + i % shared);
            let at = (row * n_heads + head) * head_dim;
            // SAFETY: this block and key-value head alone write this row's head.
            let out = unsafe { out.slice_mut(at..at + head_dim) };
            let sum: f32 = running.sums.iter().sum();
            let acc = acc[i * out_groups..][..out_groups].as_flattened();
            for (out, acc) in out.iter_mut().zip(acc) {
                *out = acc / sum;
            }
        }
        own.give_back();
    }
}

/// Turns the `seen` products of a tile into `exp(score - max)` and brings the running maximum and
/// sum up to date. Returns the factor for what was summed up before.
#[inline(always)]
fn weigh<S: Simd>(
    s: S,
    cfg: &AttentionConfig,
    seen: usize,
    scores: &mut [[f32; LANES]],
    running: &mut Running,
) -> f32 {
    let scale = s.splat_f(cfg.scale);
    let mut top = s.splat_f(f32::NEG_INFINITY);
    for lanes in scores.iter_mut() {
        let mut v = s.mul(s.load_f(lanes), scale);
        if let Some(cap) = cfg.softcap {
            // tanh y = 1 - 2 / (e^2y + 1)
            let e = math::exp(s, s.mul(v, s.splat_f(2.0 / cap)));
            let (one, two) = (s.splat_f(1.0), s.splat_f(2.0));
            let tanh = s.sub(one, s.div(two, s.add(e, one)));
            v = s.mul(tanh, s.splat_f(cap));
        }
        s.store_f(v, lanes);
    }
    scores.as_flattened_mut()[seen..].fill(f32::NEG_INFINITY);
    for lanes in scores.iter() {
        top = s.max(top, s.load_f(lanes));
    }
    let mut tops = [0.0; LANES];
    s.store_f(top, &mut tops);
    let max = tops.iter().fold(running.max, |a, &b| if a > b { a } else { b });
    let maxes = s.splat_f(max);
    // The first tile has no maximum before it: exp(-inf) = 0.
    let before = s.splat_f(running.max);
    let mut factor = [0.0; LANES];
    s.store_f(math::exp(s, s.sub(before, maxes)), &mut factor);
    let mut sums = s.mul(s.load_f(&running.sums), s.load_f(&factor));
    for lanes in scores.iter_mut() {
        let e = math::exp(s, s.sub(s.load_f(lanes), maxes));
        s.store_f(e, lanes);
        sums = s.add(sums, e);
    }
    s.store_f(sums, &mut running.sums);
    running.max = max;
    factor[0]
}

/// One row's elements in f32 as line `k` of the groups.
#[inline(always)]
fn widen<S: Simd>(s: S, dtype: DType, row: &[u8], k: usize, groups: &mut [FloatGroup]) {
    let width = LANES * dtype.block_bytes();
    for (group, bytes) in groups.iter_mut().zip(row.chunks(width)) {
        let mut padded = [0u8; 64];
        let bytes = if bytes.len() == width {
            bytes
        } else {
            padded[..bytes.len()].copy_from_slice(bytes);
            &padded[..width]
        };
        let v = match dtype {
            DType::F32 => s.as_f(s.load_i(bytes.as_chunks().0.first().expect("64 bytes"))),
            DType::F16 => s.widen_f16(bytes.as_chunks().0.first().expect("32 bytes")),
            _ => s.widen_bf16(bytes.as_chunks().0.first().expect("32 bytes")),
        };
        s.store_f(v, &mut group.0[k]);
    }
}
