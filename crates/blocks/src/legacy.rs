//! The first block types: 32 elements with one scale, and a minimum or a sum in the `_1` types.
//!
//! `_0`: x = d * q, q signed. `_1`: x = d * q + m, q unsigned. Element j < 16 is in the low half of
//! byte j, element j + 16 in its high half.

use bytemuck::{Pod, Zeroable};

use crate::fit::{fit_signed, fit_with_min};
use crate::round::{abs_max, reciprocal, round_away, signed_max, truncate};
use crate::{Block, DType, Encode, Half, block::check_layout};

/// 32 elements of 4 bits: x = d * (q - 8).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4_0 {
    /// Scale.
    pub d: Half,
    /// Low nibble of byte j: element j; high nibble: element j + 16.
    pub qs: [u8; 16],
}

/// 32 elements of 4 bits: x = d * q + m.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Low nibble of byte j: element j; high nibble: element j + 16.
    pub qs: [u8; 16],
}

/// 32 elements of 5 bits: x = d * (q - 16).
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5_0 {
    /// Scale.
    pub d: Half,
    /// Bit j of this little-endian word: the fifth bit of element j.
    pub qh: [u8; 4],
    /// Low four bits, as in [`BlockQ4_0`].
    pub qs: [u8; 16],
}

/// 32 elements of 5 bits: x = d * q + m.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5_1 {
    /// Scale.
    pub d: Half,
    /// Minimum.
    pub m: Half,
    /// Bit j of this little-endian word: the fifth bit of element j.
    pub qh: [u8; 4],
    /// Low four bits, as in [`BlockQ4_0`].
    pub qs: [u8; 16],
}

/// 32 elements of 8 bits: x = d * q.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ8_0 {
    /// Scale.
    pub d: Half,
    /// The elements.
    pub qs: [i8; 32],
}

/// 32 elements of 8 bits with their sum, for products with the `_1` types: x = d * q.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ8_1 {
    /// Scale.
    pub d: Half,
    /// d times the sum of all q.
    pub s: Half,
    /// The elements.
    pub qs: [i8; 32],
}

check_layout!(BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1);

/// The 32 nibbles of 16 bytes, in the order of the elements.
#[inline]
pub(crate) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|j| if j < 16 { qs[j] & 15 } else { qs[j - 16] >> 4 })
}

/// The reverse of [`nibbles`]; only the low four bits count.
#[inline]
pub(crate) fn pack_nibbles(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| (q[j] & 15) | (q[j + 16] << 4))
}

/// The 32 five-bit numbers of a block.
#[inline]
fn quintets(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let (low, high) = (nibbles(qs), u32::from_le_bytes(qh));
    std::array::from_fn(|j| low[j] | (((high >> j) & 1) as u8) << 4)
}

/// The fifth bits of 32 numbers.
#[inline]
fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    q.iter().enumerate().fold(0u32, |word, (j, &q)| word | u32::from(q >> 4 & 1) << j).to_le_bytes()
}

impl Block for BlockQ4_0 {
    const DTYPE: DType = DType::Q4_0;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (out, d) = (chunk(out), self.d.to_f32());
        for (x, q) in out.iter_mut().zip(nibbles(&self.qs)) {
            *x = (i32::from(q) - 8) as f32 * d;
        }
    }
}

impl Block for BlockQ4_1 {
    const DTYPE: DType = DType::Q4_1;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (out, d, m) = (chunk(out), self.d.to_f32(), self.m.to_f32());
        for (x, q) in out.iter_mut().zip(nibbles(&self.qs)) {
            *x = f32::from(q) * d + m;
        }
    }
}

impl Block for BlockQ5_0 {
    const DTYPE: DType = DType::Q5_0;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (out, d) = (chunk(out), self.d.to_f32());
        for (x, q) in out.iter_mut().zip(quintets(&self.qs, self.qh)) {
            *x = (i32::from(q) - 16) as f32 * d;
        }
    }
}

impl Block for BlockQ5_1 {
    const DTYPE: DType = DType::Q5_1;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (out, d, m) = (chunk(out), self.d.to_f32(), self.m.to_f32());
        for (x, q) in out.iter_mut().zip(quintets(&self.qs, self.qh)) {
            *x = f32::from(q) * d + m;
        }
    }
}

impl Block for BlockQ8_0 {
    const DTYPE: DType = DType::Q8_0;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        let (out, d) = (chunk(out), self.d.to_f32());
        for (x, q) in out.iter_mut().zip(self.qs) {
            *x = f32::from(q) * d;
        }
    }
}

impl Block for BlockQ8_1 {
    const DTYPE: DType = DType::Q8_1;
    const LEN: usize = 32;

    fn decode(&self, out: &mut [f32]) {
        BlockQ8_0 { d: self.d, qs: self.qs }.decode(out);
    }
}

