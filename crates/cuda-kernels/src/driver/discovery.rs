//! Which GPUs there are, and whether they are ones that the kernels run on.

use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};
use cudarc::driver::{CudaContext, DriverError, result};

use super::{call_failed, text};
use crate::symbols::missing;
use crate::{Error, Properties, Result};

/// The oldest architecture that the kernels are written for.
const OLDEST: (u32, u32) = (8, 0);

/// The oldest driver, by the CUDA version that it is for: the first that takes code of a later NVRTC 12 or 13.
const OLDEST_DRIVER: (u32, u32) = (12, 0);

/// All of the driver's functions that are called here, and by cudarc for what is called of it.
const CALLED: &[&str] = &[
    "cuInit",
    "cuDriverGetVersion",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamSynchronize",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
];

/// The CUDA version that the driver is for.
pub(super) fn driver_version() -> (u32, u32) {
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
    check_driver()?;
    let count = result::init().and_then(|()| result::device::get_count());
    let count = count.map_err(|e| unavailable(0, "the driver does not start", &e))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Whether the driver, which is there, is new enough.
fn check_driver() -> Result<()> {
    // SAFETY: the library is there.
    let reason = if let Some(name) = missing(unsafe { sys::culib() }, CALLED) {
        format!("the NVIDIA driver is too old, it does not have {name}: update it")
    } else if let version = driver_version()
        && version < OLDEST_DRIVER
    {
        let ((major, minor), (o_major, o_minor)) = (version, OLDEST_DRIVER);
        format!(
            "the NVIDIA driver is for CUDA {major}.{minor}, {o_major}.{o_minor} or newer is needed: update it"
        )
    } else {
        return Ok(());
    };
    Err(Error::Unavailable { ordinal: 0, reason })
}

/// What the GPUs are, but for those that do not answer; none where there is no driver.
pub fn list() -> Vec<Properties> {
    let answers = |properties: Result<Properties>| {
        properties.inspect_err(|why| tracing::warn!(%why, "a GPU does not answer")).ok()
    };
    (0..count().unwrap_or(0)).map(describe).filter_map(answers).collect()
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

/// What a GPU is; it is not opened.
///
/// # Errors
/// [`Error::Unavailable`], [`Error::Call`].
pub fn properties(ordinal: usize) -> Result<Properties> {
    check(ordinal)?;
    describe(ordinal)
}

/// Whether kernels run there.
pub(super) fn check_capability(properties: &Properties) -> Result<()> {
    let ordinal = properties.ordinal;
    if properties.compute_capability < OLDEST {
        let (major, minor) = properties.compute_capability;
        let (o_major, o_minor) = OLDEST;
        let name = &properties.name;
        let reason = format!(
            "{name} has compute capability {major}.{minor}, the kernels need {o_major}.{o_minor} (A100, RTX 30 or newer)"
        );
        return Err(Error::Unavailable { ordinal, reason });
    }
    Ok(())
}

pub(super) fn context(ordinal: usize) -> Result<Arc<CudaContext>> {
    CudaContext::new(ordinal).map_err(|e| unavailable(ordinal, "it cannot be opened", &e))
}

/// The driver has started and shows this one.
fn describe(ordinal: usize) -> Result<Properties> {
    let told = |call: &'static str| move |e: DriverError| call_failed(ordinal, call, &e);
    let device = result::device::get(ordinal as i32).map_err(told("cuDeviceGet"))?;
    let number = |attribute| {
        // SAFETY: the driver has just named the device; so below.
        let value = unsafe { result::device::get_attribute(device, attribute) };
        let value = value.map_err(told("cuDeviceGetAttribute"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    };
    Ok(Properties {
        ordinal,
        name: result::device::get_name(device).map_err(told("cuDeviceGetName"))?,
        compute_capability: (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        // SAFETY: as above.
        memory: unsafe { result::device::total_mem(device) }.map_err(told("cuDeviceTotalMem"))?,
        shared_per_block: number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

fn unavailable(ordinal: usize, what: &str, e: &DriverError) -> Error {
    Error::Unavailable { ordinal, reason: format!("{what}: {}", text(e)) }
}

#[cfg(test)]
mod tests {
    use super::super::open;
    use super::*;
    use crate::compile::CubinCache;

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
}
