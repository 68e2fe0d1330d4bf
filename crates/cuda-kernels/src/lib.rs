//! CUDA kernels of Infinity, the host code that launches them, and what checks both without a GPU.
//!
//! A [`Gpu`] has memory ([`Buffer`]) and runs [`Kernel`]s; the modules of [`ops`] are the host code, one a
//! family, over buffers of bytes. Behind a `Gpu` is a [`Backend`]: the driver ([`driver::open`]), or, with the
//! feature `emulator`, C++ on the processor (`emulator::Emulator`), so that the same host code and the same
//! kernels are tested on both.
//!
//! The sources under `kernels/` are part of this crate ([`source`]). At run time NVRTC compiles one to machine code when
//! the first of its kernels is launched ([`compile`]), and a folder keeps it. Nothing of CUDA is needed to build,
//! and nothing is loaded before it is asked for.
//!
//! A step that is the same each time becomes a [`Graph`] ([`Gpu::capture`]); [`profile`] tells where the
//! device's time goes.
//!
//! What is not here: tensors and their types (`tensor`), which kernel a model needs (`model`).

mod backend;
pub mod blas;
pub mod compile;
pub mod driver;
#[cfg(feature = "emulator")]
pub mod emulator;
mod error;
mod gate;
mod gpu;
mod graph;
mod measure;
mod memory;
pub mod nvtx;
pub mod ops;
pub mod profile;
pub mod source;
mod staging;
mod symbols;

pub use backend::{Arg, Backend, DevicePtr, EventId, GraphId, Launch, Properties};
pub use error::{Error, Result};
pub use gpu::{Buffer, Gpu};
pub use graph::Graph;
pub use measure::Event;
pub use memory::MemoryStats;
pub use source::{Kernel, Source};
