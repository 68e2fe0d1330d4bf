//! The integer sum of a sub-block: products of bytes on their way into 32 bits.
//!
//! Where one instruction adds four products to 32 bits, they go there at once. Elsewhere an instruction leaves sums
//! of two in 16 bits, and widening those takes as long as multiplying did. So the sum stays in 16 bits for as
//! many lines as fit there, and the instruction that widens it multiplies by the scale as well.

use super::activations::ActivationBlock;
use super::{Format, Int8Group, Scales};
use crate::simd::Simd;

/// Lines whose products may be summed in 16 bits: all of a sub-block, fewer, or 0 where there is no gain.
///
/// Sums wrap, so that only what they come to has to fit: with the offset taken off, which is paid by their start,
/// and so only if all lines are summed at once.
pub(super) const fn lines_in_16_bits<F: Format>() -> usize {
    let (lines, most) = (F::SUB / 4, i16::MAX as usize / 127);
    let above = F::LARGEST - F::OFFSET;
    let largest = if above > F::OFFSET { above } else { F::OFFSET } as usize;
    // Of the four products of a line, two meet in each half of a lane.
    let fit = most / (2 * largest);
    match F::OFFSET {
        _ if F::WIDE => 0,
        _ if fit >= lines => lines,
        0 => fit,
        _ => 0,
    }
}

/// Whether sums of the two formats are formed alike, from bytes that are unpacked.
pub(super) const fn alike<A: Format, B: Format>() -> bool {
    A::SUB == B::SUB
        && matches!(A::SCALES, Scales::Integer) == matches!(B::SCALES, Scales::Integer)
        && A::MIN == B::MIN
        && A::WIDE == B::WIDE
        && (A::OFFSET == 0) == (B::OFFSET == 0)
        && lines_in_16_bits::<A>() == lines_in_16_bits::<B>()
}

/// Whether this format's sums form in 16 bits here.
pub(super) const fn by_pairs<S: Simd, F: Format>() -> bool {
    S::PAIRS && lines_in_16_bits::<F>() != 0
}

/// Lines that are summed before [`widen`].
pub(super) const fn lines<S: Simd, F: Format>() -> usize {
    if by_pairs::<S, F>() { lines_in_16_bits::<F>() } else { F::SUB / 4 }
}

/// Where the sum of the lines from `first` on of sub-block `sub` starts.
#[inline(always)]
pub(super) fn start<S: Simd, F: Format>(
    s: S,
    act: &ActivationBlock,
    sub: usize,
    first: usize,
) -> S::I {
    const { assert!(!F::WIDE || F::OFFSET == 128) };
    let paid = F::OFFSET == 0 || F::WIDE && S::SIGNED || first > 0;
    s.splat_i(if paid { 0 } else { act.start[sub] })
}

/// Adds the products of a line with four activations.
#[inline(always)]
pub(super) fn add_line<S: Simd, F: Format>(s: S, sums: S::I, w: S::I, a: S::I) -> S::I {
    if by_pairs::<S, F>() {
        s.add_pairs(sums, w, a)
    } else if F::WIDE {
        s.dot::<true>(sums, w, a)
    } else {
        s.dot::<false>(sums, w, a)
    }
}

/// What [`widen`] multiplies the sums of sub-block `sub` by.
#[inline(always)]
pub(super) fn factor<S: Simd, F: Format>(s: S, group: &Int8Group, sub: usize) -> S::I {
    match (F::SCALES, by_pairs::<S, F>()) {
        (Scales::Integer, true) => s.twice(s.load_i(&group.scales[sub])),
        (Scales::Integer, false) => s.load_i(&group.scales[sub]),
        (Scales::PerBlock32, true) => s.splat_i(0x0001_0001),
        (Scales::PerBlock32, false) => s.splat_i(1),
    }
}

/// `total` plus sums times their factor.
#[inline(always)]
pub(super) fn widen<S: Simd, F: Format>(s: S, total: S::I, sums: S::I, factor: S::I) -> S::I {
    match (F::SCALES, by_pairs::<S, F>()) {
        (_, true) => s.dot_16(total, sums, factor),
        (Scales::Integer, false) => s.add_i(total, s.mul_i(sums, factor)),
        (Scales::PerBlock32, false) => s.add_i(total, sums),
    }
}
