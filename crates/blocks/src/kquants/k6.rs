//! Q6_K: 16 groups of 16, 8-bit scales, no minima.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, batches, chunk, pack_pairs};
use crate::fit::{TINY, fit_signed};
use crate::lanes::{LANES, Lanes, map, transpose};
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

    #[inline(always)]
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
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, importance, out) in batches::<Self, 1>(x, importance, out) {
            out[0] = encode(&x[0], importance);
        }
    }
}

#[inline(always)]
fn encode(x: &[f32; QK_K], importance: Option<&[f32]>) -> BlockQ6K {
    let lanes: Lanes<f32, 16> = transpose(x);
    let weights = match importance {
        None => map(&lanes, |_, x| x * x),
        Some(importance) => transpose(importance),
    };
    let fit = fit_signed(&lanes, &weights, 32);
    let max = signed_max(&fit.scale);
    if max.abs() < TINY {
        return BlockQ6K::zeroed();
    }
    let inverse = -128.0 / max;
    let d = Half::from_f32(1.0 / inverse);
    let mut scales = [0i8; LANES];
    for g in 0..LANES {
        scales[g] = nearest_int(inverse * fit.scale[g]).min(127) as i8;
    }
    let mut q = [0u8; QK_K];
    for (g, (x, q)) in x.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
        let dl = d.to_f32() * f32::from(scales[g]);
        if dl == 0.0 {
            *q = fit.levels(g, x);
            continue;
        }
        for i in 0..16 {
            q[i] = (nearest_int(x[i] / dl).clamp(-32, 31) + 32) as u8;
        }
    }
    let mut ql = [0; 128];
    for (ql, q) in ql.as_chunks_mut::<64>().0.iter_mut().zip(q.as_chunks::<128>().0) {
        for l in 0..64 {
            ql[l] = (q[l] & 15) | q[l + 64] << 4;
        }
    }
    for q in &mut q {
        *q >>= 4;
    }
    BlockQ6K { ql, qh: pack_pairs(&q), scales, d }
}
