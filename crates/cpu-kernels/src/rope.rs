//! Rotary position embedding (Su et al. 2021): pairs of a head's elements are turned by an angle
//! that the caller's table gives as cosine and sine.
//!
//! `(a, b) -> (a cos - b sin, a sin + b cos)`. Which elements form a pair is the layout.

use crate::matmul::DisjointMut;
use crate::simd::{Op, Simd, dispatch};
use crate::{Isa, ThreadPool, elementwise};

/// Which elements are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Elements `2i` and `2i + 1`: Llama's weights in GGUF files.
    Interleaved,
    /// Elements `i` and `i + rotary_dim / 2`: NeoX, and Hugging Face's weights.
    Half,
}

/// Turns the first `rotary_dim` elements of each head of `x: [rows, n_heads * head_dim]`, in
/// place, with `cos` and `sin`: `[rows, rotary_dim / 2]`.
///
/// # Panics
/// If lengths do not agree, or the rotary dimension is odd or larger than the head.
#[allow(clippy::too_many_arguments)]
pub fn apply(
    pool: &ThreadPool,
    x: &mut [f32],
    n_heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    cos: &[f32],
    sin: &[f32],
    layout: RopeLayout,
) {
    assert!(rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim, "pairs of a head's elements");
    let (width, half) = (n_heads * head_dim, rotary_dim / 2);
    if x.is_empty() || half == 0 {
        return;
    }
    assert!(x.len().is_multiple_of(width), "whole rows");
    let rows = x.len() / width;
    assert!(cos.len() == rows * half && sin.len() == cos.len(), "an angle for each pair of a row");
    let x = DisjointMut::new(x);
    // About ten times what handing out a chunk costs.
    let step = (elementwise::CHUNK / width).max(1);
    pool.run(rows.div_ceil(step), |chunk| {
        let rows = chunk * step..rows.min((chunk + 1) * step);
        // SAFETY: rows are disjoint, and each belongs to one chunk.
        let x = unsafe { x.slice_mut(rows.start * width..rows.end * width) };
        let angles = rows.start * half..rows.end * half;
        let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
        dispatch(Isa::active(), Rows { x, width, head_dim, half, cos, sin, layout });
    });
}

struct Rows<'a> {
    x: &'a mut [f32],
    width: usize,
    head_dim: usize,
    half: usize,
    cos: &'a [f32],
    sin: &'a [f32],
    layout: RopeLayout,
}

// The loops are simple enough for the compiler, which has the instructions of the path here.
impl Op for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Rows { x, width, head_dim, half, cos, sin, layout } = self;
        let angles = cos.chunks_exact(half).zip(sin.chunks_exact(half));
        for (row, (cos, sin)) in x.chunks_exact_mut(width).zip(angles) {
            for head in row.chunks_exact_mut(head_dim) {
                match layout {
                    RopeLayout::Interleaved => {
                        let pairs = head[..2 * half].as_chunks_mut::<2>().0.iter_mut();
                        for ((pair, cos), sin) in pairs.zip(cos).zip(sin) {
                            *pair = rotate(*pair, *cos, *sin);
                        }
                    }
                    RopeLayout::Half => {
                        let (first, second) = head[..2 * half].split_at_mut(half);
                        let pairs = first.iter_mut().zip(second);
                        for (((a, b), cos), sin) in pairs.zip(cos).zip(sin) {
                            [*a, *b] = rotate([*a, *b], *cos, *sin);
                        }
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn rotate([a, b]: [f32; 2], cos: f32, sin: f32) -> [f32; 2] {
    [a * cos - b * sin, a * sin + b * cos]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_pair_the_right_elements() {
        let pool = ThreadPool::new(2);
        // A quarter turn of the first pair, a half turn of the second; element 4 stays.
        let (cos, sin) = ([0.0, -1.0], [1.0, 0.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
        apply(&pool, &mut x, 1, 5, 4, &cos, &sin, RopeLayout::Interleaved);
        assert_eq!(x, [-2.0, 1.0, -3.0, -4.0, 5.0]);
        let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
        apply(&pool, &mut x, 1, 5, 4, &cos, &sin, RopeLayout::Half);
        assert_eq!(x, [-3.0, -2.0, 1.0, -4.0, 5.0]);
    }

    #[test]
    fn every_row_has_its_angle_and_every_head_the_same() {
        let pool = ThreadPool::new(2);
        let mut x = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
        apply(&pool, &mut x, 2, 2, 2, &[1.0, 0.0], &[0.0, 1.0], RopeLayout::Half);
        assert_eq!(x, [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, -1.0, 0.0]);
    }
}
