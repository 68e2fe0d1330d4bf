//! CPU kernels: SIMD paths chosen at run time, and the thread pool they run on.
pub mod activation;
pub mod attention;
pub mod embed;
mod error;
mod isa;
pub mod matmul;
pub mod norm;
mod pool;
pub mod rope;
pub mod softmax;
pub use error::KernelError;
pub use isa::{Isa, UnknownIsa};
pub use pool::ThreadPool;
