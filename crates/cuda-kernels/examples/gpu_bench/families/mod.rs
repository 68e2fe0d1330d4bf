//! What is measured: a function for each family of kernels, one line each in [`FAMILIES`].
//!
//! Sizes are those of Llama 3 8B. What is only read, like weights, takes turns, so that no cache has it from the
//! repetition before.

mod attention;
mod memory;
mod products;

use std::cell::Cell;

use cuda_kernels::{Buffer, Gpu, Result};

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

impl Case {
    fn new(
        name: String,
        bytes: usize,
        operations: usize,
        work: impl Fn() -> Result<()> + 'static,
    ) -> Self {
        Self { name, bytes: bytes as f64, operations: operations as f64, work: Box::new(work) }
    }
}

/// The cases of a family. `full`: sizes as models have them, beyond what caches hold; else as small as can
/// be, to see that they run.
pub(crate) type Family = fn(&Gpu, full: bool) -> Result<Vec<Case>>;

/// Every family.
pub(crate) const FAMILIES: &[(&str, Family)] = &[
    ("vector_add", memory::vector_add),
    ("dequantize", memory::dequantize),
    ("dequantize_packed", memory::dequantize_packed),
    ("quantize", memory::quantize),
    ("norm", memory::norm),
    ("elementwise", memory::elementwise),
    ("sampling", memory::sampling),
    ("embedding", attention::embedding),
    ("rope", attention::rope),
    ("attention_decode", attention::decode),
    ("attention_prefill", attention::prefill),
    ("gemv", products::gemv),
    ("gemm", products::gemm),
    ("gemm_w4a16", products::gemm_w4a16),
    ("gemm_w8a8", products::gemm_w8a8),
    ("gemm_blocks", products::gemm_blocks),
];

/// Products whose rate may be the device's ceiling, in operations a second, if it has them; the largest
/// is taken.
pub(crate) type Product = fn(&Gpu, full: bool) -> Result<Option<f64>>;

/// Every such product.
pub(crate) const PRODUCTS: &[(&str, Product)] =
    &[("mma.sync", products::mma), ("cuBLASLt", products::cublaslt)];

/// Buffers that take turns: together beyond what a cache holds.
struct Turns {
    buffers: Vec<Buffer>,
    next: Cell<usize>,
}

/// More than the caches of any device so far.
const BEYOND_CACHES: usize = 512 << 20;

impl Turns {
    fn new(gpu: &Gpu, bytes: usize, full: bool) -> Result<Self> {
        let count = if full { (BEYOND_CACHES / bytes).max(1) } else { 1 };
        // As f16 this byte twice is about 0.07, as f32 2e-12, as codes of four bits twos and 12s.
        let buffers = (0..count).map(|_| gpu.filled(0x2c, bytes)).collect::<Result<Vec<_>>>()?;
        Ok(Self { buffers, next: Cell::new(0) })
    }

    fn next(&self) -> &Buffer {
        let i = self.next.get();
        self.next.set((i + 1) % self.buffers.len());
        &self.buffers[i]
    }
}
