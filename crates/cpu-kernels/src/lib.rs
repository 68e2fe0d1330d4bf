//! CPU kernels: SIMD paths chosen at run time, and the thread pool they run on.
//!
//! A kernel is written once over sixteen lanes (`simd`) and compiled for each [`Isa`]. What it
//! computes for a row depends on that row, the formats and the instruction set alone: not on the
//! batch the row is in, on how keys are cut into runs, or on the number of threads. Tensors,
//! shapes and devices are not known here: everything is a slice.
//!
//! Environment: `INFINITY_ISA` (`portable`, `avx2`, `avx2-vnni`, `avx512`, `amx`) and
//! `INFINITY_THREADS`.

// Loops over registers and lanes read best with their index, and several arrays share it.
#![allow(clippy::needless_range_loop)]

pub mod activation;
pub mod amx;
pub mod attention;
pub mod ceilings;
pub mod codec;
pub mod elementwise;
pub mod embed;
mod error;
mod isa;
pub mod kv_write;
pub mod matmul;
pub mod norm;
mod pool;
pub mod profile;
pub mod rope;
mod simd;
pub mod softmax;
mod topology;

pub use blocks::DType;
pub use error::KernelError;
pub use isa::{Isa, UnknownIsa};
pub use pool::ThreadPool;
pub use profile::Profile;
