//! The operations, a file a family; each is a method of [`Compute`](crate::Compute).

/// Leaves the rest of an operation to the GPU, if it runs there.
macro_rules! on_gpu {
    ($compute:ident, |$gpu:ident| $rest:expr) => {
        #[cfg(feature = "cuda")]
        if let Some($gpu) = $compute.gpu() {
            return $rest;
        }
    };
}

mod attention;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod draw;
mod elementwise;
mod linear;
mod norm;
mod rope;
mod rows;

pub use attention::{AttentionRow, AttentionSpec};
pub use draw::Draw;
pub use elementwise::Activation;
pub use rope::Rope;

use crate::{Compute, Error, Result, Tensor};

impl Compute {
    /// Operations run where their tensors lie.
    fn expect_here(&self, op: &'static str, tensors: &[&Tensor]) -> Result<()> {
        for t in tensors {
            if t.device() != self.device() {
                return Err(Error::WrongDevice { op, expected: self.device(), got: t.device() });
            }
        }
        Ok(())
    }
}

/// A complaint about shapes.
fn shapes(op: &'static str, expected: impl ToString, got: &[&Tensor]) -> Error {
    let got = got.iter().map(|t| t.shape().to_string()).collect::<Vec<_>>().join(", ");
    Error::Shapes { op, expected: expected.to_string(), got }
}
