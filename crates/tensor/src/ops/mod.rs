//! The operations, a file a family; each is a method of [`Compute`](crate::Compute).

mod attention;
mod elementwise;
mod linear;
mod norm;
mod rope;
mod rows;

pub use attention::{AttentionRow, AttentionSpec};
pub use elementwise::Activation;
pub use rope::Rope;

use crate::{Compute, Device, Error, Result, Tensor};

impl Compute {
    /// Operations run where their tensors lie; GPU kernels are not part of this release.
    fn expect_here(&self, op: &'static str, tensors: &[&Tensor]) -> Result<()> {
        if self.device() != Device::Cpu {
            return Err(Error::DeviceUnavailable {
                device: self.device().to_string(),
                reason: format!("there is no kernel for '{op}' yet; use the device cpu"),
            });
        }
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
