//! NVIDIA GPUs through the driver.
//!
//! libcuda is loaded when first asked for. Where it is missing or too old, cudarc's calls would panic, so that
//! every path begins with [`count`].
//!
//! The driver runs kernels after the call that launches them has returned, and says what went wrong in one when it
//! is next waited for. The error then names the kernel that was launched last; with `CUDA_LAUNCH_BLOCKING=1`
//! in the environment that is the one.

mod discovery;
mod modules;
mod pinned;

use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{self, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaStream, DriverError, result};

pub use self::discovery::{check, count, list, properties};

use self::modules::Loaded;
use self::pinned::Pinned;
use crate::blas::{Blas, CublasLt};
use crate::compile::CubinCache;
use crate::staging::Staging;
use crate::{
    Arg, Backend, DevicePtr, Error, EventId, Gpu, GraphId, Kernel, Launch, Properties, Result,
};

/// From so many bytes on copies go through pinned memory; shorter ones the driver puts among its commands.
const STAGED: usize = 64 << 10;

/// Shared memory that a kernel may use without saying so.
const DEFAULT_SHARED: u32 = 48 << 10;

/// One GPU: a context, and the stream in which everything is done.
struct Driver {
    properties: Properties,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    cache: CubinCache,
    loaded: Mutex<Loaded>,
    /// Looked for at the first product.
    blas: OnceLock<Option<CublasLt>>,
    /// None where the system gives no pinned memory.
    staging: OnceLock<Option<Mutex<Staging<Pinned>>>>,
    /// Events to use again: a profile takes two a launch.
    events: Mutex<Vec<EventId>>,
    capturing: AtomicBool,
}

/// Opens a GPU whose compiled kernels are kept in `cache`.
///
/// # Errors
/// [`Error::Unavailable`], also for one that is too old; [`Error::Call`].
pub fn open(ordinal: usize, cache: CubinCache) -> Result<Gpu> {
    let properties = properties(ordinal)?;
    discovery::check_capability(&properties)?;
    let context = discovery::context(ordinal)?;
    let failed = |call: &str, e: DriverError| call_failed(ordinal, call, &e);
    // SAFETY: everything is done in one stream, whose order is all the synchronization there is to be.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(|e| failed("cuStreamCreate", e))?;
    Ok(Gpu::new(Arc::new(Driver {
        properties,
        context,
        stream,
        cache,
        loaded: Mutex::default(),
        blas: OnceLock::new(),
        staging: OnceLock::new(),
        events: Mutex::default(),
        capturing: AtomicBool::new(false),
    })))
}

fn call_failed(ordinal: usize, call: &str, e: &DriverError) -> Error {
    Error::Call { ordinal, call: call.to_owned(), reason: text(e) }
}

/// The driver's name of an error and its words.
fn text(e: &DriverError) -> String {
    let words = e.error_string().ok().and_then(|s| s.to_str().ok()).unwrap_or("unknown");
    format!("{words} ({:?})", e.0)
}

impl Driver {
    fn failed(&self, call: &str, e: DriverError) -> Error {
        call_failed(self.properties.ordinal, call, &e)
    }

    /// The context must be the thread's.
    fn bind(&self) -> Result<()> {
        self.context.bind_to_thread().map_err(|e| self.failed("cuCtxSetCurrent", e))
    }

    /// A failure while waiting, for which a kernel before may be the reason.
    fn waited(&self, call: &str, e: DriverError) -> Error {
        match self.loaded().last {
            Some(kernel) => self.failed(&format!("{call} (kernel {kernel} was launched last)"), e),
            None => self.failed(call, e),
        }
    }

    /// The ring for long copies.
    fn staging(&self, bytes: usize) -> Option<MutexGuard<'_, Staging<Pinned>>> {
        if bytes < STAGED {
            return None;
        }
        let staging = self.staging.get_or_init(|| match Pinned::new(&self.context, &self.stream) {
            Ok(pinned) => Some(Mutex::new(Staging::new(pinned))),
            Err(e) => {
                tracing::warn!(error = text(&e), "no pinned memory: copies are slower");
                None
            }
        });
        staging.as_ref().map(|staging| staging.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn events(&self) -> MutexGuard<'_, Vec<EventId>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn launch_failed(&self, kernel: &Kernel, e: &DriverError) -> Error {
        Error::Launch { ordinal: self.properties.ordinal, kernel: kernel.name, reason: text(e) }
    }
}

