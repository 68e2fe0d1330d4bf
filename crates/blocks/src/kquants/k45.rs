//! Q4_K and Q5_K: 8 groups of 32, 6-bit scales and minima, packed alike.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, chunk, each_block, lane_sums, scatter, square_sum, weights};
use crate::fit::{Lanes, Search, fit_positive, fit_with_min_lanes, transpose};
use crate::round::nearest_int;
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 256 elements of 4 bits: x = d * scale * q - dmin * min.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// 6-bit scales and minima of the groups of 32; see [`unpack_scales_mins`].
    pub scales: [u8; 12],
    /// Byte 32 p + l: elements 64 p + l (low nibble) and 64 p + 32 + l (high nibble).
    pub qs: [u8; 128],
}

/// 256 elements of 5 bits: x = d * scale * q - dmin * min.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5K {
    /// Scale of the scales.
    pub d: Half,
    /// Scale of the minima.
    pub dmin: Half,
    /// 6-bit scales and minima of the groups of 32; see [`unpack_scales_mins`].
    pub scales: [u8; 12],
    /// The fifth bits: bit g of byte l belongs to element 32 g + l.
    pub qh: [u8; 32],
    /// The low four bits, as in [`BlockQ4K`].
    pub qs: [u8; 128],
}

check_layout!(BlockQ4K, BlockQ5K);

/// The 8 scales and the 8 minima of a Q4_K or Q5_K block, 0..=63.
///
/// Scales 0..4 are the low six bits of bytes 0..4, minima 0..4 those of bytes 4..8. The low four
/// bits of scale and minimum g in 4..8 are the nibbles of byte g + 4, the high two are on top of
/// bytes g - 4 and g.
///
/// ```
/// let packed = [0b01_000001, 2, 3, 4, 0b10_000101, 6, 7, 8, 0x21, 0, 0, 0];
/// let (scales, mins) = blocks::unpack_scales_mins(&packed);
/// assert_eq!(scales, [1, 2, 3, 4, 0x11, 0, 0, 0]);
/// assert_eq!(mins, [5, 6, 7, 8, 0x22, 0, 0, 0]);
/// ```
#[inline]
pub fn unpack_scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let p = packed;
    let scale = |g| if g < 4 { p[g] & 63 } else { (p[g + 4] & 15) | p[g - 4] >> 6 << 4 };
    let min = |g| if g < 4 { p[g + 4] & 63 } else { p[g + 4] >> 4 | p[g] >> 6 << 4 };
    (std::array::from_fn(scale), std::array::from_fn(min))
}

/// The reverse of [`unpack_scales_mins`].
fn pack_scales_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => (scales[i - 4] & 15) | mins[i - 4] << 4,
    })
}

/// Decodes either type, given each byte's high bits: `high(g, l)` is 0 or 16 for element 32 g + l.
#[inline]
fn decode(
    d: Half,
    dmin: Half,
    scales: &[u8; 12],
    qs: &[u8; 128],
    out: &mut [f32],
    high: impl Fn(usize, usize) -> u8,
) {
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let (scales, mins) = unpack_scales_mins(scales);
    for (g, out) in chunk(out).as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (dl, ml) = (d * f32::from(scales[g]), dmin * f32::from(mins[g]));
        let (qs, shift) = (&qs.as_chunks::<32>().0[g / 2], g % 2 * 4);
        for (l, (x, q)) in out.iter_mut().zip(qs).enumerate() {
            *x = dl * f32::from((q >> shift & 15) + high(g, l)) - ml;
        }
    }
}

impl Block for BlockQ4K {
    const DTYPE: DType = DType::Q4_K;
    const LEN: usize = QK_K;

    fn decode(&self, out: &mut [f32]) {
        decode(self.d, self.dmin, &self.scales, &self.qs, out, |_, _| 0);
    }
}

impl Block for BlockQ5K {
    const DTYPE: DType = DType::Q5_K;
    const LEN: usize = QK_K;

