//! A device with its memory, and the buffers on it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytemuck::{AnyBitPattern, NoUninit};

use crate::blas::Blas;
use crate::memory::{Block, MemoryStats, Pool};
use crate::profile::Profile;
use crate::{Arg, Backend, DevicePtr, Error, Kernel, Launch, Properties, Result};

/// A device that kernels run on. Cheap to clone; clones are the same device.
#[derive(Clone, Debug)]
pub struct Gpu {
    pub(crate) pool: Arc<Pool>,
}

impl Gpu {
    /// A device behind a backend.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { pool: Arc::new(Pool::new(backend)) }
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        self.backend().properties()
    }

    fn backend(&self) -> &dyn Backend {
        &**self.pool.backend()
    }

    /// The device's library for products of halves, if it is installed.
    pub(crate) fn blas(&self) -> Option<&dyn Blas> {
        self.backend().blas()
    }

    /// A buffer of any content. One of no bytes has an address too.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], [`Error::Call`]; [`Error::Capture`] in a capture if nothing that fits is kept.
    pub fn alloc(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer { block: Arc::new(self.pool.take(bytes)?), range: 0..bytes })
    }

    /// A buffer of these elements.
    ///
    /// # Errors
    /// As [`Gpu::alloc`]; [`Error::Capture`] in a capture.
    pub fn upload<T: NoUninit>(&self, elements: &[T]) -> Result<Buffer> {
        let buffer = self.alloc(size_of_val(elements))?;
        buffer.write(elements)?;
        Ok(buffer)
    }

    /// A buffer of bytes that are all the same: poison for tests, or zeros.
    ///
    /// # Errors
    /// As [`Gpu::alloc`].
    pub fn filled(&self, byte: u8, bytes: usize) -> Result<Buffer> {
        let buffer = self.alloc(bytes)?;
        if bytes == 0 {
            return Ok(buffer); // a driver refuses what has nothing to do
        }
        // SAFETY: the buffer is as long.
        self.pool.work("fill", |backend| unsafe { backend.fill(buffer.ptr(), byte, bytes) })?;
        Ok(buffer)
    }

    /// Runs a kernel.
    ///
    /// # Errors
    /// [`Error::Compile`], [`Error::NoCompiler`], [`Error::Refused`], [`Error::Launch`]; [`Error::Capture`] for
    /// a kernel's first launch in a capture.
    ///
    /// # Safety
    /// As for [`Backend::launch`].
    pub unsafe fn launch(&self, kernel: &Kernel, launch: Launch, args: &[Arg]) -> Result<()> {
        if launch.grid.contains(&0) {
            return Ok(()); // a driver refuses what has nothing to do
        }
        // SAFETY: the caller's promise.
        self.pool.work(kernel.name, |backend| unsafe { backend.launch(kernel, &launch, args) })
    }

    /// Waits until everything is done.
    ///
    /// # Errors
    /// [`Error::Call`], also for what went wrong in a launch before; [`Error::Capture`] in a capture.
    pub fn synchronize(&self) -> Result<()> {
        self.pool.work_outside_graphs("waiting", |backend| backend.synchronize())
    }

    /// Bytes free on the device, and in all.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.backend().memory()
    }

    /// What its buffers take.
    pub fn memory_stats(&self) -> MemoryStats {
        self.pool.stats()
    }

    /// Gives the device what is kept for later uses; nothing in a capture.
    pub fn trim(&self) {
        self.pool.trim();
    }

    /// Begins to record where the device's time goes: see [`crate::profile`]. What was recorded before is
    /// forgotten.
    pub fn start_profile(&self) {
        self.pool.recorder.start(self.backend());
    }

    /// Whether one goes on.
    pub fn is_profiled(&self) -> bool {
        self.pool.recorder.is_on()
    }

    /// Ends it, once everything before is done.
    ///
    /// # Errors
    /// [`Error::Call`], also for what went wrong in a launch before.
    pub fn stop_profile(&self) -> Result<Profile> {
        self.pool.recorder.stop(self.backend())
    }
}

