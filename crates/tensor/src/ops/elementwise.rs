//! Operations on each element, and softmax over rows.

use cpu_kernels::{activation, elementwise, softmax};

use super::shapes;
use crate::{Compute, Result, Tensor};

pub use cpu_kernels::activation::Activation;

impl Compute {
    /// `x + y`, in place where `x` is not shared. `y` has the shape of `x`, or is one row that is
    /// added to each.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`].
    pub fn add(&self, mut x: Tensor, y: &Tensor) -> Result<Tensor> {
        self.expect_here("add", &[&x, y])?;
        let n = y.shape().elements().unwrap_or(0);
        if x.shape() != y.shape() && (n != x.cols() || n == 0) {
            return Err(shapes("add", "equal shapes, or one row", &[&x, y]));
        }
        on_gpu!(self, |gpu| gpu.add(x, y));
        let _scope = self.scope("add", &[&x, &x, y]);
        let y = y.to_f32()?;
        let (elements, y) = (x.as_f32_mut()?, y.as_f32()?);
        if elements.len() == n {
            elementwise::add(self.pool(), self.isa(), elements, y);
            return Ok(x);
        }
        for row in elements.chunks_exact_mut(n.max(1)) {
            for (a, b) in row.iter_mut().zip(y) {
                *a += b;
            }
        }
        Ok(x)
    }

    /// `x * y` element by element, in place where `x` is not shared.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`].
    pub fn mul(&self, mut x: Tensor, y: &Tensor) -> Result<Tensor> {
        self.expect_here("mul", &[&x, y])?;
        if x.shape() != y.shape() {
            return Err(shapes("mul", "equal shapes", &[&x, y]));
        }
        on_gpu!(self, |gpu| gpu.mul(x, y));
        let _scope = self.scope("mul", &[&x, &x, y]);
        elementwise::mul(self.pool(), self.isa(), x.as_f32_mut()?, y.as_f32()?);
        Ok(x)
    }

    /// `factor * x`, in place where `x` is not shared.
    ///
    /// # Errors
    /// As [`Tensor::as_f32_mut`].
    pub fn scale(&self, mut x: Tensor, factor: f32) -> Result<Tensor> {
        self.expect_here("scale", &[&x])?;
        on_gpu!(self, |gpu| gpu.scale(x, factor));
        if factor != 1.0 {
            x.as_f32_mut()?.iter_mut().for_each(|v| *v *= factor);
        }
        Ok(x)
    }

    /// Soft capping (Gemma 2): `cap * tanh(x / cap)`, in place where `x` is not shared.
    ///
    /// # Errors
    /// As [`Tensor::as_f32_mut`].
    pub fn softcap(&self, mut x: Tensor, cap: f32) -> Result<Tensor> {
        self.expect_here("softcap", &[&x])?;
        on_gpu!(self, |gpu| gpu.softcap(x, cap));
        x.as_f32_mut()?.iter_mut().for_each(|v| *v = cap * (*v / cap).tanh());
        Ok(x)
    }

    /// The activation of each element, in place where `x` is not shared.
    ///
    /// # Errors
    /// As [`Tensor::as_f32_mut`].
    pub fn activation(&self, mut x: Tensor, f: Activation) -> Result<Tensor> {
        self.expect_here("activation", &[&x])?;
        on_gpu!(self, |gpu| gpu.activation(x, f));
        let _scope = self.scope("activation", &[&x, &x]);
        activation::apply(self.pool(), self.isa(), f, x.as_f32_mut()?);
        Ok(x)
    }

    /// A gated linear unit's product (Shazeer 2020): `f(gate) * up`, in place where `gate` is not
    /// shared.
    ///
    /// # Errors
    /// [`crate::Error::Shapes`].
    pub fn gated(&self, mut gate: Tensor, up: &Tensor, f: Activation) -> Result<Tensor> {
        self.expect_here("gated", &[&gate, up])?;
        if gate.shape() != up.shape() {
            return Err(shapes("gated", "equal shapes", &[&gate, up]));
        }
        on_gpu!(self, |gpu| gpu.gated(gate, up, f));
        let _scope = self.scope("gated", &[&gate, &gate, up]);
        activation::gated(self.pool(), self.isa(), f, gate.as_f32_mut()?, up.as_f32()?);
        Ok(gate)
    }

    /// Softmax over each row, in place where `x` is not shared.
    ///
    /// # Errors
    /// As [`Tensor::as_f32_mut`].
    pub fn softmax(&self, mut x: Tensor) -> Result<Tensor> {
        self.expect_here("softmax", &[&x])?;
        on_gpu!(self, |gpu| gpu.softmax(x));
        let _scope = self.scope("softmax", &[&x, &x]);
        let cols = x.cols();
        softmax::softmax(self.pool(), self.isa(), x.as_f32_mut()?, cols);
        Ok(x)
    }
}
