//! CPU kernels: SIMD paths chosen at run time, and the thread pool they run on.
mod error;
mod isa;
mod pool;
pub mod activation;
pub mod attention;
pub mod embed;
pub mod matmul;
pub mod norm;
pub mod rope;
pub mod softmax;
pub use error::KernelError;
pub use isa::{Isa, UnknownIsa};
pub use pool::ThreadPool;
