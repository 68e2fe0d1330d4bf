//! Q4_K and Q5_K: 8 groups of 32, 6-bit scales and minima, packed alike.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, batches, chunk, weights};
use crate::fit::{Search, fit_positive, fit_with_min};
use crate::lanes::{LANES, Lanes, map, sums, transpose};
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
#[inline(always)]
pub fn unpack_scales_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let p = packed;
    let scale = |g| if g < 4 { p[g] & 63 } else { (p[g + 4] & 15) | p[g - 4] >> 6 << 4 };
    let min = |g| if g < 4 { p[g + 4] & 63 } else { p[g + 4] >> 4 | p[g] >> 6 << 4 };
    (std::array::from_fn(scale), std::array::from_fn(min))
}

/// The reverse of [`unpack_scales_mins`].
#[inline(always)]
fn pack_scales_mins(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => mins[i - 4] | mins[i] >> 4 << 6,
        _ => (scales[i - 4] & 15) | mins[i - 4] << 4,
    })
}

/// Decodes either type, given each byte's high bits: `high(g, l)` is 0 or 16 for element 32 g + l.
#[inline(always)]
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

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        decode(self.d, self.dmin, &self.scales, &self.qs, out, |_, _| 0);
    }
}

impl Block for BlockQ5K {
    const DTYPE: DType = DType::Q5_K;
    const LEN: usize = QK_K;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        decode(self.d, self.dmin, &self.scales, &self.qs, out, |g, l| (self.qh[l] >> g & 1) << 4);
    }
}

/// Everything but the packing of the numbers.
#[derive(Clone, Copy, Zeroable)]
struct Encoded {
    d: Half,
    dmin: Half,
    scales: [u8; 12],
    q: [u8; QK_K],
}

/// Groups a super-block.
const GROUPS: usize = 8;

/// Super-blocks that fill the lanes.
const BATCH: usize = LANES / GROUPS;

/// Encodes up to [`BATCH`] super-blocks to numbers 0..=n; those that are missing become zero.
#[inline(always)]
fn encode(
    x: &[[f32; QK_K]],
    importance: Option<&[f32]>,
    n: u8,
    coarse: Search,
) -> [Encoded; BATCH] {
    let lanes: Lanes<f32, 32> = transpose(x.as_flattened());
    let (weights, search) = match importance {
        None => {
            let rms = sums(&map(&lanes, |_, x| x * x)).map(|s| (s / 32.0).sqrt());
            (map(&lanes, |g, x| rms[g] + x.abs()), coarse)
        }
        Some(importance) => (weights(x, &lanes, importance, 2.0), Search::FINE),
    };
    let fit = fit_with_min(&lanes, &weights, n, search);
    let weights = importance.map(|_| sums(&weights));
    let mut encoded = [Encoded::zeroed(); BATCH];
    for (b, x) in x.iter().enumerate() {
        let of_block = |lane: &[f32; LANES]| lane.as_chunks::<GROUPS>().0[b];
        let (scale, min) = (of_block(&fit.scale), of_block(&fit.min).map(|m| -m));
        let ((d, s), (dmin, m)) = match &weights {
            None => (scale_to_63(&scale), scale_to_63(&min)),
            Some(weights) => {
                let weights = of_block(weights);
                (fit_positive(&scale, &weights, 63), fit_positive(&min, &weights, 63))
            }
        };
        let (d, dmin) = (Half::from_f32(d), Half::from_f32(dmin));
        let scales = pack_scales_mins(&s.map(|s| s.min(63)), &m.map(|m| m.min(63)));
        let (s, m) = unpack_scales_mins(&scales);
        let mut q = [0u8; QK_K];
        let groups = x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0);
        for (g, (x, q)) in groups.enumerate() {
            let dl = d.to_f32() * f32::from(s[g]);
            if dl == 0.0 {
                *q = fit.levels(GROUPS * b + g, x);
                continue;
            }
            let ml = dmin.to_f32() * f32::from(m[g]);
            for l in 0..32 {
                q[l] = nearest_int((x[l] + ml) / dl).clamp(0, i32::from(n)) as u8;
            }
        }
        encoded[b] = Encoded { d, dmin, scales, q };
    }
    encoded
}

/// Rounds scales so that the largest becomes 63.
#[inline(always)]
fn scale_to_63(scales: &[f32; 8]) -> (f32, [u8; 8]) {
    let max = scales.iter().fold(0.0f32, |m, &s| if s > m { s } else { m });
    let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
    (max / 63.0, scales.map(|s| nearest_int(inverse * s) as u8))
}

/// The low nibbles of 256 numbers in 128 bytes.
#[inline(always)]
fn pack_low(q: &[u8; QK_K]) -> [u8; 128] {
    let mut packed = [0; 128];
    for (packed, q) in packed.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<64>().0) {
        for l in 0..32 {
            packed[l] = (q[l] & 15) | q[l + 32] << 4;
        }
    }
    packed
}

/// The fifth bits of 256 numbers in 32 bytes.
#[inline(always)]
fn pack_high(q: &[u8; QK_K]) -> [u8; 32] {
    let mut packed = [0; 32];
    for (g, q) in q.as_chunks::<32>().0.iter().enumerate() {
        for l in 0..32 {
            packed[l] |= q[l] >> 4 << g;
        }
    }
    packed
}

impl Encode for BlockQ4K {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let coarse = Search { start: -1.0, step: 0.1, steps: 20, absolute: false };
        for (x, importance, out) in batches::<Self, BATCH>(x, importance, out) {
            let encoded = encode(x, importance, 15, coarse);
            for (out, Encoded { d, dmin, scales, q }) in out.iter_mut().zip(encoded) {
                *out = Self { d, dmin, scales, qs: pack_low(&q) };
            }
        }
    }
}

impl Encode for BlockQ5K {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let coarse = Search { start: -0.5, step: 0.1, steps: 15, absolute: false };
        for (x, importance, out) in batches::<Self, BATCH>(x, importance, out) {
            let encoded = encode(x, importance, 31, coarse);
            for (out, Encoded { d, dmin, scales, q }) in out.iter_mut().zip(encoded) {
                *out = Self { d, dmin, scales, qh: pack_high(&q), qs: pack_low(&q) };
            }
        }
    }
}
