//! Products of bf16 by AMX's tiles.
//!
//! One instruction multiplies 16 weight rows by 32 of k with 32 of k by up to 16 activations: for
//! each output the even and the odd products of the 32 are summed apart from zero (fused, denormals
//! flushed), then added up and to the sum so far (Intel, Architecture Instruction Set Extensions,
//! TDPBF16PS). What else the tiles hold does not enter, so that one activation goes the same way as
//! sixteen.
//!
//! Weights are the left factor: rows as they lie in a file are a tile, without any unpacking. The
//! few activations are the right one, pairs of k interleaved. Sums come out a weight row a line and
//! are transposed at the end.

use super::super::rows::{Step, prefetch};
use super::super::run::Limits;
use super::super::{DisjointMut, Job, Layout, Piece, Scratch};
use super::groups::{self, BLOCK, Group, MANY, shape};
use super::{K, Round, unpack};
use crate::ThreadPool;
use crate::amx::{TileConfig, tile};
use crate::simd::{self, CACHE_LINE, LANES, Op, Simd, Tile, dispatch, dispatch_tiles};
use blocks::DType;
use bytemuck::Zeroable;
use std::ops::Range;

/// A product whose activations lie as tiles.
struct Tiled<'a> {
    job: &'a Job<'a>,
    /// `[group][step][pair of k][activation]`
    x: &'a [Step],
    /// Activations of a group: 16, or as many as there are.
    width: usize,
    /// Steps of 32 of k.
    steps: usize,
    out: &'a DisjointMut<'a, f32>,
}

/// The pieces that such a product can be cut into: pairs of tiles of weight rows.
pub(in crate::matmul) fn limits(job: &Job<'_>) -> Limits {
    match streams(job) {
        true => Limits::streams(2 * LANES),
        false => MANY,
    }
}

/// Makes tiles of the activations of a product: `[group][step][pair of k][activation]`.
pub(in crate::matmul) fn pack(pool: &ThreadPool, job: &Job<'_>, to: &mut Vec<Step>) {
    groups::pack(pool, job, to, |group| dispatch(job.isa, Interleave(group)));
}

/// A piece of the product with activations that [`pack`] made.
pub(in crate::matmul) fn run(
    job: &Job<'_>,
    x: &[Step],
    Piece { rows, acts, .. }: Piece,
    out: &DisjointMut<'_, f32>,
) {
    let [width, steps] = shape(job);
    let tiled = &Tiled { job, x, width, steps, out };
    let groups = acts.start / LANES..acts.end.div_ceil(LANES);
    dispatch_tiles(TiledPiece { tiled, rows, groups });
}

/// Whether weights are multiplied as they lie, as a stream: where they are of use but once.
fn streams(job: &Job<'_>) -> bool {
    job.m <= LANES
        && job.dtype == DType::BF16
        && job.source.layout == Layout::Rows
        && job.cols.is_multiple_of(K)
}

/// Rounds a group and interleaves its pairs of k.
struct Interleave<'a>(Group<'a>);

impl Op for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Group { job, acts, width, to } = self.0;
        let steps = to.len() / width;
        let mut own = Scratch::take();
        let rounded = &mut own.panel;
        rounded.clear();
        rounded.resize(width * steps, Step::zeroed());
        for (i, to) in acts.zip(rounded.chunks_exact_mut(steps.max(1))) {
            Round { row: &job.x[i * job.cols..][..job.cols], to }.run(s);
        }
        if width == LANES {
            let row_bytes = steps * size_of::<Step>();
            if row_bytes > 0 {
                let tile = Tile::new(bytemuck::cast_slice(rounded), row_bytes, row_bytes);
                for (i, to) in to.chunks_exact_mut(4).enumerate() {
                    for (line, to) in s.load_4(tile, 16 * i).into_iter().zip(to) {
                        s.store_f(s.as_f(line), &mut to.0);
                    }
                }
            }
        } else {
            let words: &[u32] = bytemuck::cast_slice(rounded);
            let to: &mut [u32] = bytemuck::cast_slice_mut(to);
            for (i, row) in words.chunks_exact((steps * LANES).max(1)).enumerate() {
                for (to, word) in to[i..].iter_mut().step_by(width).zip(row) {
                    *to = *word;
                }
            }
        }
        own.give_back();
    }
}

