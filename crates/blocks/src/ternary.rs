//! TQ1_0 and TQ2_0: -1, 0 and 1 times one scale, 256 elements a block (BitNet b1.58, TriLMs).
//!
//! TQ1_0 packs five base-3 digits a byte: the byte is ceil(n * 256 / 243), so that multiplying by
//! 3^k modulo 256 and then by 3 carries digit k into the ninth bit.

use bytemuck::{Pod, Zeroable};

use crate::kquants::QK_K;
use crate::round::{abs_max, reciprocal, round_away};
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 256 ternary elements in base 3: x = d * (digit - 1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockTq1_0 {
    /// Five digits a byte: bytes 0..32 hold elements 32 k + i, bytes 32..48 elements 160 + 16 k + i.
    pub qs: [u8; 48],
    /// Four digits a byte: elements 240 + 4 k + i.
    pub qh: [u8; 4],
    /// Scale.
    pub d: Half,
}

/// 256 ternary elements of 2 bits: x = d * (q - 1).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockTq2_0 {
    /// Byte 32 h + l: elements 128 h + l + {0, 32, 64, 96}, from the low bits up.
    pub qs: [u8; 64],
    /// Scale.
    pub d: Half,
}

check_layout!(BlockTq1_0, BlockTq2_0);

/// Runs of bytes in the order qs, qh: first byte, bytes, first element, digits.
const RUNS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];

/// Powers of 3.
const POW3: [u8; 5] = [1, 3, 9, 27, 81];

impl Block for BlockTq1_0 {
    const DTYPE: DType = DType::TQ1_0;
    const LEN: usize = QK_K;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        assert_eq!(out.len(), QK_K, "as long as a block");
        let d = self.d.to_f32();
        let bytes = bytemuck::bytes_of(self);
        for (first, len, element, digits) in RUNS {
            let out = out[element..].chunks_exact_mut(len);
            for (out, power) in out.zip(&POW3[..digits]) {
                for (x, byte) in out.iter_mut().zip(&bytes[first..]) {
                    let digit = (u16::from(byte.wrapping_mul(*power)) * 3) >> 8;
                    *x = (i32::from(digit) - 1) as f32 * d;
                }
            }
        }
    }
}

impl Block for BlockTq2_0 {
    const DTYPE: DType = DType::TQ2_0;
    const LEN: usize = QK_K;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        assert_eq!(out.len(), QK_K, "as long as a block");
        let d = self.d.to_f32();
        for (i, out) in out.chunks_exact_mut(32).enumerate() {
            for (x, q) in out.iter_mut().zip(&self.qs[i / 4 * 32..]) {
                *x = (i32::from(q >> (i % 4 * 2) & 3) - 1) as f32 * d;
            }
        }
    }
}

/// Scale and digits 0..=2: the largest magnitude becomes 1.
#[inline(always)]
fn digits(x: &[f32; QK_K]) -> (Half, [u8; QK_K]) {
    let d = abs_max(x);
    let id = reciprocal(d);
    let mut q = [0; QK_K];
    for i in 0..QK_K {
        q[i] = round_away(x[i] * id).wrapping_add(1) as u8;
    }
    (Half::from_f32(d), q)
}

impl Encode for BlockTq1_0 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * QK_K, "as long as the blocks");
        for (block, x) in out.iter_mut().zip(x.as_chunks().0) {
            let (d, q) = digits(x);
            let mut bytes = [0u8; 52];
            for (first, len, element, digits) in RUNS {
                for (i, byte) in bytes[first..][..len].iter_mut().enumerate() {
                    let number = (0..5).fold(0u8, |n, k| {
                        let digit = if k < digits { q[element + len * k + i] } else { 0 };
                        n.wrapping_mul(3).wrapping_add(digit)
                    });
                    *byte = (u16::from(number) * 256).div_ceil(243) as u8;
                }
            }
            let (qs, qh) = bytes.split_at(48);
            *block = Self { qs: qs.try_into().expect("48"), qh: qh.try_into().expect("4"), d };
        }
    }
}

impl Encode for BlockTq2_0 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        assert_eq!(x.len(), out.len() * QK_K, "as long as the blocks");
        for (block, x) in out.iter_mut().zip(x.as_chunks().0) {
            let (d, q) = digits(x);
            let qs = std::array::from_fn(|i| {
                let at = i / 32 * 128 + i % 32;
                (0..4).fold(0, |byte, k| byte | (q[at + 32 * k] & 3) << (2 * k))
            });
            *block = Self { qs, d };
        }
    }
}
