//! Rotary position embedding (Su et al. 2021).

use std::cell::RefCell;

use cpu_kernels::rope::{self, RopeLayout, Rotation};

use super::shapes;
use crate::{Compute, Error, Result, Tensor};

/// The angles of a batch's rows: cosine and sine for each pair of elements, already scaled.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Elements of each head that turn; the others pass through.
    pub rotary_dim: usize,
    /// Which elements form a pair.
    pub layout: RopeLayout,
    /// `[rows, rotary_dim / 2]`.
    pub cos: Vec<f32>,
    /// `[rows, rotary_dim / 2]`.
    pub sin: Vec<f32>,
}

thread_local! {
    /// Empty tables of angles that are gone, whose memory the next step uses again.
    static KEPT: RefCell<Vec<(Vec<f32>, Vec<f32>)>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Rope {
    fn drop(&mut self) {
        let (mut cos, mut sin) = (std::mem::take(&mut self.cos), std::mem::take(&mut self.sin));
        cos.clear();
        sin.clear();
        // A thread that ends has no use for them.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push((cos, sin)));
    }
}

impl Rope {
    /// The angles `position * inv_freq[i]` of each row; cosine and sine are multiplied by
    /// `magnitude` (yarn's attention factor).
    pub fn new(positions: &[u32], inv_freq: &[f32], magnitude: f32, layout: RopeLayout) -> Self {
        let n = positions.len() * inv_freq.len();
        let (mut cos, mut sin) = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        cos.reserve(n);
        sin.reserve(n);
        for &p in positions {
            for &f in inv_freq {
                // As transformers: the product is rounded to f32 before cosine and sine.
                let (s, c) = f64::from(p as f32 * f).sin_cos();
                cos.push(c as f32 * magnitude);
                sin.push(s as f32 * magnitude);
            }
        }
        Self { rotary_dim: inv_freq.len() * 2, layout, cos, sin }
    }

    /// Whether heads and rows of `x` fit.
    pub(crate) fn check(&self, x: &Tensor, head_dim: usize) -> Result<()> {
        let n = x.rows() * (self.rotary_dim / 2);
        if head_dim == 0 || !x.cols().is_multiple_of(head_dim) || self.rotary_dim > head_dim {
            return Err(shapes("rope", format!("[rows, heads * {head_dim}]"), &[x]));
        }
        if self.cos.len() != n || self.sin.len() != n {
            return Err(Error::Shapes {
                op: "rope",
                expected: format!("{n} angles"),
                got: self.cos.len().to_string(),
            });
        }
        Ok(())
    }

    /// As the kernels take it.
    pub(crate) fn rotation(&self, head_dim: usize) -> Rotation<'_> {
        let &Self { rotary_dim, layout, .. } = self;
        Rotation { head_dim, rotary_dim, layout, cos: &self.cos, sin: &self.sin }
    }
}

impl Compute {
    /// Turns each head of `x` `[rows, heads * head_dim]` by its row's angles, in place where `x` is
    /// not shared.
    ///
    /// # Errors
    /// [`Error::Shapes`] if heads or rows do not fit.
    pub fn rope(&self, mut x: Tensor, head_dim: usize, rope: &Rope) -> Result<Tensor> {
        self.expect_here("rope", &[&x])?;
        rope.check(&x, head_dim)?;
        on_gpu!(self, |gpu| gpu.rope(x, head_dim, rope));
        let _scope = self.scope("rope", &[&x, &x]);
        let width = x.cols();
        rope::apply(self.pool(), self.isa(), x.as_f32_mut()?, width, &rope.rotation(head_dim));
        Ok(x)
    }
}
