//! Products with weights.

use cpu_kernels::profile::Work;
use cpu_kernels::{embed, matmul};

use super::shapes;
use crate::{Compute, Result, Tensor};

impl Compute {
    /// `y = x W^T + b`: `x` is `[m, k]` f32, `weight` `[n, k]` of any type, `bias` `[n]`; `y` is
    /// `[m, n]`.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`] if they do not fit, and the kernel's own.
    pub fn linear(&self, x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        self.expect_here("linear", &[x, weight])?;
        let (m, k, n) = (x.rows(), x.cols(), weight.rows());
        if weight.cols() != k || weight.shape().dims().len() != 2 {
            return Err(shapes("linear", format!("x [m, k], weight [n, {k}]"), &[x, weight]));
        }
        let _scope = self.profile().scope("linear", weight.dtype().name(), || Work {
            bytes: weight.byte_len() + x.byte_len() + 4 * m * n,
            operations: 2 * m * k * n,
        });
        let mut y = self.unwritten([m, n]);
        let out = y.as_f32_mut()?;
        matmul::matmul(
            self.pool(),
            self.isa(),
            &weight.weight()?,
            x.as_f32()?,
            self.activations(),
            out,
        )?;
        if let Some(bias) = bias {
            if bias.shape().elements() != Some(n) {
                return Err(shapes("linear", format!("a bias of {n}"), &[bias]));
            }
            let bias = bias.to_f32()?;
            for row in out.chunks_exact_mut(n.max(1)) {
                for (y, b) in row.iter_mut().zip(bias.as_f32()?) {
                    *y += b;
                }
            }
        }
        Ok(y)
    }

    /// [`Compute::linear`] of one `x` with several weights `(weight, bias)`.
    ///
    /// # Errors
    /// As there.
    pub fn linears<const N: usize>(
        &self,
        x: &Tensor,
        weights: [(&Tensor, Option<&Tensor>); N],
    ) -> Result<[Tensor; N]> {
        let mut out = [const { None }; N];
        for (y, (weight, bias)) in out.iter_mut().zip(weights) {
            *y = Some(self.linear(x, weight, bias)?);
        }
        Ok(out.map(|y| y.expect("one for each weight")))
    }

    /// Rows `ids` of a table `[n, k]` of any type, as f32: `[ids.len(), k]`.
    ///
    /// # Errors
    /// [`crate::Error::Index`] for an id beyond the table.
    pub fn embedding(&self, table: &Tensor, ids: &[u32]) -> Result<Tensor> {
        self.expect_here("embedding", &[table])?;
        let n = table.rows();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= n) {
            return Err(crate::Error::Index { op: "embedding", index: id as usize, len: n });
        }
        let mut out = self.unwritten([ids.len(), table.cols()]);
        let _scope = self.scope("embedding", &[&out]);
        embed::gather(self.pool(), &table.weight()?, ids, out.as_f32_mut()?)?;
        Ok(out)
    }
}
