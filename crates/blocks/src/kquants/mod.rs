//! The k-quants: super-blocks of 256 elements in groups of 16 or 32, whose scales (and minima) are
//! themselves small integers times a half-precision scale of the super-block.
//!
//! Q2_K, Q4_K, Q5_K: x = d * scale * q - dmin * min. Q3_K, Q6_K: x = d * scale * q, q signed.

mod k2;
mod k3;
mod k45;
mod k6;
mod k8;

pub use k2::BlockQ2K;
pub use k3::{BlockQ3K, unpack_q3k_scales};
pub use k6::BlockQ6K;
pub use k8::BlockQ8K;
pub use k45::{BlockQ4K, BlockQ5K, unpack_scales_mins};

use crate::Block;
use crate::lanes::{LANES, Lanes, transpose};

/// Elements a super-block.
pub const QK_K: usize = 256;

/// 256 two-bit numbers in 64 bytes: byte 32 h + l holds elements 128 h + l + {0, 32, 64, 96}, from
/// its low bits up.
#[inline(always)]
fn pack_pairs(q: &[u8; QK_K]) -> [u8; 64] {
    let mut packed = [0; 64];
    for (packed, q) in packed.as_chunks_mut::<32>().0.iter_mut().zip(q.as_chunks::<128>().0) {
        for l in 0..32 {
            packed[l] = q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6;
        }
    }
    packed
}

/// The sum of squares, in order.
#[inline(always)]
fn square_sum(x: &[f32; QK_K]) -> f32 {
    x.iter().fold(0.0, |s, v| s + v * v)
}

/// Super-blocks of a row, their importances, and where they go.
type Batch<'a, B> = (&'a [[f32; QK_K]], Option<&'a [f32]>, &'a mut [B]);

/// The super-blocks of a row, up to `P` at a time: as many as fill the lanes.
#[inline(always)]
fn batches<'a, B: Block, const P: usize>(
    x: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [B],
) -> impl Iterator<Item = Batch<'a, B>> {
    assert_eq!(x.len(), out.len() * QK_K, "as long as the blocks");
    assert!(importance.is_none_or(|i| i.len() == x.len()), "one importance a column");
    let batches = x.as_chunks::<QK_K>().0.chunks(P).zip(out.chunks_mut(P));
    batches.enumerate().map(move |(i, (x, out))| {
        (x, importance.map(|w| &w[QK_K * P * i..][..QK_K * x.len()]), out)
    })
}

/// The output as an array, so that loops need no bounds checks.
#[inline(always)]
fn chunk(out: &mut [f32]) -> &mut [f32; QK_K] {
    out.try_into().expect("as long as a block")
}

/// The weights of the elements: importance * sqrt(m + x^2), m being `factor` times the mean square
/// of the group's super-block.
#[inline(always)]
fn weights<const N: usize>(
    x: &[[f32; QK_K]],
    lanes: &Lanes<f32, N>,
    importance: &[f32],
    factor: f32,
) -> Lanes<f32, N> {
    let mut mean_square = [0.0; LANES];
    for (x, lanes) in x.iter().zip(mean_square.chunks_mut(QK_K / N)) {
        lanes.fill(factor * square_sum(x) / QK_K as f32);
    }
    let mut weights = transpose(importance);
    for i in 0..N {
        for g in 0..LANES {
            weights[i][g] *= (mean_square[g] + lanes[i][g] * lanes[i][g]).sqrt();
        }
    }
    weights
}
