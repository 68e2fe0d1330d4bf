//! One activation with interleaved rows: bytes go from the stream of weights through registers into
//! the sums, and nothing is unpacked to memory but the scales.

use super::activations::ActivationBlock;
use super::sweep::add_block;
use super::{CHUNK_LINES, Format, Int8Group, Int8Piece, SPAN, Scales, sums};
use crate::matmul::{Job, Layout, Scratch, Source};
use crate::simd::{CACHE_LINE, LANES, Op, Simd, Sixteen, Stream, prefetch};
use std::marker::PhantomData;

/// Rows of a piece: where the next one begins is a guess.
pub(super) const ROWS: usize = 256;

/// Whether a product can go this way.
#[inline(always)]
pub(super) fn fits<F: Format>(job: &Job<'_>) -> bool {
    F::DIRECT && job.source.layout == Layout::Interleaved && job.m == 1
}

/// A piece that [fits]: the same sums in the same order as a sweep over unpacked groups.
pub(super) struct Direct<'a, F> {
    pub(super) work: Int8Piece<'a>,
    pub(super) format: PhantomData<F>,
}

impl<F: Format> Op for Direct<'_, F> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Direct { work, .. } = &self;
        let Int8Piece { job, piece, out, .. } = work;
        assert_eq!(piece.acts.len(), 1);
        let mut own = Scratch::take();
        let scratch = &mut *own;
        let n_groups = piece.rows.len().div_ceil(LANES);
        let sums = scratch.sums.zeroed(n_groups);
        let mut g = 0;
        while g < n_groups {
            let (groups, sums) = (&mut scratch.int8[..], &mut sums[g..]);
            g += match n_groups - g {
                4.. => side_by_side::<S, F, 4>(s, work, g, groups, sums),
                _ => side_by_side::<S, F, 1>(s, work, g, groups, sums),
            };
        }
        job.store_groups(s, piece, sums, 1, out);
        own.give_back();
    }
}

/// `G` groups from `first` on take turns, 64 of k each: several streams of memory keep more requests
/// under way than one. Each line is asked for one span before it is needed, evenly between the
/// operations, for a core has room for few requests at a time. Returns `G`.
#[inline(always)]
fn side_by_side<S: Simd, F: Format, const G: usize>(
    s: S,
    work: &Int8Piece<'_>,
    first: usize,
    groups: &mut [Int8Group],
    sums: &mut [[f32; LANES]],
) -> usize {
    let Int8Piece { job, acts, piece, .. } = work;
    let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    let mut sum = [s.splat_f(0.0); G];
    let after = piece.rows.start + (first + G) * LANES;
    let next = if after < piece.rows.end { after } else { piece.next };
    for (k0, acts) in (0..job.cols).step_by(SPAN).zip(acts.spans()) {
        let span = SPAN.min(job.cols - k0);
        let (at, bytes) = (k0 / len * size, span / len * size);
        let (row, act) = (piece.rows.start + first * LANES, &acts[piece.acts.start]);
        let ahead = if k0 + SPAN < job.cols {
            Ahead::at(job, row, at + SPAN / len * size)
        } else if next + G * LANES <= job.source.rows {
            Ahead::at(job, next, 0)
        } else {
            // Addresses that are not there would be looked for.
            Ahead::at(job, row, at)
        };
        // Words are of four bytes, sizes of blocks even; most spans are whole words.
        sum = if (SPAN / len * size).is_multiple_of(4) || at % 4 == 0 {
            let mut streams = [Stream::<'_, false>::new(job.source.lines(row, at), bytes); G];
            for g in 1..G {
                streams[g] = Stream::new(job.source.lines(row + g * LANES, at), bytes);
            }
            one_span::<S, F, _, G>(s, streams, groups, ahead, span, act, sum)
        } else {
            let mut streams = [Stream::<'_, true>::new(job.source.lines(row, at), bytes); G];
            for g in 1..G {
                streams[g] = Stream::new(job.source.lines(row + g * LANES, at), bytes);
            }
            one_span::<S, F, _, G>(s, streams, groups, ahead, span, act, sum)
        };
    }
    for g in 0..G {
        s.store_f(sum[g], &mut sums[g]);
    }
    G
}

#[inline(always)]
fn one_span<S: Simd, F: Format, T: Sixteen, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &mut [Int8Group],
    ahead: Ahead,
    span: usize,
    act: &ActivationBlock,
    sum: [S::F; G],
) -> [S::F; G] {
    for g in 0..G {
        F::scales(s, tiles[g], &mut groups[g]);
    }
    match F::SCALES {
        Scales::Integer => integer_span::<S, F, T, G>(s, tiles, groups, ahead, act, sum),
        Scales::PerBlock32 => float_span::<S, F, T, G>(s, tiles, groups, ahead, span, act, sum),
    }
}

#[inline(always)]
fn integer_span<S: Simd, F: Format, T: Sixteen, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &[Int8Group],
    ahead: Ahead,
    act: &ActivationBlock,
    mut sum: [S::F; G],
) -> [S::F; G] {
    let groups = &groups[..G];
    let mut total = [s.splat_i(0); G];
    for c in 0..SPAN / (4 * CHUNK_LINES) {
        for g in 0..G {
            let lines = F::chunk(s, tiles[g], c);
            for sub in 0..4 * CHUNK_LINES / F::SUB {
                let ahead = ahead.chunk::<F>(g, c);
                total[g] = add_dot::<S, F>(s, &groups[g], &lines, (c, sub), act, ahead, total[g]);
            }
        }
    }
    for g in 0..G {
        sum[g] = add_block::<S, F>(s, &groups[g], total[g], act, sum[g]);
    }
    sum
}

