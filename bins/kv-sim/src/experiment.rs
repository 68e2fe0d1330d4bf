//! The same trace through several kinds of memory, and what is compared.

use std::collections::BTreeSet;

use paged_kv::{ContiguousAllocator, Fit, PagedKvError};
use serde::Serialize;
use workload::Request;

use crate::contiguous::ContiguousMemory;
use crate::memory::{Allocator, Memory};
use crate::pages::{PagedMemory, PagesConfig};
use crate::sim::{Event, Happening, History, Rules, Sample, simulate};

/// What is played.
#[derive(Clone, Debug)]
pub struct Experiment {
    /// In order of arrival.
    pub trace: Vec<Request>,
    /// Positions that the model has: what reserve-maximum reserves.
    pub max_model_len: usize,
    /// The same for all.
    pub rules: Rules,
    /// How pages are managed; its slots are those of every allocator.
    pub pages: PagesConfig,
}

/// One allocator's run.
#[derive(Clone, Debug)]
pub struct Run {
    /// Which.
    pub allocator: Allocator,
    /// What happened.
    pub history: History,
}

impl Experiment {
    /// Plays the trace on fresh memory.
    ///
    /// # Errors
    /// [`PagedKvError::BlockSize`].
    pub fn run(&self, allocator: Allocator) -> Result<Run, PagedKvError> {
        let slots = self.pages.slots;
        let contiguous = |allocator| Box::new(ContiguousMemory::new(allocator));
        let memory: Box<dyn Memory> = match allocator {
            Allocator::FirstFit => contiguous(ContiguousAllocator::new(slots, Fit::First)),
            Allocator::BestFit => contiguous(ContiguousAllocator::new(slots, Fit::Best)),
            Allocator::ReserveMaximum => {
                let longest = self.max_model_len as u64;
                contiguous(ContiguousAllocator::reserve_maximum(slots, longest))
            }
            Allocator::Pages => Box::new(PagedMemory::new(self.pages)?),
        };
        Ok(Run { allocator, history: simulate(&self.trace, memory, self.rules) })
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// All tokens generated.
    pub served: usize,
    /// Waited at the head of the queue for memory, whatever became of them.
    pub waited: usize,
    /// Gave up for want of memory.
    pub out_of_memory: usize,
    /// Of these: there was enough, but not in one piece, when they gave up or when they were the
    /// first of the queue.
    pub fragmentation: usize,
    /// Gave up while the memory would have sufficed for them, behind others.
    pub gave_up: usize,
    /// Could never be served.
    pub too_large: usize,
}

/// Shares of the memory, averaged over time; they add up to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// Holds a position.
    pub held: f64,
    /// Allocated, to be filled later.
    pub later: f64,
    /// Allocated and never filled: internal fragmentation.
    pub never: f64,
    /// Free in pieces: external fragmentation.
    pub scattered: f64,
    /// Free.
    pub free: f64,
}

/// A run in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Which.
    pub allocator: Allocator,
    /// How the requests ended.
    pub outcomes: Outcomes,
    /// Tokens generated in all.
    pub generated: u64,
    /// Tokens generated in the time that is compared.
    pub generated_in_time: u64,
    /// Until the last request had ended, in seconds.
    pub seconds: f64,
    /// Where the memory went, in the time that is compared.
    pub memory: Shares,
    /// Allocated slots that held no position, of all allocated ones, over the whole run.
    pub waste: f64,
    /// Free slots outside the largest hole, of all free ones, over the whole run.
    pub external_fragmentation: f64,
    /// Requests that ran at a time, on average, in the time that is compared.
    pub running: f64,
    /// The most that ran at a time.
    pub most_running: usize,
    /// Mean wait of those that started, in seconds.
    pub mean_wait: f64,
    /// Preemptions.
    pub preemptions: usize,
    /// Of looked-up tokens, those found in the prefix cache (pages).
    pub prefix_hit_rate: f64,
}

