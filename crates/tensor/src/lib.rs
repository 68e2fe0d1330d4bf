//! Tensors: shapes, dtypes, storage, devices, and every operation on them.
//!
//! A [`Tensor`] is a row-major array of up to a few dimensions whose elements are stored as a
//! [`DType`]: plain numbers or GGML blocks, in memory of our own, in a mapped file, or on a
//! device. A block format is a dtype, so a product with a quantized weight is an ordinary operation
//! ([`Compute::linear`]) that reads the blocks where they lie; the weight is never expanded whole.
//!
//! Operations are methods of [`Compute`], which holds what they run with: the device, the threads,
//! the instruction set, and what activations are rounded to in products. Activations are `f32`
//! matrices `[rows, features]`; a row's result does not depend on the other rows, nor on the number
//! of threads.
//!
//! This is the only crate that chooses a device.
//!
//! ```
//! use tensor::{Compute, Tensor};
//! let x = Tensor::from_vec([1, 2], vec![1.0, 2.0])?;
//! let w = Tensor::from_vec([3, 2], vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0])?;
//! let y = Compute::cpu().linear(&x, &w, None)?;
//! assert_eq!(y.as_f32()?, [1.0, 2.0, 3.0]);
//! # Ok::<(), tensor::Error>(())
//! ```
#![forbid(unsafe_code)]

mod buffers;
mod compute;
mod device;
mod error;
pub mod interleaved;
pub mod kv;
mod ops;
mod shape;
pub mod steps;
mod storage;
mod tensor;
mod warm_up;

pub use blocks::DType;
pub use compute::Compute;
pub use cpu_kernels::attention::AttentionAlgorithm;
pub use cpu_kernels::matmul::{Activations, UnknownActivations};
pub use cpu_kernels::profile;
pub use cpu_kernels::rope::RopeLayout;
pub use cpu_kernels::{Isa, Profile, ThreadPool};
pub use device::{Device, DeviceInfo, DeviceProfile};
pub use error::Error;
pub use ops::{Activation, AttentionRow, AttentionSpec, Draw, Rope};
pub use shape::Shape;
pub use steps::{StepCounts, StepInputs, Steps};
pub use storage::InterleavedBytes;
pub use tensor::Tensor;
pub use warm_up::warm_up;

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
