//! Products with weights.

use cpu_kernels::matmul::Product;
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
        let [y] = self.linears(x, [(weight, bias)])?;
        Ok(y)
    }

    /// [`Compute::linear`] of one `x` with several weights `(weight, bias)` at once: `x` is rounded
    /// once for all that take it alike, and the threads share the rows of all weights.
    ///
    /// # Errors
    /// As there.
    pub fn linears<const N: usize>(
        &self,
        x: &Tensor,
        weights: [(&Tensor, Option<&Tensor>); N],
    ) -> Result<[Tensor; N]> {
        let (m, k) = (x.rows(), x.cols());
        for (weight, bias) in weights {
            self.expect_here("linear", &[x, weight])?;
            if weight.cols() != k || weight.shape().dims().len() != 2 {
                return Err(shapes("linear", format!("x [m, k], weight [n, {k}]"), &[x, weight]));
            }
            let n = weight.rows();
            if let Some(bias) = bias.filter(|bias| bias.shape().elements() != Some(n)) {
                return Err(shapes("linear", format!("a bias of {n}"), &[bias]));
            }
        }
        let alike = weights.windows(2).all(|w| w[0].0.dtype() == w[1].0.dtype());
        let detail = match weights.first() {
            Some((weight, _)) if alike => weight.dtype().name(),
            _ => "of several types",
        };
        let _scope = self.profile().scope("linear", detail, || {
            let rows: usize = weights.iter().map(|(weight, _)| weight.rows()).sum();
            let read: usize = weights.iter().map(|(weight, _)| weight.byte_len()).sum();
            Work { bytes: read + x.byte_len() + 4 * m * rows, operations: 2 * m * k * rows }
        });
        on_gpu!(self, |gpu| try_map(weights, |(weight, bias)| gpu.linear(x, weight, bias)));
        let mut out = weights.map(|(weight, _)| self.unwritten([m, weight.rows()]));
        let biases = try_map(weights, |(_, bias)| bias.map(Tensor::to_f32).transpose())?;
        let mut parts = weights.iter().zip(&biases).zip(&mut out);
        let products = try_map(weights, |_| {
            let (((weight, _), bias), y) = parts.next().expect("one of each for a weight");
            let bias = bias.as_ref().map(Tensor::as_f32).transpose()?;
            Ok(Product { weight: weight.weight()?, bias, out: y.as_f32_mut()? })
        })?;
        matmul::matmuls(self.pool(), self.isa(), products, x.as_f32()?, self.activations())?;
        Ok(out)
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
        on_gpu!(self, |gpu| gpu.embedding(table, ids));
        let mut out = self.unwritten([ids.len(), table.cols()]);
        let _scope = self.scope("embedding", &[&out]);
        embed::gather(self.pool(), &table.weight()?, ids, out.as_f32_mut()?)?;
        Ok(out)
    }
}

/// `f` of each, or the first error.
fn try_map<T, U, const N: usize>(
    items: [T; N],
    mut f: impl FnMut(T) -> Result<U>,
) -> Result<[U; N]> {
    let mut error = None;
    let mapped = items.map(|item| match error {
        None => f(item).map_err(|e| error = Some(e)).ok(),
        Some(_) => None,
    });
    match error {
        None => Ok(mapped.map(|item| item.expect("there was no error"))),
        Some(error) => Err(error),
    }
}
