//! Steps that repeat: on a GPU the launches of a decode step are captured as a graph and given to the device with
//! one call from then on.
//!
//! A step of a small batch is hundreds of launches of a few microseconds, each of which costs the host as
//! much. Between one step and the next only lists differ: ids, angles, slots, page tables. So a step is described by
//! what it takes from the host ([`StepInputs`]) beside the closure that computes it ([`Compute::step`]):
//!
//! 1. the first step of a kind is computed as it is given;
//! 2. the second too, and then captured, with its lists in buffers of its own;
//! 3. from then on the lists are written to those buffers, and the graph is replayed.
//!
//! Steps are of one kind if their launches are the same. That is so if their lists are as long, and
//! equal to each other where they were; the rows' attention is split into pieces alike, which holds until
//! a power of two is passed (`RowsKind` in `cuda_kernels::ops::attention`); and the cache's memory is the
//! same. Where anything cannot be captured the step is computed as given, with the same result.
//!
//! Graphs belong to who repeats the steps ([`Steps`]: a model) and go with it, or with the cache that
//! they write to.
//!
//! What is not captured: steps on the processor, under a profile (which would show one replay), of more
//! than [`MOST_ROWS`] rows, with runs of rows for the prefill kernel, and with routed experts, whose
//! choice the host sees.

#[cfg(not(feature = "cuda"))]
use std::convert::Infallible;

use crate::kv::{KvCache, Span};
#[cfg(feature = "cuda")]
use crate::ops::cuda::steps;
use crate::{AttentionRow, Compute, Device, Error, Result, Rope, Tensor};

/// Rows of a step from which on the device has so much to do that the host is ahead of it.
pub const MOST_ROWS: usize = 64;

/// What repeats: the graphs of a model's steps. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    #[cfg(feature = "cuda")]
    graphs: std::sync::Arc<steps::Graphs>,
}

/// How steps were computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepCounts {
    /// As they were given, though they could have repeated.
    pub eager: u64,
    /// Graphs that were captured.
    pub captured: u64,
    /// Captures and replays that failed.
    pub failed: u64,
    /// By a graph.
    pub replayed: u64,
}

impl Steps {
    /// How steps were computed so far.
    pub fn counts(&self) -> StepCounts {
        #[cfg(feature = "cuda")]
        return self.graphs.counts();
        #[cfg(not(feature = "cuda"))]
        StepCounts::default()
    }
}

/// All that a step takes from the host, in the order in which it takes it: each method stands for the operation of
/// [`Compute`] of that name. Made by [`Compute::step_inputs`].
#[derive(Debug)]
pub struct StepInputs {
    #[cfg(feature = "cuda")]
    lists: steps::Inputs,
    #[cfg(not(feature = "cuda"))]
    never: Infallible,
}

/// What is done where there are GPUs; without them there are no inputs.
macro_rules! noted {
    ($inputs:ident, $($note:tt)*) => {
        #[cfg(feature = "cuda")]
        return $inputs.lists.$($note)*;
        #[cfg(not(feature = "cuda"))]
        match $inputs.never {}
    };
}

#[cfg_attr(not(feature = "cuda"), allow(unused_variables))]
impl StepInputs {
    /// Numbers that differ only between steps of different kinds.
    pub fn fixed(&mut self, numbers: &[usize]) {
        noted! { self, fixed(numbers) }
    }

    /// Ids of [`Compute::embedding`].
    ///
    /// # Errors
    /// [`Error::Index`] for one that no kernel counts to, as for the other lists.
    pub fn embedding(&mut self, ids: &[u32]) -> Result<()> {
        noted! { self, embedding(ids) }
    }

    /// Indices of [`Compute::gather_rows`].
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn gather_rows(&mut self, indices: &[usize]) -> Result<()> {
        noted! { self, gather_rows(indices) }
    }

    /// [`Compute::turn_and_store`] and then [`Compute::attention`] of a layer. Cache, `spans` and `rows` are the
    /// same for all layers.
    ///
    /// # Errors
    /// [`Error::Kv`] for slots not there, [`Error::WrongDevice`] for a cache elsewhere.
    pub fn attention(
        &mut self,
        angles: Option<&Rope>,
        cache: &dyn KvCache,
        spans: &[Span],
        rows: &[AttentionRow],
    ) -> Result<()> {
        noted! { self, attention(angles, cache, spans, rows) }
    }
}

impl Compute {
    /// Empty inputs for a step of so many rows, if it may repeat.
    pub fn step_inputs(&self, rows: usize) -> Option<StepInputs> {
        #[cfg(feature = "cuda")]
        if self.gpu().is_some() && self.graphs && rows <= MOST_ROWS && !self.profile().is_on() {
            return Some(StepInputs { lists: steps::Inputs::default() });
        }
        let _ = rows;
        None
    }

    /// Computes a step and brings its results to this machine's memory, but for those that `stay` on the device.
    /// `work` is called with what to compute with: once, or twice, or not at all where `inputs` are those of a
    /// graph. Whatever it takes from the host is in `inputs`; if it writes anything but its results, then that which it
    /// wrote before.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn step<E: From<Error>, const N: usize>(
        &self,
        steps: &Steps,
        inputs: Option<StepInputs>,
        stay: [bool; N],
        mut work: impl FnMut(&Compute) -> Result<[Option<Tensor>; N], E>,
    ) -> Result<[Option<Tensor>; N], E> {
        #[cfg(feature = "cuda")]
        let _range = self.gpu().map(|_| cuda_kernels::nvtx::range("step"));
        #[cfg(feature = "cuda")]
        if let Some(gpu) = self.gpu()
            && self.profile().is_on()
        {
            gpu.profile();
        }
        #[cfg(feature = "cuda")]
        if let (Some(gpu), Some(inputs)) = (self.gpu(), inputs) {
            return gpu.step(self, &steps.graphs, &inputs.lists, stay, &mut work);
        }
        #[cfg(not(feature = "cuda"))]
        let _ = (steps, inputs);
        on_host(work(self)?, stay).map_err(E::from)
    }
}

/// The results in this machine's memory, but for those that `stay`.
pub(crate) fn on_host<const N: usize>(
    mut results: [Option<Tensor>; N],
    stay: [bool; N],
) -> Result<[Option<Tensor>; N]> {
    for (result, stays) in results.iter_mut().zip(stay) {
        if let Some(result) = result.as_mut().filter(|_| !stays) {
            *result = result.to_device(&Device::Cpu)?;
        }
    }
    Ok(results)
}
