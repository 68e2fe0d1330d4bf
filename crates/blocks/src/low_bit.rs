//! Q1_0 and Q2_0: one and two bits with one scale a block.

use bytemuck::{Pod, Zeroable};

use crate::round::{abs_max, round_away};
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 128 elements of 1 bit: x = d where the bit is set, else -d.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ1_0 {
    /// Scale.
    pub d: Half,
    /// Bit j of byte i: element 8 i + j.
    pub qs: [u8; 16],
}

/// 64 elements of 2 bits: x = d * (q - 1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ2_0 {
    /// Scale.
    pub d: Half,
    /// Byte i: elements 4 i .. 4 i + 4, from the low bits up.
    pub qs: [u8; 16],
}

check_layout!(BlockQ1_0, BlockQ2_0);

impl Block for BlockQ1_0 {
    const DTYPE: DType = DType::Q1_0;
    const LEN: usize = 128;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 128] = out.try_into().expect("as long as a block");
        let d = self.d.to_f32();
        for (i, x) in out.iter_mut().enumerate() {
            *x = if self.qs[i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
        }
    }
}

impl Encode for BlockQ1_0 {
    /// The signs, and the mean magnitude as the scale; the importance changes nothing.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 128, "as long as the blocks");
        for (block, x) in out.iter_mut().zip(x.as_chunks::<128>().0) {
            let sum = x.iter().fold(0.0f32, |s, v| s + v.abs());
            block.d = Half::from_f32(sum / 128.0);
            block.qs = std::array::from_fn(|i| {
                (0..8).fold(0, |byte, j| byte | u8::from(x[8 * i + j] >= 0.0) << j)
            });
        }
    }
}

impl Block for BlockQ2_0 {
    const DTYPE: DType = DType::Q2_0;
    const LEN: usize = 64;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let out: &mut [f32; 64] = out.try_into().expect("as long as a block");
        let d = self.d.to_f32();
        for (i, x) in out.iter_mut().enumerate() {
            *x = (i32::from(self.qs[i / 4] >> (i % 4 * 2) & 3) - 1) as f32 * d;
        }
    }
}

impl Encode for BlockQ2_0 {
    /// The largest magnitude is the scale; the importance changes nothing.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * 64, "as long as the blocks");
        for (block, x) in out.iter_mut().zip(x.as_chunks::<64>().0) {
            let d = abs_max(x);
            let id = if d > 0.0 { 1.0 / d } else { 0.0 };
            let q = x.map(|v| round_away(v * id).wrapping_add(1).clamp(0, 3) as u8);
            block.d = Half::from_f32(d);
            block.qs =
                std::array::from_fn(|i| (0..4).fold(0, |byte, j| byte | q[4 * i + j] << (2 * j)));
        }
    }
}
