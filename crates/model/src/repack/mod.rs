//! Where weights lie once a model is loaded.
//!
//! Repacked weights (sixteen rows interleaved) are read as one stream. They lie in memory of the
//! process's own, and the file's pages are given back as they are copied, so that no weight is held
//! twice; or in a file of their own, written by the first start and mapped by all others ([`cache`]).
//! Otherwise weights stay where the model's file is mapped, and loading reads nothing.

pub mod cache;

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use files::LargeMemory;
use tensor::{Compute, Device, InterleavedBytes, Tensor, interleaved};

use crate::{Error, ModelConfig, WeightSource};

/// When to repack weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repack {
    /// Weight by weight, while there is memory to spare.
    #[default]
    Auto,
    /// All whose products gain.
    Always,
    /// None: they stay where the file is mapped.
    Never,
}

/// A word that says nothing about repacking.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}': expected auto, always or never")]
pub struct UnknownRepack(pub String);

/// How a model is loaded. A [`Repack`] alone stands for the other fields' defaults.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Which weights are repacked.
    pub repack: Repack,
    /// The folder where repacked weights of GGUF files are kept from one start to the next; `None`
    /// keeps none. Where it cannot be used, they are repacked into memory, and a warning says why.
    pub cache: Option<&'a Path>,
    /// Whether to look at all weights that are mapped from files, so that no step waits for them.
    pub warm_up: bool,
    /// Hears how far it is, some dozen times a gigabyte.
    pub progress: Option<&'a mut dyn FnMut(LoadProgress)>,
}

/// What takes time when a model is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStage {
    /// Weights are repacked.
    Repack,
    /// Mapped weights are looked at.
    WarmUp,
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// What is being done.
    pub stage: LoadStage,
    /// Bytes done.
    pub done: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Memory that stays free: `Auto` leaves weights where they are rather than go below. And space that
/// a cache leaves on its disk.
const RESERVE: u64 = 1 << 30;

/// Bytes that each thread repacks before the file's pages are given back, and the least of all.
const BATCH_OF_THREAD: usize = 4 << 20;
const BATCH: usize = 32 << 20;

/// Weights that are to be repacked, and where their interleaved forms lie, one after the other.
struct Plan {
    names: Vec<String>,
    weights: Vec<Tensor>,
    ranges: Vec<Range<usize>>,
}

/// The repacked weights of a model, by name.
pub(crate) fn repacked(
    config: &ModelConfig,
    source: &dyn WeightSource,
    compute: &Compute,
    options: &mut LoadOptions<'_>,
) -> Result<HashMap<String, Tensor>, Error> {
    let repack = options.repack;
    if repack == Repack::Never
        || compute.device() != Device::Cpu
        || !source.may_gain_from_repacking(compute)
    {
        return Ok(HashMap::new());
    }
    let mut plan = Plan::new(config, source, compute, repack)?;
    let cached = match (options.cache, source.gguf()) {
        (Some(folder), Some(file)) => {
            let entry = cache::Entry::new(folder, file, &plan);
            match entry.open_or_write(&plan, compute, options) {
                Ok(bytes) => Some(bytes),
                Err(error) => {
                    tracing::warn!("repacked weights are not kept in a file: {error}");
                    None
                }
            }
        }
        _ => None,
    };
    let packed = match cached {
        Some(packed) => packed,
        None => {
            if repack == Repack::Auto {
                let free = files::available_memory().unwrap_or(0).saturating_sub(RESERVE);
                plan.limit(free);
            }
            match plan.in_memory(compute, options) {
                // Memory that is not there is no error where weights can stay where they are.
                Err(tensor::Error::Memory { .. }) if repack == Repack::Auto => Vec::new(),
                packed => packed?,
            }
        }
    };
    Ok(plan.names.into_iter().zip(packed).collect())
}

