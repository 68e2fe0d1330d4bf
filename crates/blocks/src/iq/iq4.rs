//! IQ4_NL and IQ4_XS: 4-bit codes for 16 unevenly spaced values.

use bytemuck::{Pod, Zeroable};

use super::chunk;
use crate::fit::TINY;
use crate::lanes::{LANES, Lane, Lanes, each, map, mask, replace, signed_maxima, transpose};
use crate::legacy::{nibbles, pack_nibbles};
use crate::round::{ROUND, nearest_int, reciprocal, signed_max};
use crate::{Block, DType, Encode, Half, Word, block::check_layout};

/// The values of the codes.
pub static KVALUES_IQ4NL: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 elements of 4 bits: x = d * value.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq4Nl {
    /// Scale.
    pub d: Half,
    /// Low nibble of byte j: element j; high nibble: element j + 16.
    pub qs: [u8; 16],
}

/// 256 elements of 4 bits: x = d * (scale - 32) * value, groups of 32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq4Xs {
    /// Scale of the scales.
    pub d: Half,
    /// The high 2 bits of the scales.
    pub scales_h: Word,
    /// The low 4 bits of the scales, two a byte.
    pub scales_l: [u8; 4],
    /// Of each group, as in [`BlockIq4Nl`].
    pub qs: [[u8; 16]; 8],
}

check_layout!(BlockIq4Nl, BlockIq4Xs);

impl BlockIq4Xs {
    /// The scale of group g, -32..=31.
    #[inline(always)]
    pub fn scale(&self, g: usize) -> i8 {
        let low = self.scales_l[g / 2] >> (4 * (g % 2)) & 15;
        let high = (self.scales_h.get() >> (2 * g) & 3) as u8;
        (low | high << 4) as i8 - 32
    }
}

impl Block for BlockIq4Nl {
    const DTYPE: DType = DType::IQ4_NL;
    const LEN: usize = 32;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 32] = out.try_into().expect("as long as a block");
        write(out, self.d.to_f32(), &self.qs);
    }
}

impl Block for BlockIq4Xs {
    const DTYPE: DType = DType::IQ4_XS;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (g, out) in chunk(out).as_chunks_mut::<32>().0.iter_mut().enumerate() {
            write(out, d * f32::from(self.scale(g)), &self.qs[g]);
        }
    }
}

#[inline(always)]
fn write(out: &mut [f32; 32], scale: f32, qs: &[u8; 16]) {
    for (x, q) in out.iter_mut().zip(nibbles(qs)) {
        *x = scale * f32::from(KVALUES_IQ4NL[usize::from(q)]);
    }
}

/// The nearest code for every half-integer h from -128 to 128, at 2 h modulo 1024: two neighbours'
/// midpoint is one, so that rounding down to a half-integer loses nothing.
static CODES: [u8; 1024] = {
    let mut codes = [0; 1024];
    let mut doubled = -256i32;
    while doubled <= 256 {
        let mut code = 0;
        while code < 15 && doubled >= KVALUES_IQ4NL[code] as i32 + KVALUES_IQ4NL[code + 1] as i32 {
            code += 1;
        }
        codes[(doubled & 1023) as usize] = code as u8;
        doubled += 1;
    }
    codes
};

/// The values of [`CODES`].
static VALUES: [f32; 1024] = {
    let mut values = [0.0; 1024];
    let mut i = 0;
    while i < 1024 {
        values[i] = KVALUES_IQ4NL[CODES[i] as usize] as f32;
        i += 1;
    }
    values
};

/// Where [`CODES`] has the code whose value is nearest to x, the larger at ties; for NaN as for 0.
#[inline(always)]
fn nearest(x: f32) -> usize {
    let doubled = x + x;
    let doubled = if doubled < -256.0 { -256.0 } else { doubled };
    let doubled = if doubled > 256.0 { 256.0 } else { doubled };
    let rounded = (doubled + ROUND) - ROUND;
    let down = if rounded > doubled { rounded - 1.0 } else { rounded };
    ((down + ROUND).to_bits() & 1023) as usize
}

/// The codes of 32 elements, packed.
#[inline(always)]
fn pack_nearest(x: &[f32; 32], inverse: f32) -> [u8; 16] {
    let mut at = [0; 32];
    for i in 0..32 {
        at[i] = nearest(inverse * x[i]);
    }
    pack_nibbles(&at.map(|at| CODES[at]))
}

/// The scale of each group of 32: of the roundings for which the value of largest magnitude becomes
/// -127 + i, i in -7..=7, and of that for which it becomes 127, the one of least weighted error.
#[inline(always)]
fn fit(x: &Lanes<f32, 32>, weights: &Lanes<f32, 32>) -> Lane<f32> {
    let max = signed_maxima(x);
    let lowest = f32::from(KVALUES_IQ4NL[0]);
    let (qx, q2) = sums(x, weights, &each(|g| 1.0 / (-max[g] / lowest)));
    let mut d = each(|g| if q2[g] > 0.0 { qx[g] / q2[g] } else { 0.0 });
    let mut best = each(|g| d[g] * qx[g]);
    for i in -7i8..=7 {
        let (qx, q2) = sums(x, weights, &each(|g| (f32::from(i) + lowest) / max[g]));
        let new = each(|g| qx[g] / q2[g]);
        let mut better = [0; LANES];
        for g in 0..LANES {
            better[g] = mask(q2[g] > 0.0) & mask(qx[g] * qx[g] > best[g] * q2[g]);
        }
        replace(&better, &mut d, &new);
        replace(&better, &mut best, &each(|g| new[g] * qx[g]));
    }
    each(|g| if max[g].abs() < TINY { 0.0 } else { d[g] })
}

