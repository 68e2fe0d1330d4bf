//! One activation with interleaved rows: bytes go from the stream of weights through registers into
//! the sums, and nothing is unpacked to memory but the scales.

use super::activations::ActivationBlock;
use super::sweep::add_block;
use super::{CHUNK_LINES, Format, Int8Group, Int8Piece, SPAN, Scales};
use crate::matmul::{PANEL_GROUPS, Scratch};
use crate::simd::{LANES, Simd, Sixteen, Stream};

/// The same sums in the same order as a sweep over unpacked groups.
#[inline(always)]
pub(super) fn run<S: Simd, F: Format>(s: S, work: &Int8Piece<'_, F>) {
    let Int8Piece { job, piece, out, .. } = work;
    assert_eq!(piece.acts.len(), 1);
    let mut own = Scratch::take();
    let scratch = &mut *own;
    let sums = scratch.sums.zeroed(PANEL_GROUPS);
    let n_groups = piece.rows.len().div_ceil(LANES);
    let mut g = 0;
    while g < n_groups {
        let (groups, sums) = (&mut scratch.int8[..], &mut sums[g..]);
        g += match n_groups - g {
            4.. => side_by_side::<S, F, 4>(s, work, g, groups, sums),
            _ => side_by_side::<S, F, 1>(s, work, g, groups, sums),
        };
    }
    job.store(piece, sums, out);
    own.give_back();
}

/// `G` groups from `first` on take turns, 64 of k each: several streams of memory keep more requests
/// under way than one. Returns `G`.
#[inline(always)]
fn side_by_side<S: Simd, F: Format, const G: usize>(
    s: S,
    work: &Int8Piece<'_, F>,
    first: usize,
    groups: &mut [Int8Group],
    sums: &mut [[f32; LANES]],
) -> usize {
    let Int8Piece { job, acts, piece, .. } = work;
    let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    let mut sum = [s.splat_f(0.0); G];
    for (k0, acts) in (0..job.cols).step_by(SPAN).zip(acts.spans()) {
        let span = SPAN.min(job.cols - k0);
        let (at, bytes) = (k0 / len * size, span / len * size);
        let (row, act) = (piece.rows.start + first * LANES, &acts[piece.acts.start]);
        // Words are of four bytes, sizes of blocks even; most spans are whole words.
        sum = if (SPAN / len * size).is_multiple_of(4) || at % 4 == 0 {
            let mut streams = [Stream::<'_, false>::new(job.source.lines(row, at), bytes); G];
            for g in 1..G {
                streams[g] = Stream::new(job.source.lines(row + g * LANES, at), bytes);
            }
            one_span::<S, F, _, G>(s, streams, groups, span, act, sum)
        } else {
            let mut streams = [Stream::<'_, true>::new(job.source.lines(row, at), bytes); G];
            for g in 1..G {
                streams[g] = Stream::new(job.source.lines(row + g * LANES, at), bytes);
            }
            one_span::<S, F, _, G>(s, streams, groups, span, act, sum)
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
    span: usize,
    act: &ActivationBlock,
    sum: [S::F; G],
) -> [S::F; G] {
    for g in 0..G {
        F::scales(s, tiles[g], &mut groups[g]);
    }
    match F::SCALES {
        Scales::Integer => integer_span::<S, F, T, G>(s, tiles, groups, act, sum),
        Scales::PerBlock32 => float_span::<S, F, T, G>(s, tiles, groups, span, act, sum),
    }
}

#[inline(always)]
fn integer_span<S: Simd, F: Format, T: Sixteen, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &[Int8Group],
    act: &ActivationBlock,
    mut sum: [S::F; G],
) -> [S::F; G] {
    let groups = &groups[..G];
    let mut total = [s.splat_i(0); G];
    for c in 0..SPAN / (4 * CHUNK_LINES) {
        for g in 0..G {
            let lines = F::chunk(s, tiles[g], c);
            for sub in 0..4 * CHUNK_LINES / F::SUB {
                let scale = s.load_i(&groups[g].scales[c * 4 * CHUNK_LINES / F::SUB + sub]);
                let dot = dot::<S, F>(s, &lines, c, sub, act);
                total[g] = s.add_i(total[g], s.mul_i(dot, scale));
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
                let dot = s.to_f(dot::<S, F>(s, &lines, c, sub, act));
                total[g] = s.fma(dot, scale, total[g]);
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

/// The integer sum of sub-block `sub` of chunk `c`.
#[inline(always)]
fn dot<S: Simd, F: Format>(
    s: S,
    lines: &[S::I; CHUNK_LINES],
    c: usize,
    sub: usize,
    act: &ActivationBlock,
) -> S::I {
    let n = F::SUB / 4;
    let start = if F::OFFSET == 0 { 0 } else { act.start[c * CHUNK_LINES / n + sub] };
    let mut dot = s.splat_i(start);
    let words = &act.words[c * CHUNK_LINES..][..CHUNK_LINES];
    for line in sub * n..(sub + 1) * n {
        let a = s.splat_i(words[line]);
        dot = if F::WIDE {
            s.dot::<true>(dot, lines[line], a)
        } else {
            s.dot::<false>(dot, lines[line], a)
        };
    }
    dot
}