impl Tiled<'_> {
    /// Transposes the sums of a piece, `[strip of 32 rows][group][row of strip][activation]`, into
    /// the output, with the bias added.
    #[inline(always)]
    fn store<S: Simd>(
        &self,
        s: S,
        rows: &Range<usize>,
        groups: &Range<usize>,
        sums: &[[f32; LANES]],
    ) {
        let job = self.job;
        for (i, tile) in sums.as_chunks::<LANES>().0.iter().enumerate() {
            let (strip, t) = (i / (2 * groups.len()), i % 2);
            let row = rows.start + (strip * 2 + t) * LANES;
            let act = (groups.start + i / 2 % groups.len()) * self.width;
            if row >= rows.end {
                continue;
            }
            let n = LANES.min(rows.end - row);
            let line = size_of::<Step>();
            let tile = Tile::new(bytemuck::cast_slice(tile), line, line);
            let mut columns = [[0.0; LANES]; LANES];
            for (i, columns) in columns.chunks_exact_mut(4).enumerate() {
                for (line, column) in s.load_4(tile, 16 * i).into_iter().zip(columns) {
                    s.store_f(s.as_f(line), column);
                }
            }
            for (act, column) in (act..job.m.min(act + self.width)).zip(&columns) {
                let at = act * job.source.rows + row;
                // SAFETY: this piece alone writes its rows for its activations.
                let to = unsafe { self.out.slice_mut(at..at + n) };
                to.copy_from_slice(&column[..n]);
                if let Some(bias) = job.bias {
                    for (to, bias) in to.iter_mut().zip(&bias[row..row + n]) {
                        *to += bias;
                    }
                }
            }
        }
    }
}

/// Rows of a weight by groups of activations.
struct TiledPiece<'a> {
    tiled: &'a Tiled<'a>,
    rows: Range<usize>,
    groups: Range<usize>,
}

impl Op for TiledPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let TiledPiece { tiled, rows, groups } = self;
        let &Tiled { job, width, steps, .. } = tiled;
        let columns = 4 * width as u16;
        let (sums, left, right) = ((16, columns), (16, 64), (16, columns));
        let config = TileConfig::new([sums, sums, sums, sums, left, left, right, right]);
        assert!(S::TILES);
        // SAFETY: `S::TILES` and a value of `S` prove that the process may use AMX.
        let _registers = unsafe { config.load() };
        let mut own = Scratch::take();
        let Scratch { panel, sums, pad, .. } = &mut *own;
        let sums = sums.zeroed(rows.len().next_multiple_of(2 * LANES) * groups.len());
        let block = if streams(job) { steps } else { BLOCK };
        for first in (0..steps).step_by(block.max(1)) {
            let n = block.min(steps - first);
            for row in rows.clone().step_by(2 * LANES) {
                let here = row..rows.end.min(row + 2 * LANES);
                let sums =
                    &mut sums[(row - rows.start) * groups.len()..][..2 * LANES * groups.len()];
                let stream = streams(job) && here.len().is_multiple_of(LANES);
                let (bytes, stride): (&[u8], usize) = if stream {
                    let stride = job.source.stride;
                    (&job.source.bytes[row * stride..][..here.len() * stride], stride)
                } else {
                    panel.resize(2 * LANES * n, Step::zeroed());
                    let k = (first * K, (n * K).min(job.cols - first * K));
                    for (r, to) in panel.chunks_exact_mut(n).enumerate() {
                        if r < here.len() {
                            unpack(s, job, row + r, k, pad, to);
                        } else {
                            to.fill(Step::zeroed());
                        }
                    }
                    (bytemuck::cast_slice(panel), n * size_of::<Step>())
                };
                let x = &tiled.x[(groups.start * steps + first) * width..];
                let strip = Strip { bytes, stride, x, group: steps * width, width, n };
                let two = here.len() > LANES;
                let next = match row + 2 * LANES < rows.end {
                    _ if stream => Ahead::NOTHING,
                    true => Ahead::new(job, row + 2 * LANES, (first, n)),
                    false => Ahead::new(job, rows.start, (first + n, block.min(steps - first - n))),
                };
                for g in (0..groups.len()).step_by(2) {
                    next.prefetch(g / 2, groups.len().div_ceil(2));
                    let sums = &mut sums[g * 2 * LANES..];
                    // SAFETY: the registers are configured for groups of this width.
                    unsafe {
                        match (two, groups.len() - g >= 2, stream) {
                            (true, _, true) => strip.multiply::<2, 1, true>(g, sums),
                            (false, _, true) => strip.multiply::<1, 1, true>(g, sums),
                            (true, true, _) => strip.multiply::<2, 2, false>(g, sums),
                            (true, false, _) => strip.multiply::<2, 1, false>(g, sums),
                            (false, true, _) => strip.multiply::<1, 2, false>(g, sums),
                            (false, false, _) => strip.multiply::<1, 1, false>(g, sums),
                        }
                    }
                }
            }
        }
        tiled.store(s, &rows, &groups, sums);
        own.give_back();
    }
}

/// What is unpacked next: lines of memory of two tiles of rows, a stretch of each.
struct Ahead {
    start: *const u8,
    stride: usize,
    /// Lines of a row.
    lines: usize,
}

impl Ahead {
    const NOTHING: Ahead = Ahead { start: std::ptr::null(), stride: 0, lines: 0 };

