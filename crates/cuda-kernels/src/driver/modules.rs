//! Kernels that are loaded: compiled, or read from the cache, when first launched.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use cudarc::driver::{CudaFunction, CudaModule, DriverError, sys};
use cudarc::nvrtc::Ptx;

use super::discovery::driver_version;
use super::{Driver, text};
use crate::{Error, Kernel, Result};

#[derive(Default)]
pub(super) struct Loaded {
    modules: HashMap<&'static str, Arc<CudaModule>>,
    functions: HashMap<&'static str, CudaFunction>,
    /// The kernel that was launched last.
    pub(super) last: Option<&'static str>,
}

impl Driver {
    pub(super) fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn function(&self, kernel: &Kernel) -> Result<CudaFunction> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
