//! Pinned host memory of a context.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUevent_flags};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

use super::call_failed;
use crate::staging::Chunks;
use crate::{DevicePtr, Result};

/// Enough that a chunk's copy takes much longer than it takes to begin it.
const CHUNK: usize = 4 << 20;
const CHUNKS: usize = 4;

/// Chunks of pinned memory, with the event of each one's last copy.
pub(super) struct Pinned {
    memory: *mut c_void,
    done: Vec<sys::CUevent>,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

// SAFETY: the memory and the events belong to the context, which any thread can bind.
unsafe impl Send for Pinned {}

impl Pinned {
    /// The context must be the thread's.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        stream: &Arc<CudaStream>,
    ) -> Result<Self, DriverError> {
        // SAFETY: a context is bound; freed when dropped.
        let memory = unsafe { result::malloc_host(CHUNK * CHUNKS, 0) }?;
        let (context, stream) = (Arc::clone(context), Arc::clone(stream));
        let mut pinned = Self { memory, done: Vec::new(), context, stream };
        for _ in 0..CHUNKS {
            pinned.done.push(result::event::create(CUevent_flags::CU_EVENT_DISABLE_TIMING)?);
        }
        Ok(pinned)
    }

    fn failed(&self, call: &str, e: DriverError) -> crate::Error {
        call_failed(self.context.ordinal(), call, &e)
    }

    fn record(&self, chunk: usize) -> Result<()> {
        // SAFETY: both are of this context and alive.
        unsafe { result::event::record(self.done[chunk], self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuEventRecord", e))
    }

    fn slice(&self, chunk: usize, bytes: usize) -> &'static mut [u8] {
        assert!(chunk < CHUNKS && bytes <= CHUNK, "{bytes} bytes of chunk {chunk}");
        // SAFETY: within what was allocated, which began with no content that a byte could not have. The
        // callers let go of it before this is dropped, and of one before the next.
        unsafe {
            std::slice::from_raw_parts_mut(self.memory.cast::<u8>().add(chunk * CHUNK), bytes)
        }
    }
}

impl Chunks for Pinned {
    fn size(&self) -> (usize, usize) {
        (CHUNKS, CHUNK)
    }

    fn wait(&mut self, chunk: usize) -> Result<()> {
        // SAFETY: it is alive; one that was never recorded is done.
        unsafe { result::event::synchronize(self.done[chunk]) }
            .map_err(|e| self.failed("cuEventSynchronize", e))
    }

    fn memory(&mut self, chunk: usize) -> &mut [u8] {
        self.slice(chunk, CHUNK)
    }

    unsafe fn to_device(&mut self, chunk: usize, to: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise; the chunk is not written before its event is waited for.
        unsafe {
            result::memcpy_htod_async(to, &*self.slice(chunk, bytes), self.stream.cu_stream())
        }
        .map_err(|e| self.failed("cuMemcpyHtoDAsync", e))?;
        self.record(chunk)
    }

    unsafe fn to_host(&mut self, chunk: usize, from: DevicePtr, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise; the chunk is not read before its event is waited for.
        unsafe {
            result::memcpy_dtoh_async(self.slice(chunk, bytes), from, self.stream.cu_stream())
        }
        .map_err(|e| self.failed("cuMemcpyDtoHAsync", e))?;
        self.record(chunk)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_err() {
            return; // the context is gone, and its memory with it
        }
        for &event in &self.done {
            // SAFETY: it is of this context, and is waited for, since its copy uses the memory.
            let _ = unsafe {
                result::event::synchronize(event).and_then(|()| result::event::destroy(event))
            };
        }
        // SAFETY: it was allocated by `malloc_host` and no copy uses it.
        let _ = unsafe { result::free_host(self.memory) };
    }
}