impl Run {
    /// The figures, those of the time that is compared being until `until` microseconds.
    pub fn summary(&self, until: u64) -> Summary {
        let History { events, samples, end, memory } = &self.history;
        let times = |f: fn(&Sample) -> u64| move |s: &Sample| (s.to - s.from) as f64 * f(s) as f64;
        let all = |f: fn(&Sample) -> u64| samples.iter().map(times(f)).sum::<f64>();
        let allocated = all(|s| s.usage.allocated());
        let scattered = all(|s| s.usage.scattered);
        let free = scattered + all(|s| s.usage.free);
        let waits: Vec<u64> = events.iter().filter_map(waited).collect();
        let count = |f: fn(&Happening) -> bool| events.iter().filter(|e| f(&e.happening)).count();
        Summary {
            allocator: self.allocator,
            outcomes: outcomes(events),
            generated: samples.last().map_or(0, |s| s.generated),
            generated_in_time: self.generated_by(until),
            seconds: *end as f64 / 1e6,
            memory: shares(samples, until),
            waste: ratio(allocated - all(|s| s.usage.held), allocated),
            external_fragmentation: ratio(scattered, free),
            running: average(samples, until, |s| s.running as f64),
            most_running: samples.iter().map(|s| s.running).max().unwrap_or(0),
            mean_wait: ratio(waits.iter().sum::<u64>() as f64 / 1e6, waits.len() as f64),
            preemptions: count(|h| matches!(h, Happening::Preempted { .. })),
            prefix_hit_rate: memory.pages.as_ref().map_or(0.0, |p| p.hit_rate()),
        }
    }

    /// Tokens generated by a time in microseconds.
    pub fn generated_by(&self, until: u64) -> u64 {
        let samples = &self.history.samples;
        let after = samples.partition_point(|s| s.to <= until);
        after.checked_sub(1).map_or(0, |last| samples[last].generated)
    }
}

fn ratio(part: f64, of: f64) -> f64 {
    if of == 0.0 { 0.0 } else { part / of }
}

fn waited(event: &Event) -> Option<u64> {
    match event.happening {
        Happening::Starts { waited, .. } => Some(waited),
        _ => None,
    }
}

/// The mean of a figure over the steps until a time.
fn average(samples: &[Sample], until: u64, f: impl Fn(&Sample) -> f64) -> f64 {
    let samples = || samples.iter().filter(|s| s.to <= until);
    let time = |s: &Sample| (s.to - s.from) as f64;
    ratio(samples().map(|s| time(s) * f(s)).sum(), samples().map(time).sum())
}

fn shares(samples: &[Sample], until: u64) -> Shares {
    let total = samples.first().map_or(1, |s| {
        let usage = s.usage;
        usage.allocated() + usage.scattered + usage.free
    });
    let share = |f: fn(&Sample) -> u64| average(samples, until, |s| f(s) as f64 / total as f64);
    Shares {
        held: share(|s| s.usage.held),
        later: share(|s| s.usage.later),
        never: share(|s| s.usage.never),
        scattered: share(|s| s.usage.scattered),
        free: share(|s| s.usage.free),
    }
}

fn outcomes(events: &[Event]) -> Outcomes {
    let mut outcomes = Outcomes::default();
    // Who met holes that add up to enough while it was the first of the queue.
    let mut met_holes = BTreeSet::new();
    for event in events {
        match event.happening {
            Happening::Waits { shortage } => {
                outcomes.waited += 1;
                if shortage.is_fragmentation() {
                    met_holes.insert(event.request);
                }
            }
            Happening::Finishes => outcomes.served += 1,
            Happening::TooLarge { .. } => outcomes.too_large += 1,
            Happening::GivesUp { shortage } => {
                let holes = shortage.is_fragmentation() || met_holes.contains(&event.request);
                outcomes.fragmentation += usize::from(holes);
                match shortage.fits() {
                    true => outcomes.gave_up += 1,
                    false => outcomes.out_of_memory += 1,
                }
            }
            _ => {}
        }
    }
    outcomes
}
