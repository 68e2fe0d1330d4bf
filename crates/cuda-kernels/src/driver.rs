//! NVIDIA GPUs through the driver.
//!
//! libcuda is loaded when first asked for. Where it is missing, cudarc's calls would panic, so that every
//! path here begins with [`count`].

use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUfunction_attribute};
use cudarc::driver::{CudaContext, CudaFunction, CudaModule, CudaStream, DriverError, result};
use cudarc::nvrtc::Ptx;

use crate::compile::CubinCache;
use crate::{Arg, Backend, DevicePtr, Error, Gpu, Kernel, Launch, Properties, Result};

/// The oldest architecture that the kernels are written for.
const OLDEST: (u32, u32) = (8, 0);

/// Shared memory that a kernel may use without saying so.
const DEFAULT_SHARED: u32 = 48 << 10;

/// One GPU: a context, and the stream in which everything is done.
struct Driver {
    properties: Properties,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    cache: CubinCache,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
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
    let reason = format!("this machine has {count} NVIDIA GPUs");
    Err(Error::Unavailable { ordinal, reason })
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
    let failed = |call: &str, e: DriverError| call_failed(ordinal, call, &e);
    // SAFETY: everything is done in one stream, whose order is all the synchronization there is to be.
    unsafe { context.disable_event_tracking() };
    let stream = context.new_stream().map_err(|e| failed("cuStreamCreate", e))?;
    let loaded = Mutex::default();
    Ok(Gpu::new(Arc::new(Driver { properties, context, stream, cache, loaded })))
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

    fn function(&self, kernel: &Kernel) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = loaded.functions.get(kernel.name) {
            return Ok(function.clone());
        }
        let failed = |e: DriverError| self.launch_failed(kernel, &e);
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

    fn launch_failed(&self, kernel: &Kernel, e: &DriverError) -> Error {
        Error::Launch { ordinal: self.properties.ordinal, kernel: kernel.name, reason: text(e) }
    }
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
        // SAFETY: the caller's promise. From pageable memory the driver has read all when this returns.
        unsafe { result::memcpy_htod_async(to, from, self.stream.cu_stream()) }
            .map_err(|e| self.failed("cuMemcpyHtoDAsync", e))
    }

    unsafe fn download(&self, to: &mut [u8], from: DevicePtr) -> Result<()> {
        self.bind()?;
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
        self.stream.synchronize().map_err(|e| self.failed("cuStreamSynchronize", e))
    }
}

/// Parameters that a kernel may have.
pub(crate) const MOST_ARGS: usize = 32;

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.properties.ordinal, self.properties.name)
    }
}
