//! Memory-mapped reading and atomic writing of files, and memory for what is as large as one.
//!
//! Two rules of the whole project live here: a model is mapped, never read whole, and nothing is
//! written in place (temporary file in the same folder, fsync, rename, fsync of the folder).

mod atomic;
mod available;
mod mapped;
mod memory;
mod space;
pub mod units;

pub use atomic::{AtomicFile, write_atomically};
pub use available::available_memory;
pub use mapped::{FileStamp, MappedFile};
pub use memory::LargeMemory;
pub use space::free_space;
