//! Recipes: walk a model, apply a method to each tensor, write the result.
//!
//! Models are larger than memory, so that everything here streams: one tensor, or a part of one, is
//! held at a time, and the file appears under its name when it is whole.
#![forbid(unsafe_code)]

mod error;
mod quantize;

pub use error::Error;
pub use quantize::{Quantization, QuantizeOptions, Quantized, plan, quantize};
