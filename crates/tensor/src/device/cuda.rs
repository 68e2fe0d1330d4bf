//! NVIDIA GPUs through cudarc: discovery, and buffers to copy to and from.
//!
//! libcuda is loaded when first asked for. Where it is missing, cudarc's calls would panic, so that
//! every path here begins with [`driver`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaSlice, DriverError, sys};

use super::{Device, DeviceInfo};
use crate::{Error, Result};

/// Bytes on a GPU. Clones share them.
#[derive(Clone)]
pub(crate) struct Buffer {
    bytes: Arc<CudaSlice<u8>>,
}

impl Buffer {
    /// Copies `bytes` to `device`.
    pub(crate) fn from_host(device: &Device, bytes: &[u8]) -> Result<Self> {
        let context = context(device)?;
        let copied = context.default_stream().clone_htod(bytes);
        Ok(Self { bytes: Arc::new(copied.map_err(|e| failed(device, "copy to the device", &e))?) })
    }

    /// Copies a part of it to this machine's memory.
    pub(crate) fn to_host(&self, range: &Range<usize>) -> Result<Vec<u8>> {
        let stream = self.bytes.stream();
        let device = self.device();
        let copied = stream.clone_dtoh(&self.bytes.slice(range.clone()));
        let copied = copied.map_err(|e| failed(&device, "copy from the device", &e))?;
        stream.synchronize().map_err(|e| failed(&device, "synchronize", &e))?;
        Ok(copied)
    }

    pub(crate) fn device(&self) -> Device {
        Device::Cuda(self.bytes.ordinal())
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes on {}", self.bytes.len(), self.device())
    }
}

/// Every GPU that the driver shows; none where there is no driver.
pub(crate) fn list() -> Result<Vec<DeviceInfo>> {
    (0..driver(&Device::Cuda(0))?).map(describe).collect()
}

/// Whether the GPU of this ordinal is there.
pub(crate) fn check(ordinal: usize) -> Result<()> {
    let device = Device::Cuda(ordinal);
    let count = driver(&device)?;
    if ordinal < count {
        return Ok(());
    }
    Err(Error::DeviceUnavailable {
        device: device.to_string(),
        reason: format!("this machine has {count} NVIDIA GPUs"),
    })
}

fn describe(ordinal: usize) -> Result<DeviceInfo> {
    let device = Device::Cuda(ordinal);
    let context = context(&device)?;
    let told = |e: DriverError| failed(&device, "query", &e);
    Ok(DeviceInfo {
        device,
        name: context.name().map_err(told)?,
        memory: Some(context.total_mem().map_err(told)? as u64),
        compute_capability: Some(context.compute_capability().map_err(told)?),
    })
}

fn context(device: &Device) -> Result<Arc<CudaContext>> {
    let Device::Cuda(ordinal) = *device else {
        return Err(Error::UnknownDevice(device.to_string()));
    };
    check(ordinal)?;
    CudaContext::new(ordinal).map_err(|e| failed(device, "open", &e))
}

/// How many GPUs the driver shows.
///
/// # Errors
/// [`Error::DeviceUnavailable`] where there is no driver or it does not start.
fn driver(device: &Device) -> Result<usize> {
    // SAFETY: only tries to load the driver's library and asks nothing of it.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::DeviceUnavailable {
            device: device.to_string(),
            reason: "the NVIDIA driver (libcuda) is not installed on this machine".into(),
        });
    }
    let count = CudaContext::device_count().map_err(|e| failed(device, "count devices", &e))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

fn failed(device: &Device, call: &str, e: &DriverError) -> Error {
    Error::DeviceUnavailable { device: device.to_string(), reason: format!("{call} failed: {e}") }
}
