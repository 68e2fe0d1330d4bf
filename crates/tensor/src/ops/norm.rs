//! Normalisation over the last dimension.

use cpu_kernels::norm::{self, Norm, NormKind};

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
        expect_rms("rms_norm", x, weight)?;
        on_gpu!(self, |gpu| gpu.rms_norm(x, weight, eps, offset));
        let weight = weight.to_f32()?;
        let kind = NormKind::Rms { weight_offset: offset };
        self.normed(x, &Norm { kind, eps, weight: weight.as_f32()? })
    }

    /// `x + y`, in place where `x` is not shared, and [`Compute::rms_norm`] of it; in one pass.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`].
    pub fn add_rms_norm(
        &self,
        x: Tensor,
        y: &Tensor,
        weight: &Tensor,
        eps: f32,
        offset: f32,
    ) -> Result<(Tensor, Tensor)> {
        self.expect_here("add_rms_norm", &[&x, y, weight])?;
        expect_rms("add_rms_norm", &x, weight)?;
        on_gpu!(self, |gpu| gpu.add_rms_norm(x, y, weight, eps, offset));
        let weight = weight.to_f32()?;
        let kind = NormKind::Rms { weight_offset: offset };
        self.added_and_normed(x, y, &Norm { kind, eps, weight: weight.as_f32()? })
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
        expect_layer("layer_norm", x, weight, bias)?;
        on_gpu!(self, |gpu| gpu.layer_norm(x, weight, bias, eps));
        let (weight, bias) = (weight.to_f32()?, bias.map(Tensor::to_f32).transpose()?);
        let kind = NormKind::Layer { bias: bias.as_ref().map(Tensor::as_f32).transpose()? };
        self.normed(x, &Norm { kind, eps, weight: weight.as_f32()? })
    }

    /// `x + y`, in place where `x` is not shared, and [`Compute::layer_norm`] of it; in one pass.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`].
    pub fn add_layer_norm(
        &self,
        x: Tensor,
        y: &Tensor,
        weight: &Tensor,
        bias: Option<&Tensor>,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        self.expect_here("add_layer_norm", &[&x, y, weight])?;
        expect_layer("add_layer_norm", &x, weight, bias)?;
        on_gpu!(self, |gpu| gpu.add_layer_norm(x, y, weight, bias, eps));
        let (weight, bias) = (weight.to_f32()?, bias.map(Tensor::to_f32).transpose()?);
        let kind = NormKind::Layer { bias: bias.as_ref().map(Tensor::as_f32).transpose()? };
        self.added_and_normed(x, y, &Norm { kind, eps, weight: weight.as_f32()? })
    }

    fn normed(&self, x: &Tensor, norm: &Norm<'_>) -> Result<Tensor> {
        let mut out = self.unwritten([x.rows(), x.cols()]);
        let _scope = self.scope("norm", &[x, &out]);
        norm::norm(self.pool(), self.isa(), norm, x.as_f32()?, out.as_f32_mut()?);
        out.reshape(x.shape())
    }

    fn added_and_normed(
        &self,
        mut x: Tensor,
        y: &Tensor,
        norm: &Norm<'_>,
    ) -> Result<(Tensor, Tensor)> {
        if x.shape() != y.shape() {
            return Err(shapes("add_norm", "equal shapes", &[&x, y]));
        }
        let mut out = self.unwritten([x.rows(), x.cols()]);
        let _scope = self.scope("add and norm", &[&x, &x, y, &out]);
        norm::add_norm(
            self.pool(),
            self.isa(),
            norm,
            x.as_f32_mut()?,
            y.as_f32()?,
            out.as_f32_mut()?,
        );
        let out = out.reshape(x.shape())?;
        Ok((x, out))
    }
}

fn expect_rms(op: &'static str, x: &Tensor, weight: &Tensor) -> Result<()> {
    match weight.shape().elements() {
        Some(width) if width > 0 && x.cols().is_multiple_of(width) => Ok(()),
        _ => Err(shapes(op, "a weight as long as what is normalised", &[x, weight])),
    }
}

fn expect_layer(
    op: &'static str,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<()> {
    let fits = |t: &Tensor| t.shape().elements() == Some(x.cols());
    match x.cols() > 0 && fits(weight) && bias.is_none_or(fits) {
        true => Ok(()),
        false => Err(shapes(op, "weight and bias as long as a row", &[x, weight])),
    }
}
