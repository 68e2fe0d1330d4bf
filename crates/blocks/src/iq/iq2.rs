//! IQ2_XXS, IQ2_XS, IQ2_S: eights of magnitudes from code books of 256, 512 and 1024, with signs.

use bytemuck::{Pod, Zeroable};

use super::{IQ_SIGNS, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, chunk, write_signed};
use crate::{Block, DType, Half, Word, block::check_layout};

/// 256 elements at 2.06 bits: x = d * (scale + 1/2) / 4 * value, groups of 32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq2Xxs {
    /// Scale of the scales.
    pub d: Half,
    /// Of each group: four codes of 8 bits; then, in 32 bits, four times 7 signs and the scale.
    pub qs: [[u8; 8]; 8],
}

/// 256 elements at 2.31 bits: x = d * (scale + 1/2) / 4 * value, groups of 16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq2Xs {
    /// Scale of the scales.
    pub d: Half,
    /// Of each eight: the code (9 bits) and 7 signs.
    pub qs: [Word; 32],
    /// A nibble a group.
    pub scales: [u8; 8],
}

/// 256 elements at 2.56 bits: x = d * (scale + 1/2) / 4 * value, groups of 16.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq2S {
    /// Scale of the scales.
    pub d: Half,
    /// The low 8 bits of the code of each eight.
    pub qs: [u8; 32],
    /// The signs of each eight.
    pub signs: [u8; 32],
    /// The high 2 bits of the codes, four a byte.
    pub qh: [u8; 8],
    /// A nibble a group.
    pub scales: [u8; 8],
}

check_layout!(BlockIq2Xxs, BlockIq2Xs, BlockIq2S);

/// The scale of group g of 16, from nibbles.
#[inline(always)]
fn scale(d: f32, scales: &[u8; 8], g: usize) -> f32 {
    d * (0.5 + f32::from(scales[g / 2] >> (4 * (g % 2)) & 15)) * 0.25
}

impl Block for BlockIq2Xxs {
    const DTYPE: DType = DType::IQ2_XXS;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (out, qs) in chunk(out).chunks_exact_mut(32).zip(&self.qs) {
            let word = u32::from_le_bytes([qs[4], qs[5], qs[6], qs[7]]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (l, out) in out.chunks_exact_mut(8).enumerate() {
                let signs = IQ_SIGNS[(word >> (7 * l) & 127) as usize];
                write_signed(out, scale, &IQ2_XXS_GRID[usize::from(qs[l])], signs);
            }
        }
    }
}

impl Block for BlockIq2Xs {
    const DTYPE: DType = DType::IQ2_XS;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in chunk(out).chunks_exact_mut(8).enumerate() {
            let word = usize::from(self.qs[i].get());
            let scale = scale(d, &self.scales, i / 2);
            write_signed(out, scale, &IQ2_XS_GRID[word & 511], IQ_SIGNS[word >> 9]);
        }
    }
}

impl Block for BlockIq2S {
    const DTYPE: DType = DType::IQ2_S;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in chunk(out).chunks_exact_mut(8).enumerate() {
            let code =
                usize::from(self.qs[i]) | usize::from(self.qh[i / 4] >> (2 * (i % 4)) & 3) << 8;
            write_signed(out, scale(d, &self.scales, i / 2), &IQ2_S_GRID[code], self.signs[i]);
        }
    }
}
