//! Q8_K: activations for products with the other k-quants; 256 elements of 8 bits, one scale.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, batches, chunk};
use crate::round::{nearest_int, signed_max};
use crate::{Block, DType, Encode, Word, block::check_layout};

/// 256 elements of 8 bits: x = d * q.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ8K {
    /// Scale, a little-endian f32.
    pub d: [u8; 4],
    /// The elements.
    pub qs: [i8; 256],
    /// The sums of each 16 q, as two's complement.
    pub bsums: [Word; 16],
}

check_layout!(BlockQ8K);

impl Block for BlockQ8K {
    const DTYPE: DType = DType::Q8_K;
    const LEN: usize = QK_K;

    #[inline(always)]
    fn decode(&self, out: &mut [f32]) {
        let d = f32::from_le_bytes(self.d);
        for (x, q) in chunk(out).iter_mut().zip(self.qs) {
            *x = d * f32::from(q);
        }
    }
}

impl Encode for BlockQ8K {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    #[inline(always)]
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, _, out) in batches::<Self, 1>(x, None, out) {
            out[0] = encode(&x[0]);
        }
    }
}

#[inline(always)]
fn encode(x: &[f32; QK_K]) -> BlockQ8K {
    let max = signed_max(x);
    if max == 0.0 {
        return BlockQ8K::zeroed();
    }
    let inverse = -127.0 / max;
    let mut qs = [0; QK_K];
    for i in 0..QK_K {
        qs[i] = nearest_int(inverse * x[i]).min(127) as i8;
    }
    let mut bsums = [Word::default(); 16];
    for (sum, q) in bsums.iter_mut().zip(qs.as_chunks::<16>().0) {
        *sum = Word::new(q.iter().map(|&q| i16::from(q)).sum::<i16>() as u16);
    }
    BlockQ8K { d: (1.0 / inverse).to_le_bytes(), qs, bsums }
}
