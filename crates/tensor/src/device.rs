//! Devices: which there are, and their names.

use std::fmt;
use std::str::FromStr;

use blocks::DType;

use crate::{Error, Result};

#[cfg(feature = "cuda")]
pub(crate) mod cuda;

/// Where tensors lie and operations run.
///
/// `Cuda` exists in every build, so that a program can name it and be told what is missing; only
/// the feature `cuda` makes it usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Device {
    /// This machine's processor and memory.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this ordinal.
    Cuda(usize),
}

/// One device that can be used.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DeviceInfo {
    /// How it is named.
    pub device: Device,
    /// What its maker calls it.
    pub name: String,
    /// Its memory in bytes, where it tells.
    pub memory: Option<u64>,
    /// Compute capability of a GPU, major and minor.
    pub compute_capability: Option<(i32, i32)>,
}

/// Where a GPU's time went: a table by kernel, how often each was launched, and how long it waited between. For
/// showing.
#[derive(Clone, Debug)]
pub struct DeviceProfile {
    #[cfg(feature = "cuda")]
    profile: cuda_kernels::profile::Profile,
    #[cfg(not(feature = "cuda"))]
    never: std::convert::Infallible,
}

impl fmt::Display for DeviceProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(feature = "cuda")]
        return self.profile.fmt(f);
        #[cfg(not(feature = "cuda"))]
        {
            let _ = f;
            match self.never {}
        }
    }
}

impl Device {
    /// Bytes a second that the device's memory reads and writes in a copy, measured now; `None` for the
    /// processor, whose ceilings `infinity ceilings` measures.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`], and what the measurement fails with.
    pub fn copy_bandwidth(self) -> Result<Option<f64>> {
        match self.available()? {
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => Ok(Some(cuda::gpu(ordinal)?.copy_bandwidth()?)),
            _ => Ok(None),
        }
    }

    /// Operations a second of the fastest product of bf16 on a GPU's tensor cores, a multiplication and an
    /// addition being two, measured now; `None` for the processor.
    ///
    /// # Errors
    /// As [`Device::copy_bandwidth`].
    pub fn product_rate(self) -> Result<Option<f64>> {
        match self.available()? {
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                Ok(Some(cuda_kernels::ops::ceilings::product_rate(&cuda::gpu(ordinal)?)?))
            }
            _ => Ok(None),
        }
    }

    /// Begins a profile of a GPU's kernels, unless one goes on already; of the processor there is none.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`].
    pub fn start_profile(self) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = self
            && let gpu = cuda::gpu(ordinal)?
            && !gpu.is_profiled()
        {
            gpu.start_profile();
        }
        Ok(())
    }

    /// Ends the profile of a GPU's kernels that [`Device::start_profile`] or the first step of a
    /// [`Compute`](crate::Compute) with a profile began, once everything is done; `None` if there is none.
    ///
    /// # Errors
    /// What the device says, also for what went wrong in a launch before.
    pub fn stop_profile(self) -> Result<Option<DeviceProfile>> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = self
            && let gpu = cuda::gpu(ordinal)?
            && gpu.is_profiled()
        {
            return Ok(Some(DeviceProfile { profile: gpu.stop_profile()? }));
        }
        Ok(None)
    }

    /// Whether tensors that lie there can be converted to this type by [`Tensor::to_dtype`](crate::Tensor::to_dtype).
    pub fn can_encode(self, dtype: DType) -> bool {
        match self {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => crate::ops::cuda::can_encode(dtype),
            _ => blocks::can_encode(dtype),
        }
    }

    /// Every device that this build can use on this machine; the processor is always one.
    pub fn list() -> Vec<DeviceInfo> {
        let cpu = DeviceInfo {
            device: Device::Cpu,
            name: format!(
                "{} threads, {}",
                cpu_kernels::ThreadPool::global().threads(),
                crate::Isa::active()
            ),
            memory: None,
            compute_capability: None,
        };
        #[allow(unused_mut)]
        let mut all = vec![cpu];
        #[cfg(feature = "cuda")]
        all.extend(cuda::list());
        all
    }

    /// Bytes that could still be allocated there, if it tells; of a GPU what its driver says is free, and what is kept
    /// for later uses.
    pub fn available_memory(self) -> Option<u64> {
        match self {
            Device::Cpu => files::available_memory(),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                let gpu = cuda::gpu(ordinal).ok()?;
                let (free, _) = gpu.memory().ok()?;
                Some((free + gpu.memory_stats().kept) as u64)
            }
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => None,
        }
    }

    /// Gives the driver what of a GPU's memory is kept for later uses.
    pub fn trim(self) {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = self
            && let Ok(gpu) = cuda::gpu(ordinal)
        {
            gpu.trim();
        }
    }

    /// This device, if it can be used.
    ///
    /// # Errors
    /// [`Error::DeviceUnavailable`] says what is missing.
    pub fn available(self) -> Result<Device> {
        match self {
            Device::Cpu => Ok(self),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => cuda::check(ordinal).map(|()| self),
            #[cfg(not(feature = "cuda"))]
            Device::Cuda(_) => Err(unavailable(&self)),
        }
    }
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn unavailable(device: &Device) -> Error {
    Error::DeviceUnavailable {
        device: device.to_string(),
        reason: "this program was built without CUDA; build it with --features cuda".into(),
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(n) => write!(f, "cuda:{n}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// Reads `cpu`, `cuda` (the first GPU) or `cuda:N`.
    fn from_str(s: &str) -> Result<Self> {
        let unknown = || Error::UnknownDevice(s.to_owned());
        match s.split_once(':') {
            None if s == "cpu" => Ok(Device::Cpu),
            None if s == "cuda" => Ok(Device::Cuda(0)),
            Some(("cuda", n)) => n.parse().map(Device::Cuda).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for (text, device) in [("cpu", Device::Cpu), ("cuda:3", Device::Cuda(3))] {
            assert_eq!(text.parse::<Device>().unwrap(), device);
            assert_eq!(device.to_string(), text);
        }
        assert_eq!("cuda".parse::<Device>().unwrap(), Device::Cuda(0));
        for bad in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            assert!(bad.parse::<Device>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_gpu_is_named() {
        let e = Device::Cuda(999).available().unwrap_err().to_string();
        assert!(e.starts_with("cuda:999: "), "{e}");
        assert_eq!(Device::list()[0].device, Device::Cpu);
    }
}