    fn decode(&self, out: &mut [f32]) {
        decode(self.d, self.dmin, &self.scales, &self.qs, out, |g, l| (self.qh[l] >> g & 1) << 4);
    }
}

/// Everything but the packing of the numbers.
struct Encoded {
    d: Half,
    dmin: Half,
    scales: [u8; 12],
    q: [u8; QK_K],
}

fn encode(x: &[f32; QK_K], importance: Option<&[f32; QK_K]>, n: u8, coarse: Search) -> Encoded {
    let lanes: Lanes<f32, 32, 8> = transpose(x);
    let (fit, (d, s), (dmin, m)) = match importance {
        None => {
            let mut squares = [0.0f32; 8];
            for x in &lanes {
                for g in 0..8 {
                    squares[g] += x[g] * x[g];
                }
            }
            let rms = squares.map(|s| (s / 32.0).sqrt());
            let weights = lanes.map(|x| std::array::from_fn(|g| rms[g] + x[g].abs()));
            let fit = fit_with_min_lanes(&lanes, &weights, n, coarse);
            let (d, dmin) = (scale_to_63(&fit.scale), scale_to_63(&fit.min.map(|m| -m)));
            (fit, d, dmin)
        }
        Some(importance) => {
            let weights = weights(&lanes, importance, 2.0 * square_sum(x) / QK_K as f32);
            let sums = lane_sums(&weights);
            let fit = fit_with_min_lanes(&lanes, &weights, n, Search::FINE);
            let d = fit_positive(&fit.scale, &sums, 63);
            let dmin = fit_positive(&fit.min.map(|m| -m), &sums, 63);
            (fit, d, dmin)
        }
    };
    let (d, dmin) = (Half::from_f32(d), Half::from_f32(dmin));
    let scales = pack_scales_mins(&s.map(|s| s.min(63)), &m.map(|m| m.min(63)));
    let (s, m) = unpack_scales_mins(&scales);
    let mut q = [0u8; QK_K];
    scatter(&fit.q, 0, &mut q);
    for (g, (x, q)) in x.chunks_exact(32).zip(q.chunks_exact_mut(32)).enumerate() {
        let dl = d.to_f32() * f32::from(s[g]);
        if dl == 0.0 {
            continue;
        }
        let ml = dmin.to_f32() * f32::from(m[g]);
        for (x, q) in x.iter().zip(q) {
            *q = nearest_int((x + ml) / dl).clamp(0, i32::from(n)) as u8;
        }
    }
    Encoded { d, dmin, scales, q }
}

/// Rounds scales so that the largest becomes 63.
fn scale_to_63(scales: &[f32; 8]) -> (f32, [u8; 8]) {
    let max = scales.iter().fold(0.0f32, |m, &s| if s > m { s } else { m });
    let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
    (max / 63.0, scales.map(|s| nearest_int(inverse * s) as u8))
}

/// The low nibbles of 256 numbers in 128 bytes.
fn pack_low(q: &[u8; QK_K]) -> [u8; 128] {
    std::array::from_fn(|i| {
        let at = i / 32 * 64 + i % 32;
        (q[at] & 15) | q[at + 32] << 4
    })
}

impl Encode for BlockQ4K {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let coarse = Search { start: -1.0, step: 0.1, steps: 20, absolute: false };
        each_block(x, importance, out, |x, importance| {
            let Encoded { d, dmin, scales, q } = encode(x, importance, 15, coarse);
            Self { d, dmin, scales, qs: pack_low(&q) }
        });
    }
}

impl Encode for BlockQ5K {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let coarse = Search { start: -0.5, step: 0.1, steps: 15, absolute: false };
        each_block(x, importance, out, |x, importance| {
            let Encoded { d, dmin, scales, q } = encode(x, importance, 31, coarse);
            let qh =
                std::array::from_fn(|l| (0..8).fold(0, |byte, g| byte | (q[32 * g + l] >> 4) << g));
            Self { d, dmin, scales, qh, qs: pack_low(&q) }
        });
    }
}
