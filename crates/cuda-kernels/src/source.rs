//! The kernels' sources, embedded: the crate carries what it needs.

use sha2::{Digest, Sha256};

/// A file of kernels under `kernels/`.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name, `norm.cu` for example.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// What sources include, by name.
pub const HEADERS: &[Source] = &[
    Source { name: "common.cuh", text: include_str!("../kernels/common.cuh") },
    Source { name: "attention.cuh", text: include_str!("../kernels/attention.cuh") },
    Source { name: "blocks.cuh", text: include_str!("../kernels/blocks.cuh") },
    Source { name: "gemv.cuh", text: include_str!("../kernels/gemv.cuh") },
    Source { name: "gemm.cuh", text: include_str!("../kernels/gemm.cuh") },
    Source { name: "reduce.cuh", text: include_str!("../kernels/reduce.cuh") },
    Source { name: "rounding.cuh", text: include_str!("../kernels/rounding.cuh") },
    Source { name: "gemv_int8.cuh", text: include_str!("../kernels/gemv_int8.cuh") },
    Source { name: "quantize.cuh", text: include_str!("../kernels/quantize.cuh") },
    Source { name: "chunks.cuh", text: include_str!("../kernels/chunks.cuh") },
];

macro_rules! sources {
    ($($(#[$doc:meta])* $constant:ident = $file:literal;)*) => {
        $($(#[$doc])* pub static $constant: Source =
            Source { name: $file, text: include_str!(concat!("../kernels/", $file)) };)*
        /// Every source.
        pub static ALL: &[&Source] = &[$(&$constant),*];
    };
}

sources! {
    /// Attention of single rows over pages, the positions split over blocks.
    ATTENTION_DECODE = "attention_decode.cu";
    /// Attention of many rows of a sequence.
    ATTENTION_PREFILL = "attention_prefill.cu";
    /// What a device can do at most.
    CEILINGS = "ceilings.cu";
    /// Blocks to plain numbers.
    DEQUANTIZE = "dequantize.cu";
    /// Blocks of code books to plain numbers.
    DEQUANTIZE_IQ = "dequantize_iq.cu";
    /// NF4, FP4, GPTQ and AWQ to plain numbers.
    DEQUANTIZE_PACKED = "dequantize_packed.cu";
    /// Operations on each element.
    ELEMENTWISE = "elementwise.cu";
    /// Matrix products on tensor cores.
    GEMM = "gemm.cu";
    /// Matrix products with weights in GGML's blocks.
    GEMM_BLOCKS = "gemm_blocks.cu";
    /// Matrix products with weights of 4 bits.
    GEMM_W4A16 = "gemm_w4a16.cu";
    /// Matrix products of INT8.
    GEMM_W8A8 = "gemm_w8a8.cu";
    /// Products of a few rows with a matrix of blocks of 32.
    GEMV = "gemv.cu";
    /// Products of a few rows with a matrix of blocks of 256.
    GEMV_K = "gemv_k.cu";
    /// Products of a few rows with a matrix of floats.
    GEMV_FLOAT = "gemv_float.cu";
    /// Products of a few rows with a matrix of 4 bits in groups of 128.
    GEMV_W4A16 = "gemv_w4a16.cu";
    /// RMSNorm and LayerNorm.
    NORM = "norm.cu";
    /// Plain numbers to blocks of 32, bytes, NF4 and FP4.
    QUANTIZE = "quantize.cu";
    /// Plain numbers to blocks of 256.
    QUANTIZE_K = "quantize_k.cu";
    /// Rotary embedding, with the writing of keys and values.
    ROPE = "rope.cu";
    /// Rows gathered, added up and ranked; the embedding.
    ROWS = "rows.cu";
    /// From logits to a token.
    SAMPLING = "sampling.cu";
    /// Softmax of rows.
    SOFTMAX = "softmax.cu";
    /// Addition of INT8 vectors with scales and zero points.
    VECTOR_ADD = "vector_add.cu";
}

/// A kernel: an `extern "C"` function of a source.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Where it is.
    pub source: &'static Source,
    /// The function.
    pub name: &'static str,
}

impl Kernel {
    /// The kernel `name` of a source.
    pub const fn new(source: &'static Source, name: &'static str) -> Self {
        Self { source, name }
    }
}

impl Source {
    /// A hash of this source, the headers, and whatever else decides what is made of them.
    pub fn hash(&self, further: &[&str]) -> String {
        let mut hash = Sha256::new();
        let headers = HEADERS.iter().flat_map(|h| [h.name, h.text]);
        for part in [self.name, self.text].into_iter().chain(headers).chain(further.iter().copied())
        {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
