//! What host code needs of a device: memory, copies, launches.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::blas::Blas;
use crate::{Kernel, Result};

/// An address in a device's memory.
pub type DevicePtr = u64;

/// A moment in a device's work, as the backend names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventId(pub u64);

/// Captured work, as the backend names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u64);

/// What a device is.
#[derive(Clone, Debug, PartialEq)]
pub struct Properties {
    /// Its number.
    pub ordinal: usize,
    /// What its maker calls it.
    pub name: String,
    /// Major and minor.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Bytes of memory.
    pub memory: usize,
    /// Shared memory that a block can ask for, in bytes.
    pub shared_per_block: u32,
}

impl Properties {
    /// As compilers name the architecture: `sm_90a` for 9.0, whose own instructions need the `a`.
    pub fn architecture(&self) -> String {
        let (major, minor) = self.compute_capability;
        let suffix = if major == 9 { "a" } else { "" };
        format!("sm_{major}{minor}{suffix}")
    }
}

/// How many blocks of how many threads run a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks: x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block: x, y, z.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared: u32,
}

impl Launch {
    /// `blocks` blocks of `threads` threads.
    pub const fn new(blocks: u32, threads: u32) -> Self {
        Self { grid: [blocks, 1, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// A grid of two dimensions.
    pub const fn grid2(x: u32, y: u32, threads: u32) -> Self {
        Self { grid: [x, y, 1], block: [threads, 1, 1], shared: 0 }
    }

    /// A grid of three dimensions.
    pub const fn grid3(x: u32, y: u32, z: u32, threads: u32) -> Self {
        Self { grid: [x, y, z], block: [threads, 1, 1], shared: 0 }
    }

    /// The same with dynamic shared memory.
    #[must_use]
    pub const fn with_shared(self, bytes: u32) -> Self {
        Self { shared: bytes, ..self }
    }
}

/// A kernel's argument.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Arg {
    /// A pointer.
    Ptr(DevicePtr),
    /// `int`.
    I32(i32),
    /// `float`.
    F32(f32),
    /// `int64_t`.
    I64(i64),
}

impl Arg {
    /// Its bytes as a parameter, the lowest first.
    pub(crate) fn word(self) -> u64 {
        match self {
            Arg::Ptr(pointer) => pointer,
            Arg::I32(x) => u64::from(x as u32),
            Arg::F32(x) => u64::from(x.to_bits()),
            Arg::I64(x) => x as u64,
        }
    }
}

impl From<i32> for Arg {
    fn from(x: i32) -> Self {
        Arg::I32(x)
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::F32(x)
    }
}

/// A device that runs kernels: an NVIDIA GPU, or the emulator.
///
/// Everything is done in the order of the calls. Uploads and launches return before it is done.
pub trait Backend: fmt::Debug + Send + Sync {
    /// What it is.
    fn properties(&self) -> &Properties;

    /// The size to allocate for so many bytes, and the largest kept one to take instead.
    fn sizes(&self, bytes: usize) -> RangeInclusive<usize> {
        crate::memory::sizes(bytes)
    }

    /// Bytes free, and in all.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    fn memory(&self) -> Result<(usize, usize)>;

    /// Takes memory that begins at a multiple of 256 bytes.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Call`].
    fn allocate(&self, bytes: usize) -> Result<DevicePtr>;

    /// Gives memory back, once everything before is done with it.
    ///
    /// # Safety
    /// It was allocated here, of so many bytes, and nobody uses it any longer.
    unsafe fn free(&self, at: DevicePtr, bytes: usize);

    /// Copies to the device; `from` may change as soon as this returns.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    ///
    /// # Safety
    /// As many bytes from `to` on are allocated here.
    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()>;

    /// Copies from the device, and waits for it and all that came before.
    ///
    /// # Errors
    /// [`crate::Error::Call`], also for what went wrong in a launch before.
    ///
    /// # Safety
    /// As many bytes from `from` on are allocated here.
    unsafe fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    ///
    /// # Safety
    /// Both ranges are allocated here and do not overlap.
    unsafe fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()>;

    /// Writes the same byte everywhere.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    ///
    /// # Safety
    /// As many bytes from `to` on are allocated here.
    unsafe fn fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()>;

    /// Runs a kernel.
    ///
    /// # Errors
    /// [`crate::Error::Compile`], [`crate::Error::NoCompiler`], [`crate::Error::Refused`],
    /// [`crate::Error::Launch`]; [`crate::Error::Capture`] for a kernel's first launch in a capture.
    ///
    /// # Safety
    /// The arguments are those of the kernel in number and type, and what it reads and writes through
    /// them under this launch is allocated here.
    unsafe fn launch(&self, kernel: &Kernel, launch: &Launch, args: &[Arg]) -> Result<()>;

    /// Waits until everything is done.
    ///
    /// # Errors
    /// [`crate::Error::Call`], also for what went wrong in a launch before.
    fn synchronize(&self) -> Result<()>;

    /// The moment when all that came before is done.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    fn record(&self) -> Result<EventId>;

    /// The time from one moment to another; waits for both.
    ///
    /// # Errors
    /// [`crate::Error::Call`], also for what went wrong in a launch before.
    ///
    /// # Safety
    /// Both were recorded here, outside of a capture, and not freed.
    unsafe fn elapsed(&self, from: EventId, to: EventId) -> Result<Duration>;

    /// Forgets a moment.
    ///
    /// # Safety
    /// It was recorded here and is not used again.
    unsafe fn free_event(&self, event: EventId);

    /// From now on launches, copies and fills are noted instead of done.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    fn begin_capture(&self) -> Result<()>;

    /// What was noted, ready to be done as often as wanted. The capture is over also where this fails.
    ///
    /// # Errors
    /// [`crate::Error::Call`].
    fn end_capture(&self) -> Result<GraphId>;

    /// Does what was noted.
    ///
    /// # Errors
    /// [`crate::Error::Call`]; [`crate::Error::Launch`] from the emulator.
    ///
    /// # Safety
    /// It was captured here and not freed, all memory that it uses is allocated, and no other thread
    /// replays it at the same time.
    unsafe fn replay(&self, graph: GraphId) -> Result<()>;

    /// Forgets what was noted.
    ///
    /// # Safety
    /// It was captured here and is not used again.
    unsafe fn free_graph(&self, graph: GraphId);

    /// A library for products of halves, where there is one.
    fn blas(&self) -> Option<&dyn Blas> {
        None
    }
}
