//! The first block types: 32 elements with one scale, and a minimum or a sum in the `_1` types.
//!
//! `_0`: x = d * q, q signed. `_1`: x = d * q + m, q unsigned. Element j < 16 is in the low half of
//! byte j, element j + 16 in its high half.

use bytemuck::{Pod, Zeroable};

use crate::fit::{Search, fit_signed, fit_with_min};
use crate::lanes::{LANES, Lanes, transpose};
use crate::round::{abs_max, extremes, reciprocal, round_away, signed_max, truncate};
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
#[inline(always)]
pub(crate) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    let mut q = [0; 32];
    for j in 0..16 {
        q[j] = qs[j] & 15;
        q[j + 16] = qs[j] >> 4;
    }
    q
}

/// The reverse of [`nibbles`]; only the low four bits count.
#[inline(always)]
pub(crate) fn pack_nibbles(q: &[u8; 32]) -> [u8; 16] {
    let mut qs = [0; 16];
    for j in 0..16 {
        qs[j] = (q[j] & 15) | q[j + 16] << 4;
    }
    qs
}

/// The 32 five-bit numbers of a block.
#[inline(always)]
fn quintets(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let mut q = nibbles(qs);
    for j in 0..32 {
        q[j] |= (qh[j / 8] >> (j % 8) & 1) << 4;
    }
    q
}

/// The fifth bits of 32 numbers.
#[inline(always)]
fn fifth_bits(q: &[u8; 32]) -> [u8; 4] {
    let mut word = 0;
    for j in 0..32 {
        word |= u32::from(q[j] >> 4 & 1) << j;
    }
    word.to_le_bytes()
}

impl Block for BlockQ4_0 {
    const DTYPE: DType = DType::Q4_0;
    const LEN: usize = 32;

    #[inline(always)]
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

    #[inline(always)]
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

    #[inline(always)]
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

    #[inline(always)]
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

    #[inline(always)]
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

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        BlockQ8_0 { d: self.d, qs: self.qs }.decode(out);
    }
}

/// The output as an array, so that the loops above need no bounds checks.
#[inline(always)]
fn chunk(out: &mut [f32]) -> &mut [f32; 32] {
    out.try_into().expect("as long as a block")
}

/// The blocks of a row and where they go.
#[inline(always)]
fn pairs<'a, B: Block>(
    x: &'a [f32],
    out: &'a mut [B],
) -> impl Iterator<Item = (&'a [f32; 32], &'a mut B)> {
    assert_eq!(x.len(), out.len() * 32, "as long as the blocks");
    x.as_chunks().0.iter().zip(out)
}

/// Up to [`LANES`] blocks of a row, where they go, and element by element side by side: their
/// values and their weights, importance * sqrt(mean of the row's squares + x^2).
type Batch<'a, B> = (&'a [[f32; 32]], &'a mut [B], Lanes<f32, 32>, Lanes<f32, 32>);

/// The blocks of a row, as many at a time as there are lanes.
#[inline(always)]
fn batches<'a, B: Block>(
    x: &'a [f32],
    importance: &'a [f32],
    out: &'a mut [B],
) -> impl Iterator<Item = Batch<'a, B>> {
    assert_eq!(x.len(), out.len() * 32, "as long as the blocks");
    assert_eq!(importance.len(), x.len(), "one importance a column");
    let mean_square = x.iter().fold(0.0f32, |s, v| s + v * v) / x.len() as f32;
    let rows = x.chunks(32 * LANES).zip(importance.chunks(32 * LANES));
    rows.zip(out.chunks_mut(LANES)).map(move |((x, importance), out)| {
        let (lanes, mut weights) = (transpose(x), transpose(importance));
        for i in 0..32 {
            for g in 0..LANES {
                weights[i][g] *= (mean_square + lanes[i][g] * lanes[i][g]).sqrt();
            }
        }
        (x.as_chunks().0, out, lanes, weights)
    })
}

/// A `_0` type.
trait Signed: Block {
    /// Its numbers are 0..2n.
    const N: i32;
    fn new(d: Half, q: &[u8; 32]) -> Self;
}

/// A `_1` type.
trait Unsigned: Block {
    /// Its numbers are 0..=n.
    const N: u8;
    fn new(d: Half, m: Half, q: &[u8; 32]) -> Self;
}

