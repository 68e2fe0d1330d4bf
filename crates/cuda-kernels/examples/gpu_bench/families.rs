//! What is measured: a function for each family of kernels, one line each in [`FAMILIES`].

use cuda_kernels::ops::ceilings::mma_bf16_rate;
use cuda_kernels::ops::vector_add::{Affine, VectorAdd, quantized_vector_add};
use cuda_kernels::{Gpu, Result};

/// Some work with what it must at least do.
pub(crate) struct Case {
    /// The kernel and its sizes.
    pub(crate) name: String,
    /// Bytes that must be read or written, each once.
    pub(crate) bytes: f64,
    /// Additions and multiplications.
    pub(crate) operations: f64,
    /// Gives the work to the device, without waiting.
    pub(crate) work: Box<dyn Fn() -> Result<()>>,
}

/// The cases of a family. `full`: sizes as models have them, beyond what caches hold; else as small as can
/// be, to see that they run.
pub(crate) type Family = fn(&Gpu, full: bool) -> Result<Vec<Case>>;

/// Every family.
pub(crate) const FAMILIES: &[(&str, Family)] = &[("vector_add", vector_add)];

/// Products whose rate may be the device's ceiling, in operations a second; the largest is taken.
pub(crate) type Product = fn(&Gpu, full: bool) -> Result<f64>;

/// Every such product.
pub(crate) const PRODUCTS: &[(&str, Product)] =
    &[("mma.sync", |gpu, full| mma_bf16_rate(gpu, if full { 4096 } else { 2 }))];

fn vector_add(gpu: &Gpu, full: bool) -> Result<Vec<Case>> {
    let n = if full { 256 << 20 } else { 1 << 16 };
    let case = |kernel: VectorAdd| {
        let gpu = gpu.clone();
        let [a, b, out] = [gpu.filled(1, n)?, gpu.filled(2, n)?, gpu.alloc(n)?];
        let is = Affine { scale: 0.5, zero_point: 1 };
        Ok(Case {
            name: format!("{kernel:?} of {n}").to_lowercase(),
            bytes: 3.0 * n as f64,
            operations: 6.0 * n as f64,
            work: Box::new(move || {
                quantized_vector_add(&gpu, kernel, n, (&a, is), (&b, is), (&out, is))
            }),
        })
    };
    VectorAdd::ALL.into_iter().map(case).collect()
}
