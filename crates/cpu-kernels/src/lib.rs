//! CPU kernels: SIMD paths chosen at run time, and the thread pool they run on
