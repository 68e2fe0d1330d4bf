//! Rotary position embedding (Su et al. 2021): pairs of a head's elements are turned by an angle
//! that the caller's table gives as cosine and sine.
//!
//! `(a, b) -> (a cos - b sin, a sin + b cos)`. Which elements form a pair is the layout.

use crate::matmul::DisjointMut;
use crate::simd::{Op, Simd, dispatch};
use crate::{Isa, ThreadPool, elementwise};
use std::ops::Range;

/// Which elements are turned together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeLayout {
    /// Elements `2i` and `2i + 1`: Llama's weights in GGUF files.
    Interleaved,
    /// Elements `i` and `i + rotary_dim / 2`: NeoX, and Hugging Face's weights.
    Half,
}

/// How the heads of some rows turn.
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a> {
    /// Elements of a head.
    pub head_dim: usize,
    /// Elements of each head that turn, the first ones: an even number.
    pub rotary_dim: usize,
    /// Which of them turn together.
    pub layout: RopeLayout,
    /// `[rows, rotary_dim / 2]`
    pub cos: &'a [f32],
    /// `[rows, rotary_dim / 2]`
    pub sin: &'a [f32],
}

impl<'a> Rotation<'a> {
    /// # Panics
    /// If lengths do not agree, or the rotary dimension is odd or larger than the head.
    pub(crate) fn check(&self, rows: usize, width: usize) {
        let &Rotation { head_dim, rotary_dim, cos, sin, .. } = self;
        let pairs = rotary_dim.is_multiple_of(2) && rotary_dim <= head_dim;
        assert!(pairs, "pairs of a head's elements");
        assert!(head_dim > 0 && width.is_multiple_of(head_dim), "whole heads");
        let angles = rows * (rotary_dim / 2);
        assert!(cos.len() == angles && sin.len() == angles, "an angle for each pair of a row");
    }

    /// That of rows `rows`.
    #[must_use]
    pub fn of_rows(self, rows: Range<usize>) -> Self {
        let half = self.rotary_dim / 2;
        let angles = rows.start * half..rows.end * half;
        Rotation { cos: &self.cos[angles.clone()], sin: &self.sin[angles], ..self }
    }

    /// Turns the heads of `x: [rows, width]` in this thread.
    pub(crate) fn turn(self, isa: Isa, x: &'a mut [f32], width: usize) {
        if self.rotary_dim > 0 && width > 0 {
            dispatch(isa, Rows { x, width, rotation: self });
        }
    }
}

/// Turns each head of `x: [rows, width]`, whose rows are whole heads, in place.
///
/// # Panics
/// If lengths do not agree, or the rotary dimension is odd or larger than the head.
pub fn apply(pool: &ThreadPool, isa: Isa, x: &mut [f32], width: usize, rotation: &Rotation<'_>) {
    if x.is_empty() {
        return;
    }
    assert!(x.len().is_multiple_of(width), "whole rows");
    let rows = x.len() / width;
    rotation.check(rows, width);
    let x = DisjointMut::new(x);
    // About ten times what handing out a chunk costs.
    let step = (elementwise::CHUNK / width).max(1);
    pool.run(rows.div_ceil(step), |chunk| {
        let rows = chunk * step..rows.min((chunk + 1) * step);
        // SAFETY: rows are disjoint, and each belongs to one chunk.
        let x = unsafe { x.slice_mut(rows.start * width..rows.end * width) };
        rotation.of_rows(rows).turn(isa, x, width);
    });
}

struct Rows<'a> {
    x: &'a mut [f32],
    width: usize,
    rotation: Rotation<'a>,
}

// The loops are simple enough for the compiler, which has the instructions of the path here.
impl Op for Rows<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Rows { x, width, rotation: Rotation { head_dim, rotary_dim, layout, cos, sin } } = self;
        let half = rotary_dim / 2;
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
        for isa in Isa::supported() {
            // A quarter turn of the first pair, a half turn of the second; element 4 stays.
            let (cos, sin) = ([0.0, -1.0], [1.0, 0.0]);
            let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
            let layout = RopeLayout::Interleaved;
            let turn = Rotation { head_dim: 5, rotary_dim: 4, layout, cos: &cos, sin: &sin };
            apply(&pool, isa, &mut x, 5, &turn);
            assert_eq!(x, [-2.0, 1.0, -3.0, -4.0, 5.0]);
            let mut x = [1.0, 2.0, 3.0, 4.0, 5.0];
            apply(&pool, isa, &mut x, 5, &Rotation { layout: RopeLayout::Half, ..turn });
            assert_eq!(x, [-3.0, -2.0, 1.0, -4.0, 5.0]);
        }
    }

    #[test]
    fn every_row_has_its_angle_and_every_head_the_same() {
        let pool = ThreadPool::new(2);
        for isa in Isa::supported() {
            let mut x = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0];
            let (cos, sin) = (&[1.0, 0.0], &[0.0, 1.0]);
            let turn = Rotation { head_dim: 2, rotary_dim: 2, layout: RopeLayout::Half, cos, sin };
            apply(&pool, isa, &mut x, 4, &turn);
            assert_eq!(x, [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, -1.0, 0.0]);
        }
    }
}
