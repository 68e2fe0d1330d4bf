//! Activations rounded to int8: `x = scale * q`, `scale = max|x| / 127`, ties to even.

use super::{Format, SPAN, Scales};
use crate::ThreadPool;
use crate::matmul::{DisjointMut, Job};
#[cfg(target_arch = "x86_64")]
use crate::simd::{CACHE_LINE, prefetch};
use crate::simd::{LANES, Op, Simd, dispatch};
use bytemuck::Zeroable;
use std::cell::Cell;
use std::marker::PhantomData;

/// 256 activations of one row.
#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct ActivationBlock {
    /// Four int8 a word, in the order of memory.
    pub(super) words: [i32; SPAN / 4],
    /// For each sub-block, where its integer sum starts: minus the offset times the sum of `q`.
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

/// All activations of a product, rounded.
pub(super) struct Quantized {
    /// `[span][activation]`, the activations filled up with zeros to a multiple of 16.
    blocks: Vec<ActivationBlock>,
    padded: usize,
}

thread_local! {
    /// The memory of the last product's blocks: fresh pages would cost more than the rounding.
    static KEPT: Cell<Vec<ActivationBlock>> = const { Cell::new(Vec::new()) };
}

impl Drop for Quantized {
    fn drop(&mut self) {
        KEPT.set(std::mem::take(&mut self.blocks));
    }
}

impl Quantized {
    /// Span after span: a block for each activation and those that fill up.
    pub(super) fn spans(&self) -> std::slice::ChunksExact<'_, ActivationBlock> {
        self.blocks.chunks_exact(self.padded)
    }
}

/// Rounds all activations.
pub(super) fn quantize<F: Format>(pool: &ThreadPool, job: &Job<'_>) -> Quantized {
    let spans = job.cols.div_ceil(SPAN);
    // Only tiles need whole sixteens.
    let padded = if job.m < LANES { job.m } else { job.m.next_multiple_of(LANES) };
    let mut blocks = KEPT.take();
    blocks.resize(spans * padded, ActivationBlock::zeroed());
    for span in blocks.chunks_exact_mut(padded.max(1)) {
        span[job.m..].fill(ActivationBlock::zeroed());
    }
    let out = &DisjointMut::new(&mut blocks);
    // A few rows a chunk: a row is some microseconds at most.
    let rows = 8;
    pool.run(job.m.div_ceil(rows), |chunk| {
        for i in chunk * rows..job.m.min((chunk + 1) * rows) {
            let x = &job.x[i * job.cols..][..job.cols];
            for (b, x) in x.chunks(SPAN).enumerate() {
                let at = b * padded + i;
                // SAFETY: only this chunk writes block `b` of row `i`.
                let block = unsafe { &mut out.slice_mut(at..at + 1)[0] };
                dispatch(job.isa, QuantizeBlock { x, out: block, format: PhantomData::<F> });
            }
        }
    });
    Quantized { blocks, padded }
}

struct QuantizeBlock<'a, F> {
    x: &'a [f32],
    out: &'a mut ActivationBlock,
    format: PhantomData<F>,
}

impl<F: Format> Op for QuantizeBlock<'_, F> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let QuantizeBlock { x, out, .. } = self;
        let per_32 = F::SCALES == Scales::PerBlock32;
        let mut q = [0i8; SPAN];
        out.scale = [0.0; SPAN / 32];
        let step = if per_32 { 32 } else { SPAN };
        for ((x, q), scale) in x.chunks(step).zip(q.chunks_mut(step)).zip(&mut out.scale) {
            *scale = round_span(x, &mut q[..x.len()]);
        }
        for (word, q) in out.words.iter_mut().zip(q.as_chunks::<4>().0) {
            *word = i32::from_ne_bytes(q.map(|q| q as u8));
        }
        let mut sums = [0i32; 16];
        for (sum, q) in sums.iter_mut().zip(q.chunks_exact(F::SUB)) {
            *sum = q.iter().map(|&q| i32::from(q)).sum();
        }
        for (i, sum) in sums.into_iter().enumerate() {
            out.start[i] = -F::OFFSET * sum;
            let scale = if per_32 { out.scale[i * F::SUB / 32 % (SPAN / 32)] } else { 1.0 };
            out.sum[i] = scale * sum as f32;
        }
        for (pair, sums) in out.pairs.iter_mut().zip(sums.as_chunks::<2>().0) {
            *pair = (sums[0] & 0xffff) | sums[1] << 16;
        }
    }
}

/// Rounds `x` to `q` with one scale, which it returns: NaN if an element is not finite.
#[inline(always)]
fn round_span(x: &[f32], q: &mut [i8]) -> f32 {
    let mut largest = [0u32; 16];
    let (chunks, rest) = x.as_chunks::<16>();
    for chunk in chunks {
        for (largest, x) in largest.iter_mut().zip(chunk) {
            // Non-negative floats compare as their bits, NaN above infinity.
            *largest = (*largest).max(x.to_bits() & 0x7fff_ffff);
        }
    }
    for (largest, x) in largest.iter_mut().zip(rest) {
        *largest = (*largest).max(x.to_bits() & 0x7fff_ffff);
    }
    // Halves against each other, which become vectors.
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            largest[i] = largest[i].max(largest[i + half]);
        }
    }
    let largest = f32::from_bits(largest[0]);
    if !largest.is_finite() {
        return f32::NAN;
    }
    let inverse = 127.0 / largest;
    if !inverse.is_finite() {
        return 0.0; // all zero, or too small for any weight to matter
    }
    // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
    const ROUND: f32 = 12_582_912.0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits() as i8;
    }
    largest / 127.0
}