#[inline(always)]
fn encode_signed<B: Signed>(x: &[f32], importance: Option<&[f32]>, out: &mut [B]) {
    let Some(importance) = importance else {
        for (x, out) in pairs(x, out) {
            let (d, q) = to_signed(x, B::N);
            *out = B::new(Half::from_f32(d), &q);
        }
        return;
    };
    for (x, out, lanes, weights) in batches(x, importance, out) {
        let fit = fit_signed(&lanes, &weights, B::N);
        for (g, (x, out)) in x.iter().zip(out).enumerate() {
            *out = B::new(Half::from_f32(fit.scale[g]), &fit.levels(g, x));
        }
    }
}

#[inline(always)]
fn encode_unsigned<B: Unsigned>(x: &[f32], importance: Option<&[f32]>, out: &mut [B]) {
    let Some(importance) = importance else {
        for (x, out) in pairs(x, out) {
            let (d, m, q) = to_unsigned(x, B::N);
            *out = B::new(Half::from_f32(d), Half::from_f32(m), &q);
        }
        return;
    };
    for (x, out, lanes, weights) in batches(x, importance, out) {
        let fit = fit_with_min(&lanes, &weights, B::N, Search::FINE);
        for (g, (x, out)) in x.iter().zip(out).enumerate() {
            let (d, m) = (Half::from_f32(fit.scale[g]), Half::from_f32(fit.min[g]));
            *out = B::new(d, m, &fit.levels(g, x));
        }
    }
}

/// Scale and numbers of a `_0` type: the value of largest magnitude becomes -n.
#[inline(always)]
fn to_signed(x: &[f32; 32], n: i32) -> (f32, [u8; 32]) {
    let d = signed_max(x) / -(n as f32);
    let id = reciprocal(d);
    let shift = n as f32 + 0.5;
    let mut q = [0; 32];
    for i in 0..32 {
        q[i] = i32::from(truncate(x[i] * id + shift) as i8).min(2 * n - 1) as u8;
    }
    (d, q)
}

/// Scale, minimum and numbers 0..=n of a `_1` type.
#[inline(always)]
fn to_unsigned(x: &[f32; 32], n: u8) -> (f32, f32, [u8; 32]) {
    let (min, max) = extremes(x);
    let d = (max - min) / f32::from(n);
    let id = reciprocal(d);
    let mut q = [0; 32];
    for i in 0..32 {
        q[i] = truncate((x[i] - min) * id + 0.5) as u8;
    }
    (d, min, q)
}

impl Signed for BlockQ4_0 {
    const N: i32 = 8;
    #[inline(always)]
    fn new(d: Half, q: &[u8; 32]) -> Self {
        Self { d, qs: pack_nibbles(q) }
    }
}

impl Signed for BlockQ5_0 {
    const N: i32 = 16;
    #[inline(always)]
    fn new(d: Half, q: &[u8; 32]) -> Self {
        Self { d, qh: fifth_bits(q), qs: pack_nibbles(q) }
    }
}

impl Unsigned for BlockQ4_1 {
    const N: u8 = 15;
    #[inline(always)]
    fn new(d: Half, m: Half, q: &[u8; 32]) -> Self {
        Self { d, m, qs: pack_nibbles(&q.map(|q| (q as i8).min(15) as u8)) }
    }
}

impl Unsigned for BlockQ5_1 {
    const N: u8 = 31;
    #[inline(always)]
    fn new(d: Half, m: Half, q: &[u8; 32]) -> Self {
        Self { d, m, qh: fifth_bits(q), qs: pack_nibbles(q) }
    }
}

impl Encode for BlockQ4_0 {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        encode_signed(x, importance, out);
    }
}

impl Encode for BlockQ5_0 {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        encode_signed(x, importance, out);
    }
}

impl Encode for BlockQ4_1 {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        encode_unsigned(x, importance, out);
    }
}

impl Encode for BlockQ5_1 {
    #[inline(always)]
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        encode_unsigned(x, importance, out);
    }
}

/// Scale and numbers of 8 bits: the largest magnitude becomes 127.
#[inline(always)]
fn to_bytes(x: &[f32; 32]) -> (f32, [i8; 32]) {
    let d = abs_max(x) / 127.0;
    let id = reciprocal(d);
    let mut q = [0; 32];
    for i in 0..32 {
        q[i] = round_away(x[i] * id) as i8;
    }
    (d, q)
}

impl Encode for BlockQ8_0 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, out) in pairs(x, out) {
            let (d, qs) = to_bytes(x);
            *out = Self { d: Half::from_f32(d), qs };
        }
    }
}

impl Encode for BlockQ8_1 {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, out) in pairs(x, out) {
            let (d, qs) = to_bytes(x);
            let sum: i32 = qs.iter().map(|&q| i32::from(q)).sum();
            *out = Self { d: Half::from_f32(d), s: Half::from_f32(sum as f32 * d), qs };
        }
    }
}
