//! MXFP4 and NVFP4: elements in E2M1 (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives), a power of
//! two for each 32 (OCP Microscaling Formats 1.0) or an 8-bit float for each 16.
//!
//! As in GGML the code book holds twice the E2M1 values and the scales half of theirs. NVFP4's
//! scale of the whole tensor is a tensor of its own in a file and not applied here.

use bytemuck::{Pod, Zeroable};

use crate::legacy::{nibbles, pack_nibbles};
use crate::round::{abs_max, truncate};
use crate::{Block, DType, Encode, block::check_layout};

/// Twice the E2M1 values.
pub static KVALUES_FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 elements of 4 bits: x = 2^(e - 128) * code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockMxfp4 {
    /// Scale, in E8M0.
    pub e: u8,
    /// Low nibble of byte j: element j; high nibble: element j + 16.
    pub qs: [u8; 16],
}

/// 64 elements of 4 bits in groups of 16: x = d / 2 * code.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockNvfp4 {
    /// Scales of the groups, in UE4M3.
    pub d: [u8; 4],
    /// Byte 8 g + j: elements 16 g + j (low nibble) and 16 g + 8 + j (high nibble).
    pub qs: [u8; 32],
}

check_layout!(BlockMxfp4, BlockNvfp4);

/// Half of the E8M0 number: 2^(e - 128). 255, the format's NaN, is read as 2^127 as GGML does.
#[inline(always)]
pub fn e8m0_half(e: u8) -> f32 {
    // 2^-128 and 2^-127 are subnormal.
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}

/// Half of the UE4M3 number: 4 bits of exponent (bias 7), 3 of mantissa. The highest bit counts for
/// nothing, save that 0x7f, the format's NaN, is read as 0 and 0xff is not, as GGML does.
#[inline(always)]
pub fn ue4m3_half(x: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(x >> 3 & 15), f32::from(x & 7));
    match (x, exponent) {
        (0x7f, _) => 0.0,
        (_, 0) => mantissa * (1.0 / 1024.0),
        _ => (1.0 + mantissa / 8.0) * f32::from_bits(((exponent - 8 + 127) as u32) << 23),
    }
}

/// The UE4M3 number next to x, halves up; 448 (0x7e) at most, 0 for anything not positive.
#[inline(always)]
pub fn to_ue4m3(x: f32) -> u8 {
    if x.is_nan() || x <= 0.0 {
        return 0;
    }
    let bits = x.min(448.0).to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        return truncate(x * 512.0 + 0.5).min(7) as u8;
    }
    // A carry out of the mantissa raises the exponent, as it should.
    let rounded = (exponent << 3) + (bits >> 20 & 7) as i32 + (bits >> 19 & 1) as i32;
    if rounded >= 15 << 3 { 0x7e } else { rounded as u8 }
}

/// The nearest code for each x with (half) scale d, the smaller magnitude at ties.
#[inline(always)]
fn nearest_codes<const N: usize>(x: &[f32; N], d: f32) -> [u8; N] {
    // Midpoints between neighbours of the code book; a power of two times them is exact.
    const MIDPOINTS: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    if d == 0.0 {
        return [0; N];
    }
    let mut codes = [0u32; N];
    for midpoint in MIDPOINTS.map(|m| m * d) {
        for i in 0..N {
            codes[i] += u32::from(x[i].abs() > midpoint);
        }
    }
    let mut signed = [0; N];
    for i in 0..N {
        let negative = x[i].to_bits() >> 31 & u32::from(codes[i] > 0);
        signed[i] = (codes[i] | negative << 3) as u8;
    }
    signed
}

impl Block for BlockMxfp4 {
    const DTYPE: DType = DType::MXFP4;
    const LEN: usize = 32;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 32] = out.try_into().expect("as long as a block");
        let d = e8m0_half(self.e);
        for (x, code) in out.iter_mut().zip(nibbles(&self.qs)) {
            *x = f32::from(KVALUES_FP4[usize::from(code)]) * d;
        }
    }
}

impl Encode for BlockMxfp4 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 32, "as long as the blocks");
        for (block, x) in out.iter_mut().zip(x.as_chunks::<32>().0) {
            let max = abs_max(x);
            // The single-precision logarithm rounds to a whole number just below a power of two.
            let e = if max > 0.0 { truncate(max.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
            *block = Self { e, qs: pack_nibbles(&nearest_codes(x, e8m0_half(e))) };
        }
    }
}

impl Block for BlockNvfp4 {
    const DTYPE: DType = DType::NVFP4;
    const LEN: usize = 64;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 64] = out.try_into().expect("as long as a block");
        for ((out, d), qs) in out.chunks_exact_mut(16).zip(self.d).zip(self.qs.chunks_exact(8)) {
            let d = ue4m3_half(d);
            for (j, x) in out.iter_mut().enumerate() {
                let code = qs[j % 8] >> (j / 8 * 4) & 15;
                *x = f32::from(KVALUES_FP4[usize::from(code)]) * d;
            }
        }
    }
}

impl Encode for BlockNvfp4 {
    /// The importance changes nothing: the largest magnitude of a group alone sets its scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 64, "as long as the blocks");
        for (block, x) in out.iter_mut().zip(x.chunks_exact(64)) {
            for (g, x) in x.as_chunks::<16>().0.iter().enumerate() {
                let d = to_ue4m3(abs_max(x) / 6.0);
                let codes = nearest_codes(x, ue4m3_half(d));
                block.d[g] = d;
                for j in 0..8 {
                    block.qs[8 * g + j] = codes[j] | codes[j + 8] << 4;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_at_the_edges() {
        assert_eq!(e8m0_half(0), 2f32.powi(-128));
        assert_eq!(e8m0_half(1), 2f32.powi(-127));
        assert_eq!(e8m0_half(2), 2f32.powi(-126));
        assert_eq!(e8m0_half(128), 1.0);
        assert_eq!(e8m0_half(255), 2f32.powi(127));
        assert_eq!(
            [0, 0x7f, 1, 7, 8, 0x38, 0x7e, 0xff].map(ue4m3_half),
            [0.0, 0.0, 2f32.powi(-10), 7.0 * 2f32.powi(-10), 2f32.powi(-7), 0.5, 224.0, 240.0]
        );
    }

    #[test]
    fn every_finite_ue4m3_encodes_to_itself_below_the_reserved_exponent() {
        for x in 0..0x78 {
            assert_eq!(to_ue4m3(2.0 * ue4m3_half(x)), x);
        }
        assert_eq!(to_ue4m3(f32::INFINITY), 0x7e);
        assert_eq!(to_ue4m3(f32::NAN), 0);
        assert_eq!(to_ue4m3(-1.0), 0);
    }
}