#[inline(always)]
fn float_span<S: Simd, F: Format, T: Sixteen, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &[Int8Group],
    ahead: Ahead,
    span: usize,
    act: &ActivationBlock,
    mut sum: [S::F; G],
) -> [S::F; G] {
    let groups = &groups[..G];
    let mut total = [s.splat_f(0.0); G];
    for c in 0..span.div_ceil(4 * CHUNK_LINES) {
        for g in 0..G {
            let lines = F::chunk(s, tiles[g], c);
            for sub in 0..4 * CHUNK_LINES / F::SUB {
                let at = c * 4 * CHUNK_LINES / F::SUB + sub;
                if (at + 1) * F::SUB > span {
                    break;
                }
                let scale = s.as_f(s.load_i(&groups[g].scales[at]));
                let scale = s.mul(scale, s.splat_f(act.scale[at * F::SUB / 32]));
                let (ahead, zero) = (ahead.chunk::<F>(g, c), s.splat_i(0));
                let dot = add_dot::<S, F>(s, &groups[g], &lines, (c, sub), act, ahead, zero);
                total[g] = s.fma(s.to_f(dot), scale, total[g]);
                if F::MIN {
                    let min = s.as_f(s.load_i(&groups[g].mins[at]));
                    total[g] = s.fma(min, s.splat_f(act.sum[at]), total[g]);
                }
            }
        }
    }
    for g in 0..G {
        sum[g] = s.add(total[g], sum[g]);
    }
    sum
}

/// Lines of groups side by side that will be needed next.
#[derive(Clone, Copy)]
struct Ahead {
    first: *const u8,
    /// Bytes of a group.
    group: usize,
}

impl Ahead {
    /// Of the groups from `row` on, the lines from byte `at` of rows on.
    #[inline(always)]
    fn at(job: &Job<'_>, row: usize, at: usize) -> Ahead {
        let Source { bytes, stride, .. } = job.source;
        let first = bytes.as_ptr().wrapping_add(row * stride + at * LANES);
        Ahead { first, group: LANES * stride }
    }

    /// Those of chunk `c` of group `g`.
    #[inline(always)]
    fn chunk<F: Format>(self, g: usize, c: usize) -> *const u8 {
        self.first.wrapping_add(g * self.group + c * (chunk_bytes::<F>() * LANES))
    }
}

/// Bytes of a row's chunk.
const fn chunk_bytes<F: Format>() -> usize {
    4 * CHUNK_LINES * F::DTYPE.block_bytes() / F::DTYPE.block_len()
}

/// `total` plus the integer sum of sub-block `sub` of chunk `c`, times its scale where that is an integer. Asks for
/// its part of the chunk's lines at `ahead`.
#[inline(always)]
fn add_dot<S: Simd, F: Format>(
    s: S,
    group: &Int8Group,
    lines: &[S::I; CHUNK_LINES],
    (c, sub): (usize, usize),
    act: &ActivationBlock,
    ahead: *const u8,
    mut total: S::I,
) -> S::I {
    let wanted = chunk_bytes::<F>().div_ceil(4);
    let n = F::SUB / 4;
    let in_block = c * CHUNK_LINES / n + sub;
    let factor = sums::factor::<S, F>(s, group, in_block);
    let words = &act.words[c * CHUNK_LINES..][..CHUNK_LINES];
    let mut first = 0;
    while first < n {
        let end = n.min(first + sums::lines::<S, F>());
        let mut dot = sums::start::<S, F>(s, act, in_block, first);
        for line in sub * n + first..sub * n + end {
            // At most two: a loop would stay one.
            let (i, end) = (line * wanted / CHUNK_LINES, (line + 1) * wanted / CHUNK_LINES);
            if i < end {
                prefetch(ahead.wrapping_add(i * CACHE_LINE));
            }
            if i + 1 < end {
                prefetch(ahead.wrapping_add((i + 1) * CACHE_LINE));
            }
            dot = sums::add_line::<S, F>(s, dot, lines[line], s.splat_i(words[line]));
        }
        total = sums::widen::<S, F>(s, total, dot, factor);
        first = end;
    }
    total
}