    /// Steps `first..first + n` of the rows from `row` on, as far as they are there.
    #[inline(always)]
    fn new(job: &Job<'_>, row: usize, (first, n): (usize, usize)) -> Self {
        let source = &job.source;
        let there = source.layout == Layout::Rows && row + 2 * LANES <= source.rows;
        let bytes = if job.dtype.is_float() { 2 * K * n } else { 0 };
        Ahead {
            start: source.bytes.as_ptr().wrapping_add(row * source.stride + 2 * K * first),
            stride: source.stride,
            lines: if there { bytes.div_ceil(CACHE_LINE) } else { 0 },
        }
    }

    /// Asks for part `i` of `parts`: a core has room for few requests, and waits when there is none.
    #[inline(always)]
    fn prefetch(&self, i: usize, parts: usize) {
        let all = 2 * LANES * self.lines;
        for line in i * all / parts..(i + 1) * all / parts {
            let (row, line) = (line / self.lines, line % self.lines);
            simd::prefetch(self.start.wrapping_add(row * self.stride + line * CACHE_LINE));
        }
    }
}

/// One or two tiles of weight rows over some steps of k, and the activations they meet.
struct Strip<'a> {
    /// Rows, `stride` bytes apart, of at least `n` steps.
    bytes: &'a [u8],
    stride: usize,
    /// From the first step of the first group on; groups are `group` apart.
    x: &'a [Step],
    group: usize,
    width: usize,
    n: usize,
}

impl Strip<'_> {
    /// Adds the products of `R` tiles of rows with `M` groups of activations from `g` on to
    /// `sums[(i * 2 + t) * 16 + r]`, activations of group `i` by row `r` of tile `t`. `STREAM`: what
    /// comes after these rows will be needed next.
    ///
    /// # Safety
    /// Tile registers are configured: 0 to 3 for sums and 6 and 7 for activations of 16 lines by
    /// `width` words, 4 and 5 for weights of 16 lines of 64 bytes.
    #[inline(always)]
    unsafe fn multiply<const R: usize, const M: usize, const STREAM: bool>(
        &self,
        g: usize,
        sums: &mut [[f32; LANES]],
    ) {
        const LINE: usize = size_of::<Step>();
        let &Strip { bytes, stride, x, group, width, n } = self;
        assert!((1..=2).contains(&R) && (1..=2).contains(&M) && (1..=LANES).contains(&width));
        assert!(n > 0 && (R * LANES - 1) * stride + n * LINE <= bytes.len());
        assert!((g + M - 1) * group + n * width <= x.len());
        assert!(((M - 1) * 2 + R) * LANES <= sums.len());
        let left = bytes.as_ptr();
        let right = x[g * group..].as_ptr().cast::<u8>();
        let (second_row, second_group) = (LANES * stride, group * LINE);
        let next = bytes.as_ptr().wrapping_add(R * LANES * stride);
        let sums = sums.as_mut_ptr();
        let sum = |i: usize, t: usize| sums.wrapping_add((i * 2 + t) * LANES);
        // SAFETY: the caller's promise, and as asserted: a tile of weights is 64 bytes of 16 rows, a
        // tile of activations `width` lines, a tile of sums 16 lines.
        unsafe {
            tile!(load 0, sum(0, 0), LINE);
            if R > 1 {
                tile!(load 1, sum(0, 1), LINE);
            }
            if M > 1 {
                tile!(load 2, sum(1, 0), LINE);
                if R > 1 {
                    tile!(load 3, sum(1, 1), LINE);
                }
            }
            for k in 0..n {
                if STREAM {
                    // In four streams: one alone does not keep memory busy.
                    for stream in 0..4 {
                        let rows = R * LANES / 4;
                        let next = next.wrapping_add(stream * rows * stride + k * rows * LINE);
                        prefetch(next, rows * LINE);
                    }
                }
                let (left, right) = (left.add(k * LINE), right.add(k * width * LINE));
                tile!(load 6, right, 4 * width);
                tile!(load 4, left, stride);
                tile!("tdpbf16ps" 0, 4, 6);
                if R > 1 {
                    tile!(load 5, left.add(second_row), stride);
                    tile!("tdpbf16ps" 1, 5, 6);
                }
                if M > 1 {
                    tile!(load 7, right.add(second_group), 4 * width);
                    tile!("tdpbf16ps" 2, 4, 7);
                    if R > 1 {
                        tile!("tdpbf16ps" 3, 5, 7);
                    }
                }
            }
            tile!(store 0, sum(0, 0), LINE);
            if R > 1 {
                tile!(store 1, sum(0, 1), LINE);
            }
            if M > 1 {
                tile!(store 2, sum(1, 0), LINE);
                if R > 1 {
                    tile!(store 3, sum(1, 1), LINE);
                }
            }
        }
    }
}