impl Plan {
    /// The weights of a model that `repack` (not `Never`) asks for.
    fn new(
        config: &ModelConfig,
        source: &dyn WeightSource,
        compute: &Compute,
        repack: Repack,
    ) -> Result<Self, Error> {
        let mut plan = Plan { names: Vec::new(), weights: Vec::new(), ranges: Vec::new() };
        let tied = matches!(config, ModelConfig::Decoder(c) if c.tied_embeddings);
        crate::model::visit(config, source, &mut |name, weight| {
            plan.consider(name, weight, compute, tied, repack);
        })?;
        Ok(plan)
    }

    fn consider(
        &mut self,
        name: &str,
        weight: Tensor,
        compute: &Compute,
        tied: bool,
        repack: Repack,
    ) {
        // Tables whose rows are looked up gain nothing.
        let table = match name {
            "token_embd.weight" => !tied,
            "position_embd.weight" | "token_types.weight" => true,
            _ => false,
        };
        let few = repack == Repack::Auto && weight.rows() < 16;
        if table || few || !compute.gains_from_interleaving(weight.dtype()) {
            return;
        }
        if let Some(len) = weight.interleaved_len() {
            let start = self.len();
            self.names.push(name.to_owned());
            self.weights.push(weight);
            self.ranges.push(start..start + len);
        }
    }

    /// Bytes of all interleaved forms.
    fn len(&self) -> usize {
        self.ranges.last().map_or(0, |r| r.end)
    }

    /// Leaves out what does not fit `free` bytes.
    fn limit(&mut self, free: u64) {
        let all = std::mem::replace(
            self,
            Plan { names: Vec::new(), weights: Vec::new(), ranges: Vec::new() },
        );
        for ((name, weight), range) in all.names.into_iter().zip(all.weights).zip(all.ranges) {
            let start = self.len();
            if (start + range.len()) as u64 <= free {
                self.names.push(name);
                self.weights.push(weight);
                self.ranges.push(start..start + range.len());
            }
        }
    }

    /// Runs of weights that are repacked together.
    fn batches(&self, compute: &Compute) -> Vec<Range<usize>> {
        let enough = BATCH.max(BATCH_OF_THREAD * compute.pool().threads());
        let (mut batches, mut first) = (Vec::new(), 0);
        for (i, range) in self.ranges.iter().enumerate() {
            if i + 1 == self.ranges.len() || range.end - self.ranges[first].start >= enough {
                batches.push(first..i + 1);
                first = i + 1;
            }
        }
        batches
    }

    /// Repacks into memory.
    fn in_memory(
        &self,
        compute: &Compute,
        options: &mut LoadOptions<'_>,
    ) -> Result<Vec<Tensor>, tensor::Error> {
        let len = self.len();
        let memory = LargeMemory::zeroed(len);
        let mut memory = memory.map_err(|error| tensor::Error::Memory { len, error })?;
        for batch in self.batches(compute) {
            let range = self.ranges[batch.start].start..self.ranges[batch.end - 1].end;
            let end = range.end;
            interleaved::interleave_all(
                compute,
                &self.weights[batch],
                &mut memory.bytes_mut()[range],
            )?;
            options.tell(LoadStage::Repack, end as u64, len as u64);
        }
        self.tensors(&InterleavedBytes::Memory(Arc::new(memory)), 0)
    }

    /// The weights, whose interleaved forms lie in `bytes` from `start` on.
    fn tensors(
        &self,
        bytes: &InterleavedBytes,
        start: usize,
    ) -> Result<Vec<Tensor>, tensor::Error> {
        let one = |(weight, range): (&Tensor, &Range<usize>)| {
            weight.with_interleaved(bytes.clone(), start + range.start..start + range.end)
        };
        self.weights.iter().zip(&self.ranges).map(one).collect()
    }
}

impl LoadOptions<'_> {
    pub(crate) fn tell(&mut self, stage: LoadStage, done: u64, total: u64) {
        if let Some(progress) = &mut self.progress {
            progress(LoadProgress { stage, done, total });
        }
    }
}

