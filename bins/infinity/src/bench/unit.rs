//! What computes: the processor's units, or a GPU's tensor cores.

use std::time::Duration;

use anyhow::Result;
use cpu_kernels::ceilings;
use tensor::{Activations, Compute, DType, Device, Isa};

const UNIT_TIME: Duration = Duration::from_millis(15);

/// A unit whose rate bounds products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// Of the processor.
    Processor(ceilings::Unit),
    /// Of a GPU, by products of bf16, which blocks are decoded to as well.
    TensorCores,
}

impl Unit {
    /// That of what is no product with a weight.
    pub(crate) fn of_attention(compute: &Compute) -> Self {
        match compute.device() {
            Device::Cpu => Self::Processor(ceilings::Unit::F32),
            _ => Self::TensorCores,
        }
    }

    /// The unit that products with a weight of this type can use with these activations: the floor is
    /// counted by it, whether a kernel for it exists or not.
    pub(crate) fn of_weight(dtype: DType, compute: &Compute) -> Self {
        use ceilings::Unit::{AmxBf16, AmxInt8, Bf16, F32, Int8};
        if compute.device() != Device::Cpu {
            return Self::TensorCores;
        }
        let isa = compute.isa();
        let tiles = isa > Isa::Avx512;
        let activations = compute.activations();
        // F16 weights take part where they may be rounded to bf16 too.
        let bf16 = dtype == DType::BF16 || dtype == DType::F16 && activations == Activations::Bf16;
        let wanted: &[ceilings::Unit] = match (bf16, tiles) {
            _ if activations == Activations::F32 => &[],
            (true, true) => &[AmxBf16, Bf16],
            (true, false) => &[Bf16],
            _ if !dtype.is_quantized() => &[],
            (false, true) => &[AmxInt8, Int8],
            (false, false) => &[Int8],
        };
        Self::Processor(wanted.iter().copied().find(|u| u.is_available(isa)).unwrap_or(F32))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Processor(unit) => unit.name(),
            Self::TensorCores => "tensor cores",
        }
    }

    /// What it does its operations with; `None` for a unit that this processor does not have.
    pub(crate) fn instruction(self, compute: &Compute) -> Option<&'static str> {
        match self {
            Self::Processor(unit) => unit.instruction(compute.isa()),
            Self::TensorCores => Some("bf16"),
        }
    }

    /// Operations a second, measured now; `None` for a unit that is not there.
    pub(crate) fn sample(self, compute: &Compute) -> Result<Option<f64>> {
        Ok(match self {
            Self::Processor(unit) => unit.sample(compute.pool(), compute.isa(), UNIT_TIME),
            Self::TensorCores => compute.device().product_rate()?,
        })
    }
}
