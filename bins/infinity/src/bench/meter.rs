//! Ceilings, measured between the runs that they are compared with.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use cpu_kernels::ceilings::ReadBuffer;
use indicatif::ProgressBar;
use tensor::{Compute, Device};

use super::cost::Cost;
use super::unit::Unit;

/// The buffer is as large as the weights, which may partly stay in a cache, up to this.
const LARGEST_BUFFER: usize = 1 << 30;
const READ_TIME: Duration = Duration::from_millis(60);

/// What the device could do at a moment.
#[derive(Clone, Debug)]
pub(crate) struct Ceilings {
    /// Bytes a second.
    pub(crate) read: f64,
    /// Operations a second.
    pub(crate) rates: BTreeMap<Unit, f64>,
}

impl Ceilings {
    fn mean(&self, other: &Self) -> Self {
        let rates = self.rates.iter().map(|(&u, a)| (u, (a + other.rates[&u]) / 2.0));
        Self { read: (self.read + other.read) / 2.0, rates: rates.collect() }
    }
}

/// One run: what it took, and the ceilings just before and after it.
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) ceilings: Ceilings,
}

/// Measures runs and ceilings in turn.
pub(crate) struct Meter<'a> {
    compute: &'a Compute,
    /// On the processor; a GPU copies within its own memory.
    buffer: Option<ReadBuffer>,
    units: Vec<Unit>,
    /// Every sample so far.
    pub(crate) history: Vec<Ceilings>,
}

impl<'a> Meter<'a> {
    pub(crate) fn new(compute: &'a Compute, cost: &Cost) -> Self {
        let buffer = (compute.device() == Device::Cpu)
            .then(|| ReadBuffer::new(cost.weight_bytes().min(LARGEST_BUFFER)));
        Self { compute, buffer, units: cost.units(), history: Vec::new() }
    }

    /// Times `run` so many times, each between two samples of the ceilings.
    pub(crate) fn interleave(
        &mut self,
        repetitions: usize,
        bar: &ProgressBar,
        mut run: impl FnMut() -> Result<Duration>,
    ) -> Result<Vec<Sample>> {
        let mut before = self.sample()?;
        (0..repetitions)
            .map(|_| {
                let seconds = run()?.as_secs_f64();
                let after = self.sample()?;
                let ceilings = before.mean(&after);
                before = after;
                bar.inc(1);
                Ok(Sample { seconds, ceilings })
            })
            .collect()
    }

    fn sample(&mut self) -> Result<Ceilings> {
        let compute = self.compute;
        let read = match &mut self.buffer {
            Some(buffer) => buffer.sample(compute.pool(), compute.isa(), READ_TIME),
            None => compute.device().copy_bandwidth()?.unwrap_or(f64::NAN),
        };
        let mut rates = BTreeMap::new();
        for &unit in &self.units {
            if let Some(rate) = unit.sample(compute)? {
                rates.insert(unit, rate);
            }
        }
        let sample = Ceilings { read, rates };
        self.history.push(sample.clone());
        Ok(sample)
    }
}
