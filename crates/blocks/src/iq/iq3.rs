//! IQ3_XXS and IQ3_S: fours of magnitudes from code books of 256 and 512, with signs.

use bytemuck::{Pod, Zeroable};

use super::{IQ_SIGNS, IQ3_S_GRID, IQ3_XXS_GRID, chunk, write_signed};
use crate::{Block, DType, Half, block::check_layout};

/// 256 elements at 3.06 bits: x = d * (scale + 1/2) / 2 * value, groups of 32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq3Xxs {
    /// Scale of the scales.
    pub d: Half,
    /// The code of each four.
    pub qs: [u8; 64],
    /// Of each group, in a little-endian word: four times 7 signs and the scale.
    pub scales_signs: [[u8; 4]; 8],
}

/// 256 elements at 3.44 bits: x = d * (2 * scale + 1) * value, groups of 32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq3S {
    /// Scale of the scales.
    pub d: Half,
    /// The low 8 bits of the code of each four.
    pub qs: [u8; 64],
    /// The ninth bits, eight a byte.
    pub qh: [u8; 8],
    /// The signs of each eight.
    pub signs: [u8; 32],
    /// A nibble a group.
    pub scales: [u8; 4],
}

check_layout!(BlockIq3Xxs, BlockIq3S);

impl Block for BlockIq3Xxs {
    const DTYPE: DType = DType::IQ3_XXS;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in chunk(out).chunks_exact_mut(4).enumerate() {
            let word = u32::from_le_bytes(self.scales_signs[i / 8]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            let signs = IQ_SIGNS[(word >> (7 * (i / 2 % 4)) & 127) as usize] >> (4 * (i % 2));
            write_signed(out, scale, &IQ3_XXS_GRID[usize::from(self.qs[i])], signs);
        }
    }
}

impl Block for BlockIq3S {
    const DTYPE: DType = DType::IQ3_S;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in chunk(out).chunks_exact_mut(4).enumerate() {
            let scale = self.scales[i / 16] >> (4 * (i / 8 % 2)) & 15;
            let code = usize::from(self.qs[i]) | usize::from(self.qh[i / 8] >> (i % 8) & 1) << 8;
            let signs = self.signs[i / 2] >> (4 * (i % 2));
            write_signed(out, d * f32::from(1 + 2 * scale), &IQ3_S_GRID[code], signs);
        }
    }
}
