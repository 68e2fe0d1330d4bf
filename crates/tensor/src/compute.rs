use std::sync::Arc;

use cpu_kernels::attention::AttentionAlgorithm;
use cpu_kernels::matmul::Activations;
use cpu_kernels::{Isa, ThreadPool};

use crate::{Device, Result};

/// What operations run with: device, threads, instruction set, precision of activations.
///
/// Cheap to clone. The operations are in the modules of `ops`, one a family.
#[derive(Clone, Debug)]
pub struct Compute {
    device: Device,
    pool: Pool,
    isa: Isa,
    activations: Activations,
    attention: AttentionAlgorithm,
}

#[derive(Clone, Debug)]
enum Pool {
    Global,
    Own(Arc<ThreadPool>),
}

impl Compute {
    /// The processor, the program's thread pool, the widest instruction set, and activations
    /// rounded to eight bits where the weight is quantized (as llama.cpp does).
    pub fn cpu() -> Self {
        Self {
            device: Device::Cpu,
            pool: Pool::Global,
            isa: Isa::active(),
            activations: Activations::Int8,
            attention: AttentionAlgorithm::Tiled,
        }
    }

    /// As [`Compute::cpu`], on `device`.
    ///
    /// # Errors
    /// [`crate::Error::DeviceUnavailable`] says what is missing.
    pub fn on(device: Device) -> Result<Self> {
        Ok(Self { device: device.available()?, ..Self::cpu() })
    }

    /// The same with a pool of its own of `threads` threads.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { pool: Pool::Own(Arc::new(ThreadPool::new(threads))), ..self }
    }

    /// The same with another instruction set.
    #[must_use]
    pub fn with_isa(self, isa: Isa) -> Self {
        Self { isa, ..self }
    }

    /// The same with exact or eight-bit activations in products with quantized weights.
    #[must_use]
    pub fn with_activations(self, activations: Activations) -> Self {
        Self { activations, ..self }
    }

    /// The same with another way to compute attention (for comparison).
    #[must_use]
    pub fn with_attention(self, attention: AttentionAlgorithm) -> Self {
        Self { attention, ..self }
    }

    /// Where operations run.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The instruction set of the kernels.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// How activations enter products with quantized weights.
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
}
