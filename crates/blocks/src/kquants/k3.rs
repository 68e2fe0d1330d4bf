//! Q3_K: 16 groups of 16, 6-bit scales, no minima.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, batches, chunk, pack_pairs, weights};
use crate::fit::{fit_signed, fit_signed_by_steps, fit_signed_one};
use crate::lanes::{Lanes, sums, transpose};
use crate::round::{nearest_int, signed_max};
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 256 elements of 3 bits: x = d * (scale - 32) * (q - 4).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ3K {
    /// The third bits: bit k of byte l belongs to element 32 k + l.
    pub hmask: [u8; 32],
    /// The low two bits; byte 32 h + l: elements 128 h + l + {0, 32, 64, 96}, from the low bits up.
    pub qs: [u8; 64],
    /// 6-bit scales of the groups of 16; see [`unpack_q3k_scales`].
    pub scales: [u8; 12],
    /// Scale of the scales.
    pub d: Half,
}

check_layout!(BlockQ3K);

/// The 16 scales of a Q3_K block, -32..=31.
///
/// The low four bits of scale g are in byte g % 8 (high nibble from g = 8 on), the high two in byte
/// 8 + g % 4 at bit 2 * (g / 4).
#[inline(always)]
pub fn unpack_q3k_scales(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|g| {
        let low = packed[g % 8] >> (g / 8 * 4) & 15;
        let high = packed[8 + g % 4] >> (g / 4 * 2) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// The reverse of [`unpack_q3k_scales`], for scales with 32 added.
#[inline(always)]
fn pack_scales(scales: &[u8; 16]) -> [u8; 12] {
    let mut packed = [0; 12];
    for (g, s) in scales.iter().enumerate() {
        packed[g % 8] |= (s & 15) << (g / 8 * 4);
        packed[8 + g % 4] |= (s >> 4) << (g / 4 * 2);
    }
    packed
}

impl Block for BlockQ3K {
    const DTYPE: DType = DType::Q3_K;
    const LEN: usize = QK_K;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        let scales = unpack_q3k_scales(&self.scales);
        for (g, (out, scale)) in chunk(out).chunks_exact_mut(16).zip(scales).enumerate() {
            let dl = d * f32::from(scale);
            let (qs, shift) = (&self.qs[g / 8 * 32 + g % 2 * 16..], g % 8 / 2 * 2);
            let (high, bit) = (&self.hmask[g % 2 * 16..], g / 2);
            for ((x, q), h) in out.iter_mut().zip(qs).zip(high) {
                let q = (q >> shift & 3) | (h >> bit & 1) << 2;
                *x = dl * (i32::from(q) - 4) as f32;
            }
        }
    }
}

impl Encode for BlockQ3K {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, importance, out) in batches::<Self, 1>(x, importance, out) {
            out[0] = encode(&x[0], importance);
        }
    }
}

#[inline(always)]
fn encode(x: &[f32; QK_K], importance: Option<&[f32]>) -> BlockQ3K {
    let lanes: Lanes<f32, 16> = transpose(x);
    let mut q = [0u8; QK_K];
    let (d, packed) = match importance {
        None => {
            let (scales, levels) = fit_signed_by_steps(&lanes, 4);
            for (i, levels) in levels.iter().enumerate() {
                for (g, &level) in levels.iter().enumerate() {
                    q[16 * g + i] = level;
                }
            }
            let max = signed_max(&scales);
            if max == 0.0 {
                (0.0, [0; 16])
            } else {
                let inverse = -32.0 / max;
                let round = |s: f32| (nearest_int(inverse * s) as i8).clamp(-32, 31) + 32;
                (1.0 / inverse, scales.map(|s| round(s) as u8))
            }
        }
        Some(importance) => {
            let weights = weights(std::slice::from_ref(x), &lanes, importance, 2.0);
            let fit = fit_signed(&lanes, &weights, 4);
            for (g, (x, q)) in x.as_chunks().0.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
                *q = fit.levels(g, x);
            }
            fit_signed_one(&fit.scale, &sums(&weights), 32)
        }
    };
    let (d, scales) = (Half::from_f32(d), pack_scales(&packed));
    let groups = x.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0);
    for ((x, q), scale) in groups.zip(unpack_q3k_scales(&scales)) {
        let dl = d.to_f32() * f32::from(scale);
        if dl == 0.0 {
            continue;
        }
        for i in 0..16 {
            q[i] = (nearest_int(x[i] / dl).clamp(-4, 3) + 4) as u8;
        }
    }
    let mut hmask = [0; 32];
    for (k, q) in q.as_chunks::<32>().0.iter().enumerate() {
        for l in 0..32 {
            hmask[l] |= q[l] >> 2 << k;
        }
    }
    for q in &mut q {
        *q &= 3;
    }
    BlockQ3K { hmask, qs: pack_pairs(&q), scales, d }
}
