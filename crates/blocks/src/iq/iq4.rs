//! IQ4_NL and IQ4_XS: 4-bit codes for 16 unevenly spaced values.

use bytemuck::{Pod, Zeroable};

use super::chunk;
use crate::fit::TINY;
use crate::legacy::{nibbles, pack_nibbles};
use crate::round::{nearest_int, reciprocal, signed_max};
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
    #[inline]
    pub fn scale(&self, g: usize) -> i8 {
        let low = self.scales_l[g / 2] >> (4 * (g % 2)) & 15;
        let high = (self.scales_h.get() >> (2 * g) & 3) as u8;
        (low | high << 4) as i8 - 32
    }
}

impl Block for BlockIq4Nl {
    const DTYPE: DType = DType::IQ4_NL;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 32] = out.try_into().expect("as long as a block");
        write(out, self.d.to_f32(), &self.qs);
    }
}

impl Block for BlockIq4Xs {
    const DTYPE: DType = DType::IQ4_XS;
    const LEN: usize = 256;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (g, out) in chunk(out).as_chunks_mut::<32>().0.iter_mut().enumerate() {
            write(out, d * f32::from(self.scale(g)), &self.qs[g]);
        }
    }
}

#[inline]
fn write(out: &mut [f32; 32], scale: f32, qs: &[u8; 16]) {
    for (x, q) in out.iter_mut().zip(nibbles(qs)) {
        *x = scale * f32::from(KVALUES_IQ4NL[usize::from(q)]);
    }
}

/// The nearest code for every half-integer from -128 to 128: two neighbours' midpoint is one, so
/// that rounding down to a half-integer loses nothing.
static CODES: [u8; 513] = {
    let mut codes = [0; 513];
    let mut i = 0;
    while i < 513 {
        let doubled = i as i32 - 256;
        let mut code = 0;
        while code < 15 && doubled >= KVALUES_IQ4NL[code] as i32 + KVALUES_IQ4NL[code + 1] as i32 {
            code += 1;
        }
        codes[i] = code as u8;
        i += 1;
    }
    codes
};

/// The code whose value is nearest to x, the larger at ties.
#[inline]
fn nearest_code(x: f32) -> u8 {
    let doubled = x + x;
    let towards_zero = doubled as i32;
    let down = towards_zero.saturating_sub(i32::from(towards_zero as f32 > doubled));
    CODES[(down.clamp(-256, 256) + 256) as usize]
}

/// The scale of 32 elements: of the roundings for which the value of largest magnitude becomes
/// -127 + i, i in -7..=7, and of that for which it becomes 127, the one of least weighted error.
fn fit(x: &[f32; 32], weights: &[f32; 32]) -> f32 {
    let max = signed_max(x);
    if max.abs() < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut qx, mut q2) = (0.0f32, 0.0f32);
        for (x, w) in x.iter().zip(weights) {
            let q = f32::from(KVALUES_IQ4NL[usize::from(nearest_code(inverse * x))]);
            qx += w * q * x;
            q2 += w * q * q;
        }
        (qx, q2)
    };
    let lowest = f32::from(KVALUES_IQ4NL[0]);
    let (qx, q2) = sums(1.0 / (-max / lowest));
    let mut d = if q2 > 0.0 { qx / q2 } else { 0.0 };
    let mut best = d * qx;
    for i in -7i8..=7 {
        let (qx, q2) = sums((f32::from(i) + lowest) / max);
        if q2 > 0.0 && qx * qx > best * q2 {
            d = qx / q2;
            best = d * qx;
        }
    }
    d
}

/// The weights of 32 elements: x^2, or importance * sqrt(twice the block's mean square + x^2).
fn weights(x: &[f32; 32], importance: Option<&[f32]>, sigma2: f32) -> [f32; 32] {
    std::array::from_fn(|j| match importance {
        None => x[j] * x[j],
        Some(w) => w[j] * (sigma2 + x[j] * x[j]).sqrt(),
    })
}

/// Twice the mean square of a block.
fn sigma2(x: &[f32]) -> f32 {
    x.iter().fold(0.0f32, |s, v| s + v * v) * (2.0 / x.len() as f32)
}

impl Encode for BlockIq4Nl {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 32, "as long as the blocks");
        for (i, (block, x)) in out.iter_mut().zip(x.as_chunks::<32>().0).enumerate() {
            let importance = importance.map(|w| &w[32 * i..][..32]);
            let d = fit(x, &weights(x, importance, sigma2(x)));
            let id = reciprocal(d);
            *block =
                Self { d: Half::from_f32(d), qs: pack_nibbles(&x.map(|v| nearest_code(id * v))) };
        }
    }
}

impl Encode for BlockIq4Xs {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 256, "as long as the blocks");
        for (i, (block, x)) in out.iter_mut().zip(x.chunks_exact(256)).enumerate() {
            let importance = importance.map(|w| &w[256 * i..][..256]);
            let sigma2 = sigma2(x);
            let groups = x.as_chunks::<32>().0;
            let scales: [f32; 8] = std::array::from_fn(|g| {
                let importance = importance.map(|w| &w[32 * g..][..32]);
                fit(&groups[g], &weights(&groups[g], importance, sigma2))
            });
            let d = -signed_max(&scales) / 32.0;
            let id = reciprocal(d);
            let (mut scales_h, mut scales_l) = (0u16, [0u8; 4]);
            for g in 0..8 {
                let scale = nearest_int(id * scales[g]).clamp(-32, 31);
                let inverse = reciprocal(d * scale as f32);
                block.qs[g] = pack_nibbles(&groups[g].map(|v| nearest_code(inverse * v)));
                let scale = (scale + 32) as u16;
                scales_l[g / 2] |= (scale as u8 & 15) << (4 * (g % 2));
                scales_h |= (scale >> 4) << (2 * g);
            }
            (block.d, block.scales_h, block.scales_l) =
                (Half::from_f32(d), Word::new(scales_h), scales_l);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
