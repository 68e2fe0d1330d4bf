//! NVIDIA GPUs through the driver.
//!
//! libcuda is loaded when first asked for. Where it is missing, cudarc's calls would panic, so that every
//! path here begins with [`count`].
//!
//! The driver runs kernels after the call that launches them has returned, and says what went wrong in one when it
//! is next waited for. The error then names the kernel that was launched last; with `CUDA_LAUNCH_BLOCKING=1`
//! in the environment that is the one.

mod pinned;

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use self::pinned::Pinned;
use crate::blas::{Blas, CublasLt};
use crate::compile::CubinCache;
use crate::staging::Staging;
use crate::{
    Arg, Backend, DevicePtr, Error, EventId, Gpu, GraphId, Kernel, Launch, Properties, Result,
};

/// The oldest architecture that the kernels are written for.
const OLDEST: (u32, u32) = (8, 0);

/// The oldest driver, by the CUDA version that it is for: the first that takes code of a later NVRTC 12 or 13.
const OLDEST_DRIVER: (u32, u32) = (12, 0);

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

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
    /// The kernel that was launched last.
    last: Option<&'static str>,
}

/// The CUDA version that the driver is for.
fn driver_version() -> (u32, u32) {
    let mut version = 0;
    // SAFETY: the library is there, as `count` found; writes an integer.
    let _ = unsafe { sys::cuDriverGetVersion(&mut version) };
    let version = u32::try_from(version).unwrap_or(0);
    (version / 1000, version % 1000 / 10)
}

