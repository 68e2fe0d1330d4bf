<<<<<<< HEAD
//! From one model file to another: convert, quantize.
//!
//! A model is walked tensor by tensor; a method is applied to each and the result written, so that
//! no more than one tensor is in memory. What is written appears under its name when it is whole.
//!
//! - [`convert`]: Hugging Face folders to GGUF files and back;
//! - [`quantize`]: a GGUF file to one of other types, by llama.cpp's recipes.
//!
//! The encodings are in `blocks`, the recipes in `quant-core`, the names in `model::arch`.
#![forbid(unsafe_code)]

pub mod convert;
mod error;
mod progress;

pub use error::Error;
pub use progress::{Progress, Step};
=======
//! Recipes: walk a model, apply a method to each tensor, write the result.
//!
//! Models are larger than memory, so that everything here streams: one tensor, or a part of one, is
//! held at a time, and the file appears under its name when it is whole.
#![forbid(unsafe_code)]

mod error;
mod quantize;

pub use error::Error;
pub use quantize::{Quantization, QuantizeOptions, Quantized, plan, quantize};
>>>>>>> main
