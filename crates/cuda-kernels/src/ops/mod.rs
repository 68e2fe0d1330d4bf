//! Host code of the kernels, a module a family: sizes are checked, the grid is chosen, the kernel is launched.

pub mod attention;
pub mod ceilings;
pub mod dequantize;
pub mod elementwise;
pub mod gemm;
pub mod gemv;
pub mod norm;
pub mod quantize;
pub mod rope;
pub mod rows;
pub mod sampling;
pub mod vector_add;

use crate::{Error, Gpu, Result};

/// A size as a kernel takes it.
pub(crate) fn int(op: &'static str, x: usize) -> Result<i32> {
    i32::try_from(x).map_err(|_| Error::Unsupported { op, reason: format!("{x} is beyond 2^31") })
}

/// Blocks for a grid that walks on: as many as there is work for, at most `waves` a multiprocessor.
pub(crate) fn blocks(gpu: &Gpu, work: usize, waves: usize) -> u32 {
    let most = gpu.properties().multiprocessors as usize * waves;
    work.min(most).max(1) as u32
}
