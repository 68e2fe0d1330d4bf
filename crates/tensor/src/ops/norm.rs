//! Normalisation over the last dimension.

use cpu_kernels::norm;

use super::shapes;
use crate::{Compute, Result, Tensor};

impl Compute {
    /// RMSNorm (Zhang and Sennrich 2019, eq. 4): `y = x / sqrt(mean(x^2) + eps) * (offset + w)`.
    ///
    /// The weight's length is the width that is normalised: the columns of `x`, or a divisor of
    /// them (a norm over each head). `offset` is 1 where the checkpoint stores `w - 1` (Gemma).
    ///
    /// # Errors
    /// [`crate::Error::Shapes`] if the weight does not divide the columns.
    pub fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32, offset: f32) -> Result<Tensor> {
        self.expect_here("rms_norm", &[x, weight])?;
        let width = weight.shape().elements().unwrap_or(0);
        if width == 0 || !x.cols().is_multiple_of(width) {
            return Err(shapes("rms_norm", "a weight as long as what is normalised", &[x, weight]));
        }
        let mut out = vec![0.0; x.rows() * x.cols()];
        let weight = weight.to_f32()?;
        norm::rms_norm(self.pool(), x.as_f32()?, weight.as_f32()?, eps, offset, &mut out);
        Tensor::from_vec(x.shape(), out)
    }

    /// LayerNorm (Ba et al. 2016): `y = (x - mean) / sqrt(var + eps) * w + b`.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`] if weight or bias are not as long as a row.
    pub fn layer_norm(
        &self,
        x: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<Tensor> {
        self.expect_here("layer_norm", &[x, weight])?;
        let fits = |t: &Tensor| t.shape().elements() == Some(x.cols());
        if x.cols() == 0 || !fits(weight) || !bias.is_none_or(fits) {
            return Err(shapes("layer_norm", "weight and bias as long as a row", &[x, weight]));
        }
        let mut out = vec![0.0; x.rows() * x.cols()];
        let weight = weight.to_f32()?;
        let bias = match bias {
            Some(b) => b.to_f32()?,
            None => Tensor::zeros([x.cols()])?,
        };
        let (w, b) = (weight.as_f32()?, bias.as_f32()?);
        norm::layer_norm(self.pool(), x.as_f32()?, w, b, eps, &mut out);
        Tensor::from_vec(x.shape(), out)
    }
}
