use std::sync::Arc;

use cpu_kernels::attention::AttentionAlgorithm;
use cpu_kernels::matmul::Activations;
use cpu_kernels::profile::{Scope, Work};
use cpu_kernels::{Isa, Profile, ThreadPool};

use crate::buffers::Buffers;
use crate::{Device, Error, Result, Shape, Tensor};

/// What operations run with: device, threads, instruction set, precision of activations.
///
/// Cheap to clone. The operations are in the modules of `ops`, one a family. The memory of their
/// results is used again once nobody holds them; clones share it.
#[derive(Clone, Debug)]
pub struct Compute {
    device: Device,
    pool: Pool,
    isa: Isa,
    activations: Activations,
    attention: AttentionAlgorithm,
    buffers: Arc<Buffers>,
    #[cfg(feature = "cuda")]
    gpu: Option<crate::ops::cuda::GpuState>,
    #[cfg(feature = "cuda")]
    pub(crate) graphs: bool,
}

#[derive(Clone, Debug)]
enum Pool {
    Global,
    Own(Arc<ThreadPool>),
}

impl Compute {
    /// The processor, the program's thread pool, the widest instruction set, and activations as
    /// precise as the weight they meet (as llama.cpp does).
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            pool: Pool::Global,
            isa: Isa::active(),
            activations: Activations::default(),
            attention: AttentionAlgorithm::Tiled,
            buffers: Arc::new(Buffers::new()),
            #[cfg(feature = "cuda")]
            gpu: None,
            #[cfg(feature = "cuda")]
            graphs: true,
        }
    }

    /// As [`Compute::cpu`], on `device`.
    ///
    /// # Errors
    /// [`crate::Error::DeviceUnavailable`] says what is missing.
    pub fn on(device: Device) -> Result<Self> {
        let device = device.available()?;
        #[cfg(feature = "cuda")]
        let gpu = match device {
            Device::Cpu => None,
            Device::Cuda(ordinal) => Some(crate::ops::cuda::GpuState::open(ordinal)?),
        };
        Ok(Self {
            device,
            #[cfg(feature = "cuda")]
            gpu,
            ..Self::cpu()
        })
    }

    /// The same with a pool of its own of `threads` threads.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        let profile = match &self.pool {
            Pool::Global => Profile::default(),
            Pool::Own(p) => p.profile().clone(),
        };
        Self { pool: Pool::Own(Arc::new(ThreadPool::profiled(threads, profile))), ..self }
    }

    /// The same with operations noted down in `profile`, on a pool of its own.
    #[must_use]
    pub fn with_profile(self, profile: Profile) -> Self {
        let pool = ThreadPool::profiled(self.pool().threads(), profile);
        Self { pool: Pool::Own(Arc::new(pool)), ..self }
    }

    /// The same with another instruction set.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The same with activations rounded otherwise, or not at all, in products with weights.
    #[must_use]
    pub fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    /// The same with another way to compute attention (for comparison).
    #[must_use]
    pub fn with_attention(self, attention: AttentionAlgorithm) -> Self {
        Self { attention, ..self }
    }

    /// The same with steps that repeat captured as graphs, or not (for comparison): see [`crate::steps`].
    #[must_use]
    pub fn with_graphs(self, graphs: bool) -> Self {
        #[cfg(feature = "cuda")]
        return Self { graphs, ..self };
        #[cfg(not(feature = "cuda"))]
        {
            let _ = graphs;
            self
        }
    }

    /// The same with another state of its GPU.
    #[cfg(feature = "cuda")]
    pub(crate) fn with_gpu(&self, gpu: crate::ops::cuda::GpuState) -> Self {
        Self { gpu: Some(gpu), ..self.clone() }
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn gpu(&self) -> Option<&crate::ops::cuda::GpuState> {
        self.gpu.as_ref()
    }

    /// A weight where operations run, sharing its storage if it is there: on a GPU blocks of a type that no
    /// kernel takes become f16.
    ///
    /// # Errors
    /// What the device says.
    pub fn place(&self, weight: &Tensor) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.place(weight);
        }
        weight.to_device(&self.device)
    }

    /// Bytes that [`Compute::place`] takes for a weight.
    pub fn placed_len(&self, weight: &Tensor) -> usize {
        #[cfg(feature = "cuda")]
        if self.gpu.is_some() {
            let dtype = crate::ops::cuda::GpuState::placed_type(weight.dtype());
            let blocks = weight.shape().elements().unwrap_or(0) / dtype.block_len();
            return blocks * dtype.block_bytes();
        }
        weight.byte_len()
    }

    /// A weight of `rows` rows where operations run, those of `pattern` over and over: for measuring, since on a GPU
    /// it is made by copies within its memory.
    ///
    /// # Errors
    /// [`Error::Bytes`] for a pattern of no rows or a size that overflows, [`Error::WrongDevice`] if it is not in this
    /// machine's memory, and what the device says.
    pub fn repeated(&self, pattern: &Tensor, rows: usize) -> Result<Tensor> {
        let (dtype, bytes) = (pattern.dtype(), pattern.bytes()?);
        let shape = Shape::from([rows, pattern.cols()]);
        let whole = bytes.len().checked_div(pattern.rows()).and_then(|row| row.checked_mul(rows));
        let Some(len) = whole else { return Err(Error::Bytes { dtype, shape, bytes: 0 }) };
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.repeated(dtype, shape, bytes, len);
        }
        let all: Vec<u8> = bytes.iter().copied().cycle().take(len).collect();
        Tensor::from_bytes(dtype, shape, &all)
    }

    /// Where operations run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How activations enter products with weights.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// How attention is computed.
    pub fn attention_algorithm(&self) -> AttentionAlgorithm {
        self.attention
    }

    /// The threads that share an operation.
    pub fn pool(&self) -> &ThreadPool {
        match &self.pool {
            Pool::Global => ThreadPool::global(),
            Pool::Own(p) => p,
        }
    }

    /// Where operations are noted down, if anywhere.
    pub fn profile(&self) -> &Profile {
        self.pool().profile()
    }

    /// A line of the profile for an operation that reads and writes these tensors once.
    pub(crate) fn scope(&self, name: &'static str, moved: &[&Tensor]) -> Scope<'_> {
        let bytes = || moved.iter().map(|t| t.byte_len()).sum();
        self.profile().scope(name, "", || Work { bytes: bytes(), operations: 0 })
    }

    /// An `f32` tensor of zeros in memory that is used again.
    ///
    /// # Errors
    /// [`Error::Bytes`] if the size overflows.
    pub fn zeros(&self, shape: impl Into<Shape>) -> Result<Tensor> {
        let shape = shape.into();
        if shape.elements().is_none() {
            return Err(Error::Bytes { dtype: blocks::DType::F32, shape, bytes: 0 });
        }
        #[cfg(feature = "cuda")]
        if let Some(gpu) = &self.gpu {
            return gpu.zeros(shape);
        }
        let mut zeros = self.unwritten([shape.rows(), shape.cols()]);
        zeros.as_f32_mut()?.fill(0.0);
        zeros.reshape(shape)
    }

    /// An `f32` matrix of any content, for an operation that writes all of it.
    pub(crate) fn unwritten(&self, shape: [usize; 2]) -> Tensor {
        Tensor::unwritten(&self.buffers, shape)
    }
}
