//! Products with weights of any type.

use blocks::DType;

use super::{Gemm, Product, half, plain, unsupported};
use crate::{Gpu, Result};

/// `y = x W^T + bias` with weights of `dtype`, by what is fastest: f16 and bf16 on tensor cores, f32 in f32.
///
/// # Errors
/// Those of [`plain`].
pub fn linear(gpu: &Gpu, dtype: DType, product: &Product<'_>) -> Result<()> {
    if dtype == DType::F32 {
        return plain(gpu, Gemm::Tiled, dtype, product);
    }
    if half(dtype).is_some() {
        return plain(gpu, Gemm::of_halves(gpu, product.m), dtype, product);
    }
    unsupported(format!("weights of {dtype}"))
}
