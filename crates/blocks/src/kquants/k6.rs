//! Q6_K: 16 groups of 16, 8-bit scales, no minima.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, chunk, each_block, scatter};
use crate::fit::{Lanes, TINY, fit_signed_lanes, transpose};
use crate::round::{nearest_int, signed_max};
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 256 elements of 6 bits: x = d * scale * (q - 32).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ6K {
    /// The low four bits; byte 64 h + l: elements 128 h + l (low nibble) and 128 h + 64 + l.
    pub ql: [u8; 128],
    /// The high two bits; byte 32 h + l: elements 128 h + l + {0, 32, 64, 96}, from the low bits up.
    pub qh: [u8; 64],
    /// Scales of the groups of 16.
    pub scales: [i8; 16],
    /// Scale of the scales.
    pub d: Half,
}

check_layout!(BlockQ6K);

impl Block for BlockQ6K {
    const DTYPE: DType = DType::Q6_K;
    const LEN: usize = QK_K;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (g, (out, scale)) in chunk(out).chunks_exact_mut(16).zip(self.scales).enumerate() {
            let dl = d * f32::from(scale);
            let (half, quarter, side) = (g / 8, g % 8 / 2, g % 2 * 16);
            let low = &self.ql[64 * half + 32 * (quarter % 2) + side..];
            let high = &self.qh[32 * half + side..];
            for ((x, l), h) in out.iter_mut().zip(low).zip(high) {
                let q = (l >> (quarter / 2 * 4) & 15) | (h >> (2 * quarter) & 3) << 4;
                *x = dl * (i32::from(q) - 32) as f32;
            }
        }
    }
}

impl Encode for BlockQ6K {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, importance, out, encode);
    }
}

fn encode(x: &[f32; QK_K], importance: Option<&[f32; QK_K]>) -> BlockQ6K {
    let lanes: Lanes<f32, 16, 16> = transpose(x);
    let weights = match importance {
        None => lanes.map(|x| x.map(|v| v * v)),
        Some(importance) => transpose(importance),
    };
    let fit = fit_signed_lanes(&lanes, &weights, 32);
    let max = signed_max(&fit.scale);
    if max.abs() < TINY {
        return BlockQ6K::zeroed();
    }
    let inverse = -128.0 / max;
    let d = Half::from_f32(1.0 / inverse);
    let scales = fit.scale.map(|s| nearest_int(inverse * s).min(127) as i8);
    let mut q = [0u8; QK_K];
    scatter(&fit.q, 0, &mut q);
    for ((x, q), scale) in x.chunks_exact(16).zip(q.chunks_exact_mut(16)).zip(scales) {
        let dl = d.to_f32() * f32::from(scale);
        if dl == 0.0 {
            continue;
        }
        for (x, q) in x.iter().zip(q) {
            *q = (nearest_int(x / dl).clamp(-32, 31) + 32) as u8;
        }
    }
    let ql = std::array::from_fn(|i| {
        let at = i / 64 * 128 + i % 64;
        (q[at] & 15) | q[at + 64] << 4
    });
    BlockQ6K { ql, qh: super::pack_pairs(&q.map(|q| q >> 4)), scales, d }
}
