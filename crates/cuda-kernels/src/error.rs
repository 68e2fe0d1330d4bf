use crate::DevicePtr;

/// What can go wrong with a GPU.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device is not there, or what it needs is not installed.
    #[error("cuda:{ordinal}: {reason}")]
    Unavailable {
        /// The device's number.
        ordinal: usize,
        /// What is missing, and what to do.
        reason: String,
    },
    /// There is not enough memory on the device.
    #[error("cuda:{ordinal}: out of memory: {needed} bytes needed, {free} of {total} free")]
    OutOfMemory {
        /// The device's number.
        ordinal: usize,
        /// Bytes asked for.
        needed: usize,
        /// Bytes that the device has left, what was kept for later uses given back.
        free: usize,
        /// Bytes of the device.
        total: usize,
    },
    /// A call of the driver failed.
    #[error("cuda:{ordinal}: {call} failed: {reason}")]
    Call {
        /// The device's number.
        ordinal: usize,
        /// The call, with what it was for.
        call: String,
        /// What the driver says.
        reason: String,
    },
    /// A kernel could not be launched, or something that was launched before it failed.
    #[error("cuda:{ordinal}: kernel {kernel}: {reason}")]
    Launch {
        /// The device's number.
        ordinal: usize,
        /// The kernel.
        kernel: &'static str,
        /// What the driver says.
        reason: String,
    },
    /// A kernel's source was not compiled.
    #[error("{source_name} for {architecture}: {log}")]
    Compile {
        /// The file under `kernels/`.
        source_name: &'static str,
        /// As NVRTC names it, `sm_80` for example.
        architecture: String,
        /// What the compiler says.
        log: String,
    },
    /// The driver does not take the code that was made for it: it is older than NVRTC.
    #[error(
        "cuda:{ordinal}: kernel {kernel}: the driver, for CUDA {}.{}, refuses what was compiled: {reason}; \
         update the driver, or put an older NVRTC first on LD_LIBRARY_PATH",
        driver.0, driver.1
    )]
    Refused {
        /// The device's number.
        ordinal: usize,
        /// The kernel.
        kernel: &'static str,
        /// The CUDA version of the driver.
        driver: (u32, u32),
        /// What the driver says.
        reason: String,
    },
    /// What cannot become part of a graph.
    #[error("cuda:{ordinal}: in the capture of a graph: {what}")]
    Capture {
        /// The device's number.
        ordinal: usize,
        /// What was asked for, and what to do.
        what: String,
    },
    /// NVRTC, which compiles the kernels, is not installed or too old.
    #[error(
        "NVRTC (libnvrtc.so) of CUDA 12 or newer is not installed: install CUDA's, or `pip install nvidia-cuda-nvrtc` and put its folder on LD_LIBRARY_PATH"
    )]
    NoCompiler,
    /// There is no C++ compiler, which the emulator needs.
    #[error("the C++ compiler `{compiler}` does not run: install one, or name it in CXX")]
    NoCxx {
        /// What was tried.
        compiler: String,
    },
    /// Memory of another length than the operation needs.
    #[error("{op}: {what} takes {expected} bytes, got {got}")]
    Length {
        /// The operation.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        got: usize,
    },
    /// Sizes that the operation does not take.
    #[error("{op}: {reason}")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// What it takes.
        reason: String,
    },
    /// Memory that must begin at a multiple of some bytes does not.
    #[error("{op}: {what} at {at:#x} does not begin at a multiple of {alignment} bytes")]
    Alignment {
        /// The operation.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// Where it begins.
        at: DevicePtr,
        /// Bytes.
        alignment: usize,
    },
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
