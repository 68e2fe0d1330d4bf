//! Activations rounded to int8: `x = scale * q`, `scale = max|x| / 127`, ties to even.

use super::{Format, SPAN, Scales, TILED, sums};
use crate::ThreadPool;
use crate::matmul::{DisjointMut, Job};
#[cfg(target_arch = "x86_64")]
use crate::simd::{CACHE_LINE, prefetch};
use crate::simd::{LANES, Op, Simd, dispatch};
use bytemuck::Zeroable;

/// 256 activations of one row.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct ActivationBlock {
    /// Four int8 a word, in the order of memory.
    pub(super) words: [i32; SPAN / 4],
    /// For each sub-block, where its integer sum starts: minus the offset times the sum of `q`. If the sum forms
    /// in 16 bits, of the first two of each four `q` and of the others in 16 bits each.
    pub(super) start: [i32; 16],
    /// For each sub-block the sum of `q`, times its scale if scales are per 32.
    pub(super) sum: [f32; 16],
    /// The sums of two sub-blocks, in 16 bits each.
    pub(super) pairs: [i32; 8],
    /// For each 32, or the first for all 256.
    pub(super) scale: [f32; SPAN / 32],
}

impl ActivationBlock {
    /// Asks for what tiles read of it to be brought to the second-level cache.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn prefetch(&self) {
        let start = std::ptr::from_ref(self).cast::<u8>();
        for at in Self::FOR_TILES {
            prefetch(start.wrapping_add(at));
        }
    }

    /// Where the cache lines begin that tiles read: the words, then pairs and scales.
    #[cfg(target_arch = "x86_64")]
    const FOR_TILES: [usize; 5] =
        [0, CACHE_LINE, 2 * CACHE_LINE, 3 * CACHE_LINE, std::mem::offset_of!(Self, pairs)];
}

/// What a format takes activations as.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::matmul) struct Rounding {
    /// A scale for each 32 of k, or one for 256.
    per_32: bool,
    /// k of a sub-block: 32 or 16.
    sub: usize,
    /// What is taken from the weight's bytes.
    offset: i32,
    /// Whether sums may form in 16 bits.
    pairs: bool,
}

impl Rounding {
    pub(super) fn of<F: Format>() -> Self {
        Rounding {
            per_32: F::SCALES == Scales::PerBlock32,
            sub: F::SUB,
            offset: F::OFFSET,
            pairs: sums::lines_in_16_bits::<F>() != 0,
        }
    }
}

/// All activations of a product, rounded.
#[derive(Default)]
pub(in crate::matmul) struct Quantized {
    /// `[span][activation]`, the activations filled up with zeros to a multiple of 16.
    blocks: Vec<ActivationBlock>,
    padded: usize,
}

impl Quantized {
    /// Span after span: a block for each activation and those that fill up.
    pub(super) fn spans(&self) -> std::slice::ChunksExact<'_, ActivationBlock> {
        self.blocks.chunks_exact(self.padded)
    }

    /// One of them.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn span(&self, i: usize) -> &[ActivationBlock] {
        &self.blocks[i * self.padded..][..self.padded]
    }

    /// Rounds all activations of a product.
    pub(in crate::matmul) fn fill(&mut self, pool: &ThreadPool, job: &Job<'_>, rounding: Rounding) {
        let spans = job.cols.div_ceil(SPAN);
        // Only tiles need whole sixteens.
        let padded = if job.m < TILED { job.m } else { job.m.next_multiple_of(LANES) };
        self.padded = padded;
        self.blocks.resize(spans * padded, ActivationBlock::zeroed());
        for span in self.blocks.chunks_exact_mut(padded.max(1)) {
            span[job.m..].fill(ActivationBlock::zeroed());
        }
        let out = &DisjointMut::new(&mut self.blocks);
        // A few rows a chunk: a row is some microseconds at most.
        let rows = 8;
        pool.run(job.m.div_ceil(rows), |chunk| {
            for i in chunk * rows..job.m.min((chunk + 1) * rows) {
                let x = &job.x[i * job.cols..][..job.cols];
                dispatch(job.isa, RoundRow { x, rounding, i, padded, out });
            }
        });
    }
}

/// Rounds row `i`, block `b` of which is `out[b * padded + i]`.
struct RoundRow<'a> {
    x: &'a [f32],
    rounding: Rounding,
    i: usize,
    padded: usize,
    out: &'a DisjointMut<'a, ActivationBlock>,
}

