//! GGML block layouts and element types: scalar decode and encode.
#![forbid(unsafe_code)]

mod dtype;

pub use dtype::{DType, UnknownDType};
