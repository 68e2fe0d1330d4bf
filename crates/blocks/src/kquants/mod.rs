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

/// Elements a super-block.
pub const QK_K: usize = 256;

/// 256 two-bit numbers in 64 bytes: byte 32 h + l holds elements 128 h + l + {0, 32, 64, 96}, from
/// its low bits up.
fn pack_pairs(q: &[u8; QK_K]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let at = i / 32 * 128 + i % 32;
        q[at] | q[at + 32] << 2 | q[at + 64] << 4 | q[at + 96] << 6
    })
}

/// The sum of squares, in order.
fn square_sum(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |s, v| s + v * v)
}

/// Lanes back to one array: `[i][g]` becomes element `N * g + i`, from `first` on.
fn scatter<const N: usize, const W: usize>(
    q: &crate::fit::Lanes<u8, N, W>,
    first: usize,
    out: &mut [u8; QK_K],
) {
    for (i, q) in q.iter().enumerate() {
        for (g, &q) in q.iter().enumerate() {
            out[first + N * g + i] = q;
        }
    }
}

/// The importances of a super-block of a row.
fn importance_of(importance: Option<&[f32]>, index: usize) -> Option<&[f32; QK_K]> {
    importance.map(|i| i[QK_K * index..][..QK_K].try_into().expect("256 of them"))
}

/// Encodes each super-block of a row.
fn each_block<B: crate::Block>(
    x: &[f32],
    importance: Option<&[f32]>,
    out: &mut [B],
    encode: impl Fn(&[f32; QK_K], Option<&[f32; QK_K]>) -> B,
) {
    assert_eq!(x.len(), out.len() * QK_K, "as long as the blocks");
    assert!(importance.is_none_or(|i| i.len() == x.len()), "one importance a column");
    for (i, (block, x)) in out.iter_mut().zip(x.as_chunks().0).enumerate() {
        *block = encode(x, importance_of(importance, i));
    }
}

/// The output as an array, so that loops need no bounds checks.
fn chunk(out: &mut [f32]) -> &mut [f32; QK_K] {
    out.try_into().expect("as long as a block")
}

/// The weights of a group's elements: importance * sqrt(sigma2 + x^2).
fn weights<const N: usize, const W: usize>(
    x: &crate::fit::Lanes<f32, N, W>,
    importance: &[f32],
    sigma2: f32,
) -> crate::fit::Lanes<f32, N, W> {
    let importance: crate::fit::Lanes<f32, N, W> = crate::fit::transpose(importance);
    std::array::from_fn(|i| {
        std::array::from_fn(|g| importance[i][g] * (sigma2 + x[i][g] * x[i][g]).sqrt())
    })
}

/// The sum of each group's weights, in order.
fn lane_sums<const N: usize, const W: usize>(w: &crate::fit::Lanes<f32, N, W>) -> [f32; W] {
    let mut sums = [0.0f32; W];
    for w in w {
        for g in 0..W {
            sums[g] += w[g];
        }
    }
    sums
}
