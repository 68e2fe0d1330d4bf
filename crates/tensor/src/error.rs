use blocks::DType;

use crate::{Device, Shape};

/// What can be wrong with an operation on tensors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The shapes do not fit the operation.
    #[error("{op}: shapes {got} do not fit, expected {expected}")]
    Shapes {
        /// The operation.
        op: &'static str,
        /// What it needs.
        expected: String,
        /// What it was given.
        got: String,
    },
    /// The operation is not defined for this element type.
    #[error("{op}: expected elements of type {expected}, got {got}")]
    UnexpectedDType {
        /// The operation.
        op: &'static str,
        /// The type it needs.
        expected: DType,
        /// The type it was given.
        got: DType,
    },
    /// The bytes are not those of a tensor of this type and shape.
    #[error("a {dtype} tensor of shape {shape} does not have {bytes} bytes")]
    Bytes {
        /// Its type.
        dtype: DType,
        /// Its shape.
        shape: Shape,
        /// The bytes given.
        bytes: usize,
    },
    /// A row or element number beyond the tensor.
    #[error("{op}: index {index} is beyond {len}")]
    Index {
        /// The operation.
        op: &'static str,
        /// The index.
        index: usize,
        /// How many there are.
        len: usize,
    },
    /// The tensor lies on another device than the operation runs on.
    #[error("{op}: the tensor is on {got}, the operation runs on {expected}")]
    WrongDevice {
        /// The operation.
        op: &'static str,
        /// Where it runs.
        expected: Device,
        /// Where the tensor is.
        got: Device,
    },
    /// The rows of the matrix were interleaved for the kernels.
    #[error("{op}: the matrix is repacked, its rows do not lie one after the other")]
    Interleaved {
        /// The operation.
        op: &'static str,
    },
    /// The system has no memory to give.
    #[error("{len} bytes of memory: {error}")]
    Memory {
        /// Bytes asked for.
        len: usize,
        /// Why not.
        error: std::io::Error,
    },
    /// The device is not there, or this build cannot use it.
    #[error("{device}: {reason}")]
    DeviceUnavailable {
        /// The device as named by the user.
        device: String,
        /// What is missing, and what to do.
        reason: String,
    },
    /// There is not enough memory on a GPU.
    #[error("{device}: out of memory: {needed} bytes needed, {free} free")]
    OutOfMemory {
        /// The GPU.
        device: Device,
        /// Bytes asked for.
        needed: u64,
        /// Bytes it has left.
        free: u64,
    },
    /// What a GPU or its driver says.
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(cuda_kernels::Error),
    /// A device name that cannot be read.
    #[error("unknown device '{0}': expected cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// A kernel's complaint.
    #[error(transparent)]
    Kernel(#[from] cpu_kernels::KernelError),
    /// Blocks that cannot be decoded or encoded.
    #[error(transparent)]
    Block(#[from] blocks::BlockError),
    /// The key-value cache has no room or does not know the sequence.
    #[error(transparent)]
    Kv(#[from] crate::kv::KvError),
}

#[cfg(feature = "cuda")]
impl From<cuda_kernels::Error> for Error {
    fn from(error: cuda_kernels::Error) -> Self {
        match error {
            cuda_kernels::Error::OutOfMemory { ordinal, needed, free, .. } => {
                let (needed, free) = (needed as u64, free as u64);
                Self::OutOfMemory { device: Device::Cuda(ordinal), needed, free }
            }
            other => Self::Cuda(other),
        }
    }
}
