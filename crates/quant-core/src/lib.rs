//! Quantization of whole tensors: threads and progress, what it costs, which type each tensor gets.
//!
//! - [`quantize_tensor`] and [`dequantize_tensor`] turn rows of one element type into another, a
//!   chunk of rows at a time, so that a mapped tensor is never expanded whole.
//! - [`ErrorStats`] measures what is lost; [`compare`] does so for two encodings of a tensor.
//! - [`FileType`] holds llama.cpp's names (`Q4_K_M`), and [`choose`] the type that llama.cpp gives
//!   each tensor of a file under such a name.
//!
//! It knows neither file formats nor models: tensors are names, shapes and bytes. The encoding of a
//! block is in `blocks`, and runs with the instructions that `cpu-kernels` finds.
#![forbid(unsafe_code)]

mod chunks;
mod compare;
mod error;
mod file_type;
mod measure;
mod recipe;
mod tensor;

pub use blocks::DType;
pub use chunks::{Progress, Work};
pub use compare::compare;
pub use error::QuantError;
pub use file_type::{FileType, UnknownFileType};
pub use measure::ErrorStats;
pub use recipe::{Choice, ModelFacts, Override, RecipeError, RecipeOptions, TensorFacts, choose};
pub use tensor::{Source, dequantize_tensor, quantize_into, quantize_tensor};
