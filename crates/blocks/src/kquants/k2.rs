//! Q2_K: 16 groups of 16, 4-bit scales and minima.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, batches, chunk, pack_pairs, weights};
use crate::fit::{Search, fit_positive, fit_with_min};
use crate::lanes::{Lanes, map, sums, transpose};
use crate::round::nearest_int;
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 256 elements of 2 bits: x = d * scale * q - dmin * min.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ2K {
    /// Of each group of 16: scale (low nibble) and minimum (high nibble).
    pub scales: [u8; 16],
    /// Byte 32 h + l: elements 128 h + l + {0, 32, 64, 96}, from the low bits up.
    pub qs: [u8; 64],
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
}

check_layout!(BlockQ2K);

impl Block for BlockQ2K {
    const DTYPE: DType = DType::Q2_K;
    const LEN: usize = QK_K;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let (d, dmin) = (self.d.to_f32(), self.dmin.to_f32());
        for (g, (out, scale)) in chunk(out).chunks_exact_mut(16).zip(self.scales).enumerate() {
            let (dl, ml) = (d * f32::from(scale & 15), dmin * f32::from(scale >> 4));
            let (qs, shift) = (&self.qs[g / 8 * 32 + g % 2 * 16..], g % 8 / 2 * 2);
            for (x, q) in out.iter_mut().zip(qs) {
                *x = dl * f32::from(q >> shift & 3) - ml;
            }
        }
    }
}

/// The search without importances.
const COARSE: Search = Search { start: -0.5, step: 0.1, steps: 15, absolute: true };

impl Encode for BlockQ2K {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, importance, out) in batches::<Self, 1>(x, importance, out) {
            out[0] = encode(&x[0], importance);
        }
    }
}

#[inline(always)]
fn encode(x: &[f32; QK_K], importance: Option<&[f32]>) -> BlockQ2K {
    let lanes: Lanes<f32, 16> = transpose(x);
    let (fit, (d, s), (dmin, m)) = match importance {
        None => {
            let fit = fit_with_min(&lanes, &map(&lanes, |_, x| x.abs()), 3, COARSE);
            let (d, dmin) = (scale_to_15(&fit.scale), scale_to_15(&fit.min.map(|m| -m)));
            (fit, d, dmin)
        }
        Some(importance) => {
            let weights = weights(std::slice::from_ref(x), &lanes, importance, 1.0);
            let fit = fit_with_min(&lanes, &weights, 3, Search::FINE);
            let weights = sums(&weights);
            let d = fit_positive(&fit.scale, &weights, 15);
            let dmin = fit_positive(&fit.min.map(|m| -m), &weights, 15);
            (fit, d, dmin)
        }
    };
    let (d, dmin) = (Half::from_f32(d), Half::from_f32(dmin));
    let mut scales = [0u8; 16];
    for g in 0..16 {
        scales[g] = s[g] | m[g] << 4;
    }
    let mut q = [0u8; QK_K];
    for (g, (x, q)) in x.as_chunks::<16>().0.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
        let dl = d.to_f32() * f32::from(scales[g] & 15);
        if dl == 0.0 {
            *q = fit.levels(g, x);
            continue;
        }
        let ml = dmin.to_f32() * f32::from(scales[g] >> 4);
        for i in 0..16 {
            q[i] = nearest_int((x[i] + ml) / dl).clamp(0, 3) as u8;
        }
    }
    BlockQ2K { scales, qs: pack_pairs(&q), d, dmin }
}

/// Rounds scales so that the largest becomes 15.
#[inline(always)]
fn scale_to_15(scales: &[f32; 16]) -> (f32, [u8; 16]) {
    let max = scales.iter().fold(0.0f32, |m, &s| if s > m { s } else { m });
    if max > 0.0 {
        let inverse = 15.0 / max;
        (max / 15.0, scales.map(|s| nearest_int(inverse * s) as u8))
    } else {
        (0.0, [0; 16])
    }
}
