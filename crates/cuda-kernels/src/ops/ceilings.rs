//! What a device can do at most; of its memory, see [`Gpu::copy_bandwidth`].

use blocks::DType;

use super::gemm::{Gemm, Product, plain};
use super::int;
use crate::source::CEILINGS;
use crate::{Buffer, Error, Gpu, Kernel, Launch, Result};

const THREADS: u32 = 256;
const WARPS: usize = THREADS as usize / 32;
/// Products of a warp in a repetition, and operations of one: 16 x 8 sums of 16 products.
const PRODUCTS: usize = 8;
const OPERATIONS: usize = 2 * 16 * 8 * 16;

/// Multiplies ones on `blocks` blocks of 256 threads, as often as said; `out` gets a sum a thread,
/// which is 512 a repetition.
///
/// # Errors
/// [`crate::Error::Length`] if `out` is no f32 for each thread, and those of a launch.
pub fn multiply_ones(gpu: &Gpu, blocks: usize, repetitions: usize, out: &Buffer) -> Result<()> {
    const OP: &str = "multiply_ones";
    let args =
        [out.arg(OP, "out", 4 * blocks * THREADS as usize, 4)?, int(OP, repetitions)?.into()];
    let launch = Launch::new(int(OP, blocks)?.cast_unsigned(), THREADS);
    // SAFETY: the kernel writes a float a thread, which `out` has.
    unsafe { gpu.launch(&Kernel::new(&CEILINGS, "mma_bf16_rate"), launch, &args) }
}

/// Operations a second of `mma.sync`, bf16 with sums of f32, a multiplication and an addition being two.
///
/// # Errors
/// Those of a launch, and [`crate::Error::OutOfMemory`].
pub fn mma_bf16_rate(gpu: &Gpu, repetitions: usize) -> Result<f64> {
    let blocks = 4 * gpu.properties().multiprocessors as usize;
    let out = gpu.alloc(4 * blocks * THREADS as usize)?;
    let took = gpu.time(|| multiply_ones(gpu, blocks, repetitions, &out))?;
    let operations = blocks * WARPS * repetitions * PRODUCTS * OPERATIONS;
    Ok(operations as f64 / took.as_secs_f64().max(1e-12))
}

/// Operations a second of cuBLASLt's product of bf16 `[m, k]` and `[n, k]`, if it is installed. The rounding of
/// the activations is among its time, a fiftieth of it where `n` is some ten thousand.
///
/// # Errors
/// As [`mma_bf16_rate`].
pub fn cublaslt_bf16_rate(gpu: &Gpu, [m, n, k]: [usize; 3]) -> Result<Option<f64>> {
    let (x, w, y) =
        (gpu.filled(0, 4 * m * k)?, gpu.filled(0x2c, 2 * n * k)?, gpu.alloc(4 * m * n)?);
    let product = Product { x: &x, w: &w, bias: None, y: &y, m, n, k };
    match gpu.time(|| plain(gpu, Gemm::CublasLt, DType::BF16, &product)) {
        Ok(took) => Ok(Some((2 * m * n * k) as f64 / took.as_secs_f64().max(1e-12))),
        Err(Error::Unsupported { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// The larger of both, of sizes that a device of so many multiprocessors is long enough busy with: the floor of
/// whatever is bound by products of halves.
///
/// # Errors
/// As [`mma_bf16_rate`].
pub fn product_rate(gpu: &Gpu) -> Result<f64> {
    let side = 64 * gpu.properties().multiprocessors as usize;
    let own = mma_bf16_rate(gpu, side / 8)?;
    Ok(cublaslt_bf16_rate(gpu, [side; 3])?.unwrap_or(0.0).max(own))
}
