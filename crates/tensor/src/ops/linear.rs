//! Products with weights.

use cpu_kernels::matmul;

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
        let mut out = vec![0.0; m * n];
        matmul::matmul(
            self.pool(),
            self.isa(),
            &weight.weight()?,
            x.as_f32()?,
            self.activations(),
            &mut out,
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
        Tensor::from_vec([m, n], out)
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
        let mut out = vec![0.0; ids.len() * table.cols()];
        cpu_kernels::embed::gather(&table.weight()?, ids, &mut out)?;
        Tensor::from_vec([ids.len(), table.cols()], out)
    }
}
