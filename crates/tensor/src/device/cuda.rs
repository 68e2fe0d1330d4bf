//! NVIDIA GPUs: which there are, and the ones that are open.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cuda_kernels::compile::CubinCache;
pub(crate) use cuda_kernels::{Buffer, Gpu};
use cuda_kernels::{Properties, driver};

use super::{Device, DeviceInfo};
use crate::Result;

/// The GPUs that were asked for, by number: one context and one stream each for the whole process.
static OPEN: Mutex<BTreeMap<usize, Gpu>> = Mutex::new(BTreeMap::new());

/// Set to anything, it makes `cuda:0` and `cuda:1` emulators, in programs that were built with them.
#[cfg(feature = "cuda-emulator")]
const EMULATE: &str = "INFINITY_EMULATE_CUDA";

/// Bytes of each; the second has little, for tests.
#[cfg(feature = "cuda-emulator")]
const EMULATED: [usize; 2] = [8 << 30, 8 << 20];

/// The GPU of this number, opened when it is first asked for.
pub(crate) fn gpu(ordinal: usize) -> Result<Gpu> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(gpu) = open.get(&ordinal) {
        return Ok(gpu.clone());
    }
    let gpu = match emulated(ordinal) {
        Some(gpu) => gpu,
        None => driver::open(ordinal, CubinCache::from_environment())?,
    };
    open.insert(ordinal, gpu.clone());
    Ok(gpu)
}

#[cfg(feature = "cuda-emulator")]
impl super::Device {
    /// Makes a GPU the device of this number, in place of what the driver shows: for tests of devices
    /// that fail.
    pub fn emulated(ordinal: usize, gpu: Gpu) -> Self {
        OPEN.lock().unwrap_or_else(PoisonError::into_inner).insert(ordinal, gpu);
        Self::Cuda(ordinal)
    }
}

/// The emulator of this number, if it is asked for.
fn emulated(ordinal: usize) -> Option<Gpu> {
    #[cfg(feature = "cuda-emulator")]
    if let Some(&memory) = EMULATED.get(ordinal)
        && std::env::var_os(EMULATE).is_some()
    {
        let emulator = cuda_kernels::emulator::Emulator::new(0, memory).numbered(ordinal);
        return Some(Gpu::new(std::sync::Arc::new(emulator)));
    }
    let _ = ordinal;
    None
}

/// Every GPU that says what it is; none where there is no driver.
pub(crate) fn list() -> Vec<DeviceInfo> {
    let mut all: Vec<Properties> =
        (0..).map_while(emulated).map(|gpu| gpu.properties().clone()).collect();
    if all.is_empty() {
        all = driver::list();
    }
    all.into_iter().map(described).collect()
}

/// Whether the GPU of this number can be used.
pub(crate) fn check(ordinal: usize) -> Result<()> {
    gpu(ordinal).map(drop)
}

fn described(properties: Properties) -> DeviceInfo {
    let (major, minor) = properties.compute_capability;
    DeviceInfo {
        device: Device::Cuda(properties.ordinal),
        name: properties.name,
        memory: Some(properties.memory as u64),
        compute_capability: Some((major.cast_signed(), minor.cast_signed())),
    }
}

/// Where a buffer lies.
pub(crate) fn device_of(buffer: &Buffer) -> Device {
    Device::Cuda(buffer.gpu().properties().ordinal)
}
