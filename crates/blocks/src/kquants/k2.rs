//! Q2_K: 16 groups of 16, 4-bit scales and minima.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, chunk, each_block, lane_sums, pack_pairs, scatter, square_sum, weights};
use crate::fit::{Lanes, Search, fit_positive, fit_with_min_lanes, transpose};
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

/// Groups fitted side by side.
const LANES: usize = 8;

impl Encode for BlockQ2K {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, importance, out, encode);
    }
}

fn encode(x: &[f32; QK_K], importance: Option<&[f32; QK_K]>) -> BlockQ2K {
    let mut q = [0u8; QK_K];
    let (mut scales, mut mins, mut sums) = ([0.0f32; 16], [0.0f32; 16], [0.0f32; 16]);
    let sigma2 = square_sum(x) / QK_K as f32;
    for first in [0, LANES] {
        let at = 16 * first..16 * (first + LANES);
        let lanes: Lanes<f32, 16, LANES> = transpose(&x[at.clone()]);
        let fit = match importance {
            None => fit_with_min_lanes(&lanes, &lanes.map(|x| x.map(f32::abs)), 3, COARSE),
            Some(importance) => {
                let weights = weights(&lanes, &importance[at.clone()], sigma2);
                sums[first..][..LANES].copy_from_slice(&lane_sums(&weights));
                fit_with_min_lanes(&lanes, &weights, 3, Search::FINE)
            }
        };
        scales[first..][..LANES].copy_from_slice(&fit.scale);
        mins[first..][..LANES].copy_from_slice(&fit.min.map(|m| -m));
        scatter(&fit.q, at.start, &mut q);
    }
    let ((d, s), (dmin, m)) = match importance {
        None => (scale_to_15(&scales), scale_to_15(&mins)),
        Some(_) => (fit_positive(&scales, &sums, 15), fit_positive(&mins, &sums, 15)),
    };
    let (d, dmin) = (Half::from_f32(d), Half::from_f32(dmin));
    let scales: [u8; 16] = std::array::from_fn(|g| s[g] | m[g] << 4);
    for (g, (x, q)) in x.chunks_exact(16).zip(q.chunks_exact_mut(16)).enumerate() {
        let dl = d.to_f32() * f32::from(scales[g] & 15);
        if dl == 0.0 {
            continue;
        }
        let ml = dmin.to_f32() * f32::from(scales[g] >> 4);
        for (x, q) in x.iter().zip(q) {
            *q = nearest_int((x + ml) / dl).clamp(0, 3) as u8;
        }
    }
    BlockQ2K { scales, qs: pack_pairs(&q), d, dmin }
}

/// Rounds scales so that the largest becomes 15.
fn scale_to_15(scales: &[f32; 16]) -> (f32, [u8; 16]) {
    let max = scales.iter().fold(0.0f32, |m, &s| if s > m { s } else { m });
    if max > 0.0 {
        let inverse = 15.0 / max;
        (max / 15.0, scales.map(|s| nearest_int(inverse * s) as u8))
    } else {
        (0.0, [0; 16])
    }
}