fn event(id: EventId) -> sys::CUevent {
    std::ptr::with_exposed_provenance_mut(id.0 as usize)
}

fn graph(id: GraphId) -> sys::CUgraphExec {
    std::ptr::with_exposed_provenance_mut(id.0 as usize)
}

impl Backend for Driver {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| self.failed("cuMemGetInfo", e))
    }

    fn allocate(&self, bytes: usize) -> Result<DevicePtr> {
        self.bind()?;
        // SAFETY: a context is bound; the memory is of any content.
        match unsafe { result::malloc_sync(bytes) } {
            Ok(at) => Ok(at),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, total) = self.memory()?;
                let ordinal = self.properties.ordinal;
                Err(Error::OutOfMemory { ordinal, needed: bytes, free, total })
            }
            Err(e) => Err(self.failed("cuMemAlloc", e)),
        }
    }

    unsafe fn free(&self, at: DevicePtr, _: usize) {
        // SAFETY: the caller's promise; the driver waits for what still uses it.
        let freed = self.bind().map(|()| unsafe { result::free_sync(at) });
        if let Ok(Err(e)) = freed {
            tracing::warn!(error = text(&e), "device memory is not given back");
        }
    }

    unsafe fn upload(&self, to: DevicePtr, from: &[u8]) -> Result<()> {
        self.bind()?;
        if let Some(mut staging) = self.staging(from.len()) {
            // SAFETY: the caller's promise.
            return unsafe { staging.upload(to, from) };
        }
        // SAFETY: the caller's promise. From pageable memory the driver has read all when this returns.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuMemcpyHtoDAsync", e))
    }

    unsafe fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.bind()?;
        if let Some(mut staging) = self.staging(to.len()) {
            self.synchronize()?; // whose error names a kernel
            // SAFETY: the caller's promise.
            return unsafe { staging.download(to, from) };
        }
        // SAFETY: the caller's promise; `to` lives until the stream is done.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuMemcpyDtoHAsync", e))?;
        self.synchronize()
    }

    unsafe fn copy(&self, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuMemcpyDtoDAsync", e))
    }

    unsafe fn fill(&self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::memset_d8_async(to, byte, bytes, self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuMemsetD8Async", e))
    }

    unsafe fn launch(&self, kernel: &Kernel, launch: &Launch, args: &[Arg]) -> Result<()> {
        self.bind()?;
        let function = self.function(kernel)?;
        if launch.shared > DEFAULT_SHARED {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function
                .set_attribute(most, launch.shared.cast_signed())
                .map_err(|e| self.launch_failed(kernel, &e))?;
        }
        let mut words = [0u64; MOST_ARGS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGS];
        assert!(args.len() <= MOST_ARGS, "{}: {} arguments", kernel.name, args.len());
        for ((word, pointer), arg) in words.iter_mut().zip(&mut pointers).zip(args) {
            *word = arg.word();
            *pointer = std::ptr::from_mut(word).cast();
        }
        let [x, y, z] = launch.grid;
        let [bx, by, bz] = launch.block;
        let (stream, pointers) = (self.stream.cu_stream(), &mut pointers[..args.len()]);
        // SAFETY: the caller's promise; the driver copies the arguments before it returns.
        unsafe {
            let (grid, block) = ((x, y, z), (bx, by, bz));
            result::launch_kernel(
                function.cu_function(),
                grid,
                block,
                launch.shared,
                stream,
                pointers,
            )
        }
        .map_err(|e| self.launch_failed(kernel, &e))
    }

    fn synchronize(&self) -> Result<()> {
        self.stream.synchronize().map_err(|e| self.waited("cuStreamSynchronize", e))
    }

    fn record(&self) -> Result<EventId> {
        self.bind()?;
        let kept = self.events().pop();
        let id = match kept {
            Some(id) => id,
            None => {
                let made = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
                let made = made.map_err(|e| self.failed("cuEventCreate", e))?;
                EventId(made.expose_provenance() as u64)
            }
        };
        // SAFETY: both are of this context and alive.
        let recorded = unsafe { result::event::record(event(id), self.stream.cu_stream()) };
        recorded.map(|()| id).map_err(|e| {
            self.events().push(id);
            self.failed("cuEventRecord", e)
        })
    }

    unsafe fn elapsed(&self, from: EventId, to: EventId) -> Result<Duration> {
        type ElapsedTime =
            unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe {
            result::event::synchronize(event(from))
                .and_then(|()| result::event::synchronize(event(to)))
        }
        .map_err(|e| self.waited("cuEventSynchronize", e))?;
        let mut milliseconds = 0.0f32;
        // SAFETY: the type is cuda.h's. By this name every driver has it; cudarc asks for `_v2`, of CUDA 12.8.
        let elapsed = unsafe { sys::culib().get::<ElapsedTime>(b"cuEventElapsedTime\0") };
        let Ok(elapsed) = elapsed else {
            let (call, reason) =
                ("cuEventElapsedTime".into(), "the driver does not have it".into());
            return Err(Error::Call { ordinal: self.properties.ordinal, call, reason });
        };
        // SAFETY: the caller's promise; both are over.
        unsafe { elapsed(&mut milliseconds, event(from), event(to)) }
            .result()
            .map_err(|e| self.failed("cuEventElapsedTime", e))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }

    unsafe fn free_event(&self, event: EventId) {
        self.events().push(event);
    }

    fn begin_capture(&self) -> Result<()> {
        self.bind()?;
        // Relaxed: what does not go to the stream is not the capture's business. `Gate` keeps others from it.
        self.stream
            .begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED)
            .map_err(|e| self.failed("cuStreamBeginCapture", e))?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn end_capture(&self) -> Result<GraphId> {
        self.capturing.store(false, Ordering::Relaxed);
        self.bind()?;
        // SAFETY: the stream is alive.
        let captured = unsafe { result::stream::end_capture(self.stream.cu_stream()) };
        let captured = captured.map_err(|e| self.failed("cuStreamEndCapture", e))?;
        // SAFETY: the graph was captured just now; what is made of it does not need it.
        let made = unsafe {
            let made = result::graph::instantiate(captured, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(captured);
            made
        };
        let made = made.map_err(|e| self.failed("cuGraphInstantiate", e))?;
        Ok(GraphId(made.expose_provenance() as u64))
    }

    unsafe fn replay(&self, id: GraphId) -> Result<()> {
        self.bind()?;
        // SAFETY: the caller's promise.
        unsafe { result::graph::launch(graph(id), self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuGraphLaunch", e))
    }

    unsafe fn free_graph(&self, id: GraphId) {
        // SAFETY: the caller's promise.
        let freed = self.bind().map(|()| unsafe { result::graph::exec_destroy(graph(id)) });
        if let Ok(Err(e)) = freed {
            tracing::warn!(error = text(&e), "a graph is not given back");
        }
    }

    fn blas(&self) -> Option<&dyn Blas> {
        let open = || match CublasLt::open(self.properties.ordinal, &self.context, &self.stream) {
            Ok(blas) => Some(blas),
            Err(why) => {
                tracing::warn!(%why, "matrix products are done by this program's own kernels");
                None
            }
        };
        self.blas.get_or_init(open).as_ref().map(|blas| blas as &dyn Blas)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let events = std::mem::take(&mut *self.events());
        if self.bind().is_ok() {
            for id in events {
                // SAFETY: it was made by this context, and nobody has it.
                let _ = unsafe { result::event::destroy(event(id)) };
            }
        }
    }
}

/// Parameters that a kernel may have.
pub(crate) const MOST_ARGS: usize = 32;

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.properties.ordinal, self.properties.name)
    }
}