impl Op for RoundRow<'_> {
    type Output = ();
    const DOTS: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let RoundRow { x, rounding, i, padded, out } = self;
        for (b, x) in x.chunks(SPAN).enumerate() {
            let at = b * padded + i;
            // SAFETY: only this call writes block `b` of row `i`.
            let out = unsafe { &mut out.slice_mut(at..at + 1)[0] };
            let mut padded = [0.0; SPAN];
            let x = <&[f32; SPAN]>::try_from(x).unwrap_or_else(|_| {
                padded[..x.len()].copy_from_slice(x);
                &padded
            });
            match (rounding.per_32, rounding.sub) {
                (true, 32) => round_block::<S, 32, 32>(s, x, rounding, out),
                (true, _) => round_block::<S, 32, 16>(s, x, rounding, out),
                (false, 32) => round_block::<S, SPAN, 32>(s, x, rounding, out),
                (false, _) => round_block::<S, SPAN, 16>(s, x, rounding, out),
            }
        }
    }
}

/// Rounds a block with a scale for each `STEP` and sums of each `SUB`.
#[inline(always)]
fn round_block<S: Simd, const STEP: usize, const SUB: usize>(
    s: S,
    x: &[f32; SPAN],
    rounding: Rounding,
    out: &mut ActivationBlock,
) {
    let q: &mut [u8] = bytemuck::cast_slice_mut(&mut out.words);
    out.scale = [0.0; SPAN / 32];
    let steps = x.as_chunks::<STEP>().0.iter().zip(q.as_chunks_mut::<STEP>().0);
    for ((x, q), scale) in steps.zip(&mut out.scale) {
        *scale = round_span(s, x, q);
    }
    let totals = sums_of::<S, SUB>(s, q, 0x0101_0101);
    let offset = rounding.offset;
    out.start = if S::PAIRS && rounding.pairs {
        let mut start = sums_of::<S, SUB>(s, q, 0x0000_0101);
        for (low, total) in start.iter_mut().zip(&totals) {
            let high = -offset * (total - *low);
            *low = ((-offset * *low) & 0xffff) | (high << 16);
        }
        start
    } else {
        totals.map(|sum| -offset * sum)
    };
    for (i, sum) in totals.into_iter().enumerate() {
        let scale = if STEP == 32 { out.scale[i * SUB / 32 % (SPAN / 32)] } else { 1.0 };
        out.sum[i] = scale * sum as f32;
    }
    for (pair, sums) in out.pairs.iter_mut().zip(totals.as_chunks::<2>().0) {
        *pair = (sums[0] & 0xffff) | sums[1] << 16;
    }
}

/// The sums of each `SUB` of `q`, of those of each four that have a one in `which`.
#[inline(always)]
fn sums_of<S: Simd, const SUB: usize>(s: S, q: &[u8], which: i32) -> [i32; 16] {
    // Of each 64 bytes sixteen sums.
    let mut sums = [0i32; SPAN / 4];
    for (sums, line) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(q.as_chunks().0) {
        let dots = s.dot::<false>(s.splat_i(0), s.splat_i(which), s.load_i(line));
        s.store_i(dots, bytemuck::cast_mut(sums));
    }
    let mut totals = [0i32; 16];
    for (total, sums) in totals.iter_mut().zip(sums.chunks_exact(SUB / 4)) {
        *total = sums.iter().sum();
    }
    totals
}

/// Rounds `x` to the bytes `q` with one scale, which it returns: NaN if an element is not finite.
#[inline(always)]
fn round_span<S: Simd, const N: usize>(s: S, x: &[f32; N], q: &mut [u8; N]) -> f32 {
    q.fill(0);
    let mut largest = s.splat_i(0);
    for x in x.as_chunks().0 {
        // Non-negative floats compare as their bits, NaN above infinity.
        largest = s.max_i(largest, s.and(s.as_i(s.load_f(x)), s.splat_i(0x7fff_ffff)));
    }
    let largest = f32::from_bits(s.largest(largest) as u32);
    if !largest.is_finite() {
        return f32::NAN;
    }
    let inverse = 127.0 / largest;
    if !inverse.is_finite() {
        return 0.0; // all zero, or too small for any weight to matter
    }
    for (x, q) in x.as_chunks().0.iter().zip(q.as_chunks_mut().0) {
        s.store_bytes(s.to_i(s.mul(s.load_f(x), s.splat_f(inverse))), q);
    }
    largest / 127.0
}
