//! Q8_K: activations for products with the other k-quants; 256 elements of 8 bits, one scale.

use bytemuck::{Pod, Zeroable};

use super::{QK_K, chunk, each_block};
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

    fn decode(&self, out: &mut [f32]) {
        let d = f32::from_le_bytes(self.d);
        for (x, q) in chunk(out).iter_mut().zip(self.qs) {
            *x = d * f32::from(q);
        }
    }
}

impl Encode for BlockQ8K {
    /// The importance changes nothing: the largest magnitude alone sets the scale.
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        each_block(x, None, out, |x, _| {
            let max = signed_max(x);
            if max == 0.0 {
                return Self::zeroed();
            }
            let inverse = -127.0 / max;
            let qs = x.map(|v| nearest_int(inverse * v).min(127) as i8);
            let sum = |g: usize| qs[16 * g..][..16].iter().map(|&q| i16::from(q)).sum::<i16>();
            let bsums = std::array::from_fn(|g| Word::new(sum(g) as u16));
            Self { d: (1.0 / inverse).to_le_bytes(), qs, bsums }
        });
    }
}
