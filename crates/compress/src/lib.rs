//! From one model file to another: convert, quantize.
//!
//! Models are larger than memory, so that everything here streams: a model is walked tensor by
//! tensor, a method is applied to each and the result written. One tensor, or a part of one, is held
//! at a time, and what is written appears under its name when it is whole.
//!
//! - [`convert`]: Hugging Face folders to GGUF files and back;
//! - [`quantize`]: a GGUF file to one of fewer bits, by llama.cpp's mixtures.
//!
//! The encodings are in `blocks`, the mixtures in `quant-core`, the names in `model::arch`.
#![forbid(unsafe_code)]

pub mod convert;
mod error;
mod progress;
mod quantize;

pub use blocks::DType;
pub use error::Error;
pub use gguf::Gguf;
pub use progress::{Progress, Step};
pub use quant_core::{FileType, Override, RecipeOptions};
pub use quantize::{Quantization, QuantizeOptions, Quantized, plan, quantize};