/// How many GPUs the driver shows.
///
/// # Errors
/// [`Error::Unavailable`] where there is no driver, or it does not start.
pub fn count() -> Result<usize> {
    // SAFETY: only tries to load the driver's library and asks nothing of it.
    if !unsafe { sys::is_culib_present() } {
        let reason = "the NVIDIA driver (libcuda) is not installed on this machine".into();
        return Err(Error::Unavailable { ordinal: 0, reason });
    }
    let count =
        CudaContext::device_count().map_err(|e| unavailable(0, "the driver does not start", &e))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Whether there is a GPU of this number that the kernels run on.
///
/// # Errors
/// [`Error::Unavailable`] says what is missing.
pub fn check(ordinal: usize) -> Result<()> {
    let count = count().map_err(|e| match e {
        Error::Unavailable { reason, .. } => Error::Unavailable { ordinal, reason },
        other => other,
    })?;
    if ordinal < count {
        return Ok(());
    }
    Err(Error::Unavailable { ordinal, reason: absent(count) })
}

fn absent(count: usize) -> String {
    match count {
        0 => "the NVIDIA driver shows no GPU".into(),
        1 => "this machine has one NVIDIA GPU, cuda:0".into(),
        _ => format!("this machine has {count} NVIDIA GPUs, cuda:0 to cuda:{}", count - 1),
    }
}

/// What a GPU is, without using it.
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Call`].
pub fn properties(ordinal: usize) -> Result<Properties> {
    check(ordinal)?;
    describe(ordinal, &*context(ordinal)?)
}

/// Opens a GPU whose compiled kernels are kept in `cache`.
///
/// # Errors
/// [`Error::Unavailable`], also for one that is too old; [`Error::Call`].
pub fn open(ordinal: usize, cache: CubinCache) -> Result<Gpu> {
    check(ordinal)?;
    let context = context(ordinal)?;
    let properties = describe(ordinal, &context)?;
    if properties.compute_capability < OLDEST {
        let (major, minor) = properties.compute_capability;
        let (o_major, o_minor) = OLDEST;
        let name = &properties.name;
        let reason = format!(
            "{name} has compute capability {major}.{minor}, the kernels need {o_major}.{o_minor} (A100, RTX 30 or newer)"
        );
        return Err(Error::Unavailable { ordinal, reason });
    }
    let driver = driver_version();
    if driver < OLDEST_DRIVER {
        let ((major, minor), (o_major, o_minor)) = (driver, OLDEST_DRIVER);
        let reason = format!(
            "the NVIDIA driver is for CUDA {major}.{minor}, {o_major}.{o_minor} or newer is needed: update it"
        );
        return Err(Error::Unavailable { ordinal, reason });
    }
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

fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    CudaContext::new(ordinal).map_err(|e| unavailable(ordinal, "it cannot be opened", &e))
}

fn describe(ordinal: usize, context: &CudaContext) -> Result<Properties> {
    let told = |e: DriverError| call_failed(ordinal, "cuDeviceGetAttribute", &e);
    let number = |attribute| context.attribute(attribute).map_err(told);
    let unsigned = |x: i32| u32::try_from(x).unwrap_or(0);
    let (major, minor) = context.compute_capability().map_err(told)?;
    Ok(Properties {
        ordinal,
        name: context.name().map_err(told)?,
        compute_capability: (unsigned(major), unsigned(minor)),
        multiprocessors: unsigned(number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?),
        memory: context.total_mem().map_err(told)?,
        shared_per_block: unsigned(number(
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
        )?),
    })
}

fn unavailable(ordinal: usize, what: &str, e: &DriverError) -> Error {
    Error::Unavailable { ordinal, reason: format!("{what}: {}", text(e)) }
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

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, kernel: &Kernel) -> Result<CudaFunction> {
        let mut loaded = self.loaded();
        loaded.last = Some(kernel.name);
        if let Some(function) = loaded.functions.get(kernel.name) {
            return Ok(function.clone());
        }
        let ordinal = self.properties.ordinal;
        if self.capturing.load(Ordering::Relaxed) {
            // Loading may wait for the device, which a capture does not survive.
            let what = format!(
                "kernel {} is launched for the first time: do the same once before",
                kernel.name
            );
            return Err(Error::Capture { ordinal, what });
        }
        let failed =
            |e: DriverError| load_failed(ordinal, kernel.name, driver_version(), e.0, text(&e));
        let module = match loaded.modules.get(kernel.source.name) {
            Some(module) => Arc::clone(module),
            None => {
                let cubin = self.cache.cubin(kernel.source, &self.properties.architecture())?;
                let module = self.context.load_module(Ptx::from_binary(cubin)).map_err(failed)?;
                loaded.modules.insert(kernel.source.name, Arc::clone(&module));
                module
            }
        };
        let function = module.load_function(kernel.name).map_err(failed)?;
        loaded.functions.insert(kernel.name, function.clone());
        Ok(function)
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

/// Why a module or its function was not loaded.
fn load_failed(
    ordinal: usize,
    kernel: &'static str,
    driver: (u32, u32),
    code: sys::CUresult,
    reason: String,
) -> Error {
    match code {
        sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU
        | sys::CUresult::CUDA_ERROR_INVALID_IMAGE
        | sys::CUresult::CUDA_ERROR_INVALID_PTX
        | sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            Error::Refused { ordinal, kernel, driver, reason }
        }
        _ => Error::Launch { ordinal, kernel, reason },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said() {
        assert_eq!(absent(0), "the NVIDIA driver shows no GPU");
        assert_eq!(absent(1), "this machine has one NVIDIA GPU, cuda:0");
        assert_eq!(absent(8), "this machine has 8 NVIDIA GPUs, cuda:0 to cuda:7");
        let error = check(999).unwrap_err();
        assert!(matches!(error, Error::Unavailable { ordinal: 999, .. }), "{error}");
        let (opened, cache) =
            (open(999, CubinCache::default()).unwrap_err(), properties(999).unwrap_err());
        assert_eq!((opened.to_string(), cache.to_string()), (error.to_string(), error.to_string()));
    }

    #[test]
    fn an_old_driver_is_named() {
        let failed = |code| load_failed(1, "norm", (12, 2), code, "no binary".into());
        let error = failed(sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        assert!(matches!(
            error,
            Error::Refused { ordinal: 1, kernel: "norm", driver: (12, 2), .. }
        ));
        let said = error.to_string();
        assert!(said.contains("CUDA 12.2") && said.contains("update the driver"), "{said}");
        let error = failed(sys::CUresult::CUDA_ERROR_NOT_FOUND);
        assert!(matches!(error, Error::Launch { kernel: "norm", .. }), "{error}");
    }
}