/// The output as an array, so that the loops above need no bounds checks.
#[inline]
fn chunk(out: &mut [f32]) -> &mut [f32; 32] {
    out.try_into().expect("as long as a block")
}

/// The weights of a row's elements: importance * sqrt(mean of the row's squares + x^2).
struct RowWeights<'a> {
    importance: &'a [f32],
    mean_square: f32,
}

impl<'a> RowWeights<'a> {
    fn new(x: &[f32], importance: &'a [f32]) -> Self {
        let sum = x.iter().fold(0.0f32, |s, v| s + v * v);
        Self { importance, mean_square: sum / x.len() as f32 }
    }

    fn block(&self, index: usize, x: &[f32; 32]) -> [f32; 32] {
        let importance = &self.importance[32 * index..];
        std::array::from_fn(|j| importance[j] * (self.mean_square + x[j] * x[j]).sqrt())
    }
}

/// Calls `encode` for each block of a row with its values and, with importances, its weights.
fn each_block<B: Block>(
    x: &[f32],
    importance: Option<&[f32]>,
    out: &mut [B],
    encode: impl Fn(&[f32; 32], Option<[f32; 32]>) -> B,
) {
    assert_eq!(x.len(), out.len() * 32, "as long as the blocks");
    let weights = importance.map(|importance| {
        assert_eq!(importance.len(), x.len(), "one importance a column");
        RowWeights::new(x, importance)
    });
    for (i, (block, x)) in out.iter_mut().zip(x.as_chunks().0).enumerate() {
        *block = encode(x, weights.as_ref().map(|w| w.block(i, x)));
    }
}

/// Scale and numbers of a `_0` type: the value of largest magnitude becomes -n.
#[inline]
fn to_signed(x: &[f32; 32], n: i32) -> (f32, [u8; 32]) {
    let d = signed_max(x) / -(n as f32);
    let id = reciprocal(d);
    let shift = n as f32 + 0.5;
    let q = x.map(|v| i32::from(truncate(v * id + shift) as i8).min(2 * n - 1) as u8);
    (d, q)
}

/// Scale, minimum and numbers 0..=n of a `_1` type.
#[inline]
fn to_unsigned(x: &[f32; 32], n: u8) -> (f32, f32, [u8; 32]) {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for &v in x {
        if v < min {
            min = v;
        }
        if v > max {
            max = v;
        }
    }
    let d = (max - min) / f32::from(n);
    let id = reciprocal(d);
    (d, min, x.map(|v| truncate((v - min) * id + 0.5) as u8))
}

impl Encode for BlockQ4_0 {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, importance, out, |x, weights| {
            let (d, q) = match weights {
                None => to_signed(x, 8),
                Some(w) => fit_signed(x, &w, 8),
            };
            Self { d: Half::from_f32(d), qs: pack_nibbles(&q) }
        });
    }
}

impl Encode for BlockQ4_1 {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, importance, out, |x, weights| {
            let (d, m, q) = match weights {
                None => {
                    let (d, m, q) = to_unsigned(x, 15);
                    (d, m, q.map(|q| (q as i8).min(15) as u8))
                }
                Some(w) => fit_with_min(x, &w, 15),
            };
            Self { d: Half::from_f32(d), m: Half::from_f32(m), qs: pack_nibbles(&q) }
        });
    }
}

impl Encode for BlockQ5_0 {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, importance, out, |x, weights| {
            let (d, q) = match weights {
                None => to_signed(x, 16),
                Some(w) => fit_signed(x, &w, 16),
            };
            Self { d: Half::from_f32(d), qh: fifth_bits(&q), qs: pack_nibbles(&q) }
        });
    }
}

impl Encode for BlockQ5_1 {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, importance, out, |x, weights| {
            let (d, m, q) = match weights {
                None => to_unsigned(x, 31),
                Some(w) => fit_with_min(x, &w, 31),
            };
            let (d, m) = (Half::from_f32(d), Half::from_f32(m));
            Self { d, m, qh: fifth_bits(&q), qs: pack_nibbles(&q) }
        });
    }
}

/// Scale and numbers of 8 bits: the largest magnitude becomes 127.
#[inline]
fn to_bytes(x: &[f32; 32]) -> (f32, [i8; 32]) {
    let d = abs_max(x) / 127.0;
    let id = reciprocal(d);
    (d, x.map(|v| round_away(v * id) as i8))
}

impl Encode for BlockQ8_0 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, None, out, |x, _| {
            let (d, qs) = to_bytes(x);
            Self { d: Half::from_f32(d), qs }
        });
    }
}

impl Encode for BlockQ8_1 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, None, out, |x, _| {
            let (d, qs) = to_bytes(x);
            let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
            Self { d: Half::from_f32(d), s: Half::from_f32(sum as f32 * d), qs }
        });
    }
}