/// Bytes on a device. Clones and [slices](Buffer::slice) share them.
#[derive(Clone)]
pub struct Buffer {
    block: Arc<Block>,
    range: Range<usize>,
}

impl Buffer {
    /// Its device.
    pub fn gpu(&self) -> Gpu {
        Gpu { pool: Arc::clone(&self.block.pool) }
    }

    /// Where it begins. In a capture: the graph uses it.
    pub fn ptr(&self) -> DevicePtr {
        self.block.pool.used(&self.block);
        self.block.at + self.range.start as u64
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Whether nobody else shares its memory.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.block) == 1
    }

    /// A part of it, which shares its memory.
    ///
    /// # Panics
    /// If it is not within.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Buffer {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        let start = self.range.start;
        Buffer { block: Arc::clone(&self.block), range: start + range.start..start + range.end }
    }

    /// Its bytes as elements, once everything before is done.
    ///
    /// # Errors
    /// [`Error::Call`], also for what went wrong in a launch before; [`Error::Length`] if they are no
    /// whole elements; [`Error::Capture`] in a capture.
    pub fn download<T: AnyBitPattern + NoUninit>(&self) -> Result<Vec<T>> {
        let count = self.len() / size_of::<T>().max(1);
        let mut elements = vec![T::zeroed(); count];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut elements);
        if bytes.len() != self.len() {
            let (expected, got) = (bytes.len(), self.len());
            return Err(Error::Length { op: "download", what: "whole elements", expected, got });
        }
        let from = self.ptr();
        // SAFETY: the range lies in the block.
        let download = |backend: &dyn Backend| unsafe { backend.download(bytes, from) };
        self.block.pool.work_outside_graphs("download", download)?;
        Ok(elements)
    }

    /// Copies elements over its first bytes.
    ///
    /// # Errors
    /// [`Error::Length`] if they are more, [`Error::Call`]; [`Error::Capture`] in a capture.
    pub fn write<T: NoUninit>(&self, elements: &[T]) -> Result<()> {
        let bytes: &[u8] = bytemuck::cast_slice(elements);
        if bytes.len() > self.len() {
            let (expected, got) = (bytes.len(), self.len());
            return Err(Error::Length { op: "write", what: "the buffer", expected, got });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let to = self.ptr();
        // SAFETY: the bytes fit into the range, which lies in the block.
        let upload = |backend: &dyn Backend| unsafe { backend.upload(to, bytes) };
        self.block.pool.work_outside_graphs("upload", upload)
    }

    /// Copies another buffer of the device over its first bytes; they must not overlap.
    ///
    /// # Errors
    /// [`Error::Length`] if it is longer or they overlap, [`Error::Call`].
    pub fn copy_from(&self, from: &Buffer) -> Result<()> {
        let shared = Arc::ptr_eq(&self.block, &from.block);
        let overlap = shared
            && from.range.start < self.range.start + from.len()
            && self.range.start < from.range.end;
        if from.len() > self.len() || overlap {
            let (expected, got) = (from.len(), self.len());
            return Err(Error::Length { op: "copy", what: "a target apart", expected, got });
        }
        let (to, at, bytes) = (self.ptr(), from.ptr(), from.len());
        // SAFETY: both lie in their blocks and do not overlap.
        self.block.pool.work("copy", |backend| unsafe { backend.copy(to, at, bytes) })
    }

    /// As a kernel's argument, if it has at least `bytes` bytes and begins at a multiple of
    /// `alignment`.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::Alignment`].
    pub fn arg(
        &self,
        op: &'static str,
        what: &'static str,
        bytes: usize,
        alignment: usize,
    ) -> Result<Arg> {
        if self.len() < bytes {
            return Err(Error::Length { op, what, expected: bytes, got: self.len() });
        }
        let at = self.ptr();
        if !at.is_multiple_of(alignment as u64) {
            return Err(Error::Alignment { op, what, at, alignment });
        }
        Ok(Arg::Ptr(at))
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes on cuda:{}", self.len(), self.gpu().properties().ordinal)
    }
}