impl From<Repack> for LoadOptions<'_> {
    fn from(repack: Repack) -> Self {
        Self { repack, ..Self::default() }
    }
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { repack, cache, warm_up, progress: _ } = self;
        let mut all = f.debug_struct("LoadOptions");
        all.field("repack", repack).field("cache", cache).field("warm_up", warm_up);
        all.finish_non_exhaustive()
    }
}

impl fmt::Display for Repack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Repack::Auto => "auto",
            Repack::Always => "always",
            Repack::Never => "never",
        })
    }
}

impl FromStr for Repack {
    type Err = UnknownRepack;

    fn from_str(s: &str) -> Result<Self, UnknownRepack> {
        match s {
            "auto" => Ok(Repack::Auto),
            "always" => Ok(Repack::Always),
            "never" => Ok(Repack::Never),
            _ => Err(UnknownRepack(s.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor::{Activations, DType, Isa};

    fn plan_of(weights: &[(&str, usize)], tied: bool, repack: Repack) -> Plan {
        let mut plan = Plan { names: Vec::new(), weights: Vec::new(), ranges: Vec::new() };
        for &(name, rows) in weights {
            let bytes = vec![1; rows * 68];
            let weight = Tensor::from_bytes(DType::Q8_0, [rows, 64], &bytes).unwrap();
            plan.consider(name, weight, &Compute::cpu(), tied, repack);
        }
        plan
    }

    #[test]
    fn products_are_repacked_and_tables_are_not() {
        let all = [("token_embd.weight", 16), ("position_embd.weight", 16), ("few", 2), ("w", 16)];
        assert_eq!(plan_of(&all, false, Repack::Always).names, ["few", "w"]);
        let tied = plan_of(&all, true, Repack::Auto);
        assert_eq!(tied.names, ["token_embd.weight", "w"]);
        assert_eq!(tied.ranges, [0..1088, 1088..2176]);
        for repack in [Repack::Auto, Repack::Always, Repack::Never] {
            assert_eq!(repack.to_string().parse(), Ok(repack));
        }
        assert!("sometimes".parse::<Repack>().is_err());
    }

    #[test]
    fn bf16_is_repacked_where_tiles_multiply_it() {
        let bytes = vec![0; 16 * 64 * 2];
        let weight = Tensor::from_bytes(DType::BF16, [16, 64], &bytes).unwrap();
        let repacked = |compute: &Compute| {
            let mut plan = Plan { names: Vec::new(), weights: Vec::new(), ranges: Vec::new() };
            plan.consider("w", weight.clone(), compute, false, Repack::Always);
            plan.names.len() == 1
        };
        let with = |isa| Compute::cpu().with_isa(isa);
        assert!(!repacked(&with(Isa::Portable)));
        if Isa::Amx.is_supported() {
            let amx = with(Isa::Amx);
            assert!(repacked(&amx), "a processor with tiles of int8 has those of bf16");
            assert!(!repacked(&amx.with_activations(Activations::F32)));
        }
    }

    #[test]
    fn what_does_not_fit_stays() {
        let mut plan = plan_of(&[("a", 16), ("b", 64), ("c", 16)], false, Repack::Auto);
        plan.limit(2200);
        assert_eq!(plan.names, ["a", "c"]);
        assert_eq!(plan.ranges, [0..1088, 1088..2176]);
        plan.limit(0);
        assert!(plan.names.is_empty() && plan.len() == 0);
    }

    #[test]
    fn batches_hold_every_weight_once() {
        let compute = Compute::cpu().with_threads(2);
        let plan = plan_of(&[("a", 16), ("b", 600_000), ("c", 16)], false, Repack::Always);
        assert_eq!(plan.batches(&compute), [0..2, 2..3]);
        let packed = plan.in_memory(&compute, &mut Repack::Always.into()).unwrap();
        assert!(packed.len() == 3 && packed.iter().all(Tensor::is_interleaved));
        assert!(plan_of(&[], false, Repack::Always).batches(&compute).is_empty());
    }
}