/// The sums of `w q x` and `w q^2` for a rounding of each group.
#[inline(always)]
fn sums(
    x: &Lanes<f32, 32>,
    weights: &Lanes<f32, 32>,
    inverse: &Lane<f32>,
) -> (Lane<f32>, Lane<f32>) {
    let (mut qx, mut q2) = ([0.0f32; LANES], [0.0f32; LANES]);
    for (x, w) in x.iter().zip(weights) {
        let (mut at, mut q) = ([0; LANES], [0.0; LANES]);
        for g in 0..LANES {
            at[g] = nearest(inverse[g] * x[g]);
        }
        for g in 0..LANES {
            q[g] = VALUES[at[g]];
        }
        for g in 0..LANES {
            qx[g] += w[g] * q[g] * x[g];
            q2[g] += w[g] * q[g] * q[g];
        }
    }
    (qx, q2)
}

/// The scales of up to [`LANES`] groups of 32, in blocks of `block` elements. The weights are x^2,
/// or importance * sqrt(twice the block's mean square + x^2).
#[inline(always)]
fn scales(x: &[f32], importance: Option<&[f32]>, block: usize) -> Lane<f32> {
    let lanes = transpose(x);
    let weights = match importance {
        None => map(&lanes, |_, x| x * x),
        Some(importance) => {
            let mut sigma2 = [0.0; LANES];
            for (x, lanes) in x.chunks(block).zip(sigma2.chunks_mut(block / 32)) {
                lanes.fill(x.iter().fold(0.0f32, |s, v| s + v * v) * (2.0 / block as f32));
            }
            let mut weights: Lanes<f32, 32> = transpose(importance);
            for i in 0..32 {
                for g in 0..LANES {
                    weights[i][g] *= (sigma2[g] + lanes[i][g] * lanes[i][g]).sqrt();
                }
            }
            weights
        }
    };
    fit(&lanes, &weights)
}

impl Encode for BlockIq4Nl {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 32, "as long as the blocks");
        let batches = x.chunks(32 * LANES).zip(out.chunks_mut(LANES));
        for (i, (x, out)) in batches.enumerate() {
            let importance = importance.map(|w| &w[32 * LANES * i..][..x.len()]);
            let scales = scales(x, importance, 32);
            for ((block, x), d) in out.iter_mut().zip(x.as_chunks().0).zip(scales) {
                *block = Self { d: Half::from_f32(d), qs: pack_nearest(x, reciprocal(d)) };
            }
        }
    }
}

/// Blocks of IQ4_XS that fill the lanes.
const BATCH: usize = LANES / 8;

impl Encode for BlockIq4Xs {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 256, "as long as the blocks");
        let batches = x.chunks(256 * BATCH).zip(out.chunks_mut(BATCH));
        for (i, (x, out)) in batches.enumerate() {
            let importance = importance.map(|w| &w[256 * BATCH * i..][..x.len()]);
            let scales = scales(x, importance, 256);
            let blocks = out.iter_mut().zip(x.as_chunks::<256>().0);
            for ((block, x), scales) in blocks.zip(scales.as_chunks::<8>().0) {
                *block = with_scales(x, scales);
            }
        }
    }
}

/// The block whose groups have about these scales.
#[inline(always)]
fn with_scales(x: &[f32; 256], scales: &[f32; 8]) -> BlockIq4Xs {
    let d = -signed_max(scales) / 32.0;
    let id = reciprocal(d);
    let (mut scales_h, mut scales_l, mut qs) = (0u16, [0u8; 4], [[0; 16]; 8]);
    for (g, x) in x.as_chunks::<32>().0.iter().enumerate() {
        let scale = nearest_int(id * scales[g]).clamp(-32, 31);
        qs[g] = pack_nearest(x, reciprocal(d * scale as f32));
        let scale = (scale + 32) as u16;
        scales_l[g / 2] |= (scale as u8 & 15) << (4 * (g % 2));
        scales_h |= (scale >> 4) << (2 * g);
    }
    BlockIq4Xs { d: Half::from_f32(d), scales_h: Word::new(scales_h), scales_l, qs }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nearest_code(x: f32) -> u8 {
        CODES[nearest(x)]
    }

    #[test]
    fn the_nearest_code_is_the_nearest() {
        for i in -20_000..20_000 {
            let x = i as f32 / 128.0;
            let distance = |code: u8| (x - f32::from(KVALUES_IQ4NL[usize::from(code)])).abs();
            let best = (0..16).map(distance).fold(f32::MAX, f32::min);
            assert_eq!(distance(nearest_code(x)), best, "{x}");
        }
        // The midpoint of -104 and -83 is -93.5.
        assert_eq!(
            [-93.5, -93.500_01, f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(nearest_code),
            [2, 1, 8, 15, 0]
        );
    }
}
