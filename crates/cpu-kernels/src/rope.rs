//! Rotary embedding.
use crate::ThreadPool;

/// Which elements form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RopeLayout {
    /// Neighbours.
    Interleaved,
    /// `i` and `i + rotary_dim / 2`.
    Half,
}

/// Turns every head by its row's angles.
#[allow(clippy::too_many_arguments)]
pub fn apply(
    _pool: &ThreadPool,
    x: &mut [f32],
    n_heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[f32],
    sin: &[f32],
    layout: RopeLayout,
) {
    let half = rotary_dim / 2;
    for ((row, cos), sin) in x
        .chunks_exact_mut(n_heads * head_dim)
        .zip(cos.chunks_exact(half))
        .zip(sin.chunks_exact(half))
    {
        for head in row.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let (a, b) = match layout {
                    RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                    RopeLayout::Half => (i, i + half),
                };
                let (u, v) = (head[a], head[b]);
                head[a] = u * cos[i] - v * sin[i];
                head[b] = v * cos[i] + u * sin[i];
            }
        }
    }
}
