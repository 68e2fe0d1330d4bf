//! Hugging Face folders to GGUF files and back.
//!
//! A GGUF file is what llama.cpp's `convert_hf_to_gguf.py` writes: the same names of tensors and
//! keys, rows of queries and keys of the Llama family reordered for its interleaved rotary
//! embedding, one added to Gemma's norm weights. A folder is what transformers writes. What neither
//! of them can say about a model is said by keys of our own, which they ignore
//! ([`model::arch::gguf`]).

mod config_json;
mod layout;
mod metadata;
mod shards;
mod to_gguf;
mod to_hf;

use tensor::DType;

use crate::Error;

pub use to_gguf::hf_to_gguf;
pub use to_hf::gguf_to_hf;

/// What is asked of a conversion.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The type of the matrices: F32, F16 or BF16. By default the checkpoint's own, F16 for a
    /// quantized one. In GGUF, vectors and norms are F32 in any case, as llama.cpp needs them.
    pub dtype: Option<DType>,
    /// `general.name`; by default made from the name of the folder.
    pub name: Option<String>,
    /// Threads; 0 for as many as the machine has.
    pub threads: usize,
}

/// What a conversion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of their data.
    pub bytes: u64,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

/// The type of the matrices of a model whose first matrix has this one.
fn output_type(options: &Options, stored: DType) -> Result<DType, Error> {
    match options.dtype {
        None => Ok(match stored {
            DType::F32 | DType::F64 => DType::F32,
            DType::BF16 => DType::BF16,
            _ => DType::F16,
        }),
        Some(dtype @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(dtype),
        Some(dtype) => Err(Error::OutputType { dtype }),
    }
}
