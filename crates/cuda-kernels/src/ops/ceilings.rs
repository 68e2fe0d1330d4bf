//! What a device can do at most; of its memory, see [`Gpu::copy_bandwidth`].

use super::int;
use crate::source::CEILINGS;
use crate::{Buffer, Gpu, Kernel, Launch, Result};

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
