//! One or two activations with interleaved rows: bytes go from the stream of weights through
//! registers into the sums, and nothing is unpacked to memory but the scales.

use super::activations::ActivationBlock;
use super::sweep::add_block;
use super::{CHUNK_LINES, Format, Int8Group, Int8Piece, SPAN, Scales};
use crate::matmul::{PANEL_GROUPS, Scratch};
use crate::simd::{LANES, Simd, Sixteen, Stream};

/// The same sums in the same order as a sweep over unpacked groups.
#[inline(always)]
pub(super) fn run<S: Simd, F: Format>(s: S, work: &Int8Piece<'_, F>) {
    if work.piece.acts.len() == 1 {
        run_with::<S, F, 1>(s, work);
    } else {
        run_with::<S, F, 2>(s, work);
    }
}

#[inline(always)]
fn run_with<S: Simd, F: Format, const M: usize>(s: S, work: &Int8Piece<'_, F>) {
    let Int8Piece { job, piece, out, .. } = work;
    assert_eq!(piece.acts.len(), M);
    let mut own = Scratch::take();
    let scratch = &mut *own;
    let sums = scratch.sums.zeroed(M * PANEL_GROUPS);
    let n_groups = piece.rows.len().div_ceil(LANES);
    let mut g = 0;
    while g < n_groups {
        let groups = &mut scratch.int8[..];
        let sums = &mut sums[g..];
        g += match n_groups - g {
            4.. => side_by_side::<S, F, M, 4>(s, work, g, groups, sums),
            2.. => side_by_side::<S, F, M, 2>(s, work, g, groups, sums),
            _ => side_by_side::<S, F, M, 1>(s, work, g, groups, sums),
        };
    }
    job.store(piece, sums, out);
    own.give_back();
}

/// `G` groups from `first` on take turns, 64 of k each: several streams of memory keep more requests
/// under way than one. Returns `G`.
#[inline(always)]
fn side_by_side<S: Simd, F: Format, const M: usize, const G: usize>(
    s: S,
    work: &Int8Piece<'_, F>,
    first: usize,
    groups: &mut [Int8Group],
    sums: &mut [[f32; LANES]],
) -> usize {
    let Int8Piece { job, acts, piece, .. } = work;
    let (len, size) = (F::DTYPE.block_len(), F::DTYPE.block_bytes());
    let mut sum = [[s.splat_f(0.0); M]; G];
    for (k0, acts) in (0..job.cols).step_by(SPAN).zip(acts.spans()) {
        let span = SPAN.min(job.cols - k0);
        let (at, bytes) = (k0 / len * size, span / len * size);
        let acts = &acts[piece.acts.clone()];
        let row = piece.rows.start + first * LANES;
        // Words are of four bytes, sizes of blocks even.
        sum = if at % 4 == 0 {
            let mut streams = [Stream::<'_, false>::new(job.source.lines(row, at), bytes); G];
            for g in 1..G {
                streams[g] = Stream::new(job.source.lines(row + g * LANES, at), bytes);
            }
            one_span::<S, F, _, M, G>(s, streams, groups, span, acts, sum)
        } else {
            let mut streams = [Stream::<'_, true>::new(job.source.lines(row, at), bytes); G];
            for g in 1..G {
                streams[g] = Stream::new(job.source.lines(row + g * LANES, at), bytes);
            }
            one_span::<S, F, _, M, G>(s, streams, groups, span, acts, sum)
        };
    }
    for i in 0..M {
        for g in 0..G {
            s.store_f(sum[g][i], &mut sums[i * PANEL_GROUPS + g]);
        }
    }
    G
}

#[inline(always)]
fn one_span<S: Simd, F: Format, T: Sixteen, const M: usize, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &mut [Int8Group],
    span: usize,
    acts: &[ActivationBlock],
    sum: [[S::F; M]; G],
) -> [[S::F; M]; G] {
    for g in 0..G {
        F::scales(s, tiles[g], &mut groups[g]);
    }
    match F::SCALES {
        Scales::Integer => integer_span::<S, F, T, M, G>(s, tiles, groups, acts, sum),
        _ => float_span::<S, F, T, M, G>(s, tiles, groups, span, acts, sum),
    }
}

#[inline(always)]
fn integer_span<S: Simd, F: Format, T: Sixteen, const M: usize, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &[Int8Group],
    acts: &[ActivationBlock],
    mut sum: [[S::F; M]; G],
) -> [[S::F; M]; G] {
    let (groups, acts) = (&groups[..G], &acts[..M]);
    let mut total = [[s.splat_i(0); M]; G];
    for c in 0..SPAN / (4 * CHUNK_LINES) {
        for g in 0..G {
            let lines = F::chunk(s, tiles[g], c);
            for sub in 0..4 * CHUNK_LINES / F::SUB {
                let scale = s.load_i(&groups[g].scales[c * 4 * CHUNK_LINES / F::SUB + sub]);
                for i in 0..M {
                    let dot = dot::<S, F>(s, &lines, c, sub, &acts[i]);
                    total[g][i] = s.add_i(total[g][i], s.mul_i(dot, scale));
                }
            }
        }
    }
    for g in 0..G {
        for i in 0..M {
            sum[g][i] = add_block::<S, F>(s, &groups[g], total[g][i], &acts[i], sum[g][i]);
        }
    }
    sum
}

#[inline(always)]
fn float_span<S: Simd, F: Format, T: Sixteen, const M: usize, const G: usize>(
    s: S,
    tiles: [T; G],
    groups: &[Int8Group],
    span: usize,
    acts: &[ActivationBlock],
    mut sum: [[S::F; M]; G],
) -> [[S::F; M]; G] {
    let (groups, acts) = (&groups[..G], &acts[..M]);
    let per_32 = F::SCALES == Scales::PerBlock32;
    let mut total = [[s.splat_f(0.0); M]; G];
    for c in 0..span.div_ceil(4 * CHUNK_LINES) {
        for g in 0..G {
            let lines = F::chunk(s, tiles[g], c);
            for sub in 0..4 * CHUNK_LINES / F::SUB {
                let at = c * 4 * CHUNK_LINES / F::SUB + sub;
                if (at + 1) * F::SUB > span {
                    break;
                }
                let scale = s.as_f(s.load_i(&groups[g].scales[at]));
                for i in 0..M {
                    let dot = s.to_f(dot::<S, F>(s, &lines, c, sub, &acts[i]));
                    let scale = if per_32 {
                        s.mul(scale, s.splat_f(acts[i].scale[at * F::SUB / 32]))
                    } else {
                        scale
                    };
                    total[g][i] = s.fma(dot, scale, total[g][i]);
                    if F::MIN {
                        let min = s.as_f(s.load_i(&groups[g].mins[at]));
                        total[g][i] = s.fma(min, s.splat_f(acts[i].sum[at]), total[g][i]);
                    }
                }
            }
        }
    }
    for g in 0..G {
        for i in 0..M {
            sum[g][i] = if per_32 {
                s.add(total[g][i], sum[g][i])
            } else {
                s.fma(total[g][i], s.splat_f(acts[i].scale[0]), sum[g][i])
            };
        }
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
