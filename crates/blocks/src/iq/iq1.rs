//! IQ1_S and IQ1_M: eights of -1, 0, 1 from a code book of 2048, all shifted by an eighth up or
//! down.

use bytemuck::{Pod, Zeroable};

use super::{IQ1_GRID, chunk};
use crate::{Block, DType, Half, Word, block::check_layout};

/// The shift of all elements of a group.
pub const IQ1_DELTA: f32 = 0.125;

/// 256 elements at 1.56 bits: x = d * (2 * scale + 1) * (code +- 1/8), groups of 32.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq1S {
    /// Scale of the scales.
    pub d: Half,
    /// The low 8 bits of the code of each eight.
    pub qs: [u8; 32],
    /// Of each group: the high 3 bits of its four codes, the 3-bit scale, the sign of the shift.
    pub qh: [Word; 8],
}

/// 256 elements at 1.75 bits: as [`BlockIq1S`] with a scale a 16 and a shift an eight.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockIq1M {
    /// The low 8 bits of the code of each eight.
    pub qs: [u8; 32],
    /// A nibble an eight: the high 3 bits of the code, then the sign of the shift.
    pub qh: [u8; 16],
    /// Four words of four 3-bit scales; their high nibbles make up the half-precision scale.
    pub scales: [Word; 4],
}

check_layout!(BlockIq1S, BlockIq1M);

/// Writes an eight.
#[inline(always)]
fn write(out: &mut [f32], scale: f32, code: usize, negative: bool) {
    let delta = if negative { -IQ1_DELTA } else { IQ1_DELTA };
    for (x, v) in out.iter_mut().zip(IQ1_GRID[code]) {
        *x = scale * (f32::from(v) + delta);
    }
}

impl Block for BlockIq1S {
    const DTYPE: DType = DType::IQ1_S;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (i, out) in chunk(out).chunks_exact_mut(8).enumerate() {
            let qh = self.qh[i / 4].get();
            let scale = d * f32::from(2 * (qh >> 12 & 7) + 1);
            let code = usize::from(self.qs[i]) | usize::from(qh >> (3 * (i % 4)) & 7) << 8;
            write(out, scale, code, qh & 0x8000 != 0);
        }
    }
}

impl BlockIq1M {
    /// The half-precision scale of the block.
    #[inline(always)]
    pub fn d(&self) -> Half {
        let s = self.scales.map(|w| w.get() >> 12);
        Half((s[0] | s[1] << 4 | s[2] << 8 | s[3] << 12).to_le_bytes())
    }
}

impl Block for BlockIq1M {
    const DTYPE: DType = DType::IQ1_M;
    const LEN: usize = 256;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d().to_f32();
        for (i, out) in chunk(out).chunks_exact_mut(8).enumerate() {
            let scale = self.scales[i / 8].get() >> (3 * (i / 2 % 4)) & 7;
            let high = self.qh[i / 2] >> (4 * (i % 2));
            let code = usize::from(self.qs[i]) | usize::from(high & 7) << 8;
            write(out, d * f32::from(2 * scale + 1), code, high & 8 != 0);
        }
    }
}
