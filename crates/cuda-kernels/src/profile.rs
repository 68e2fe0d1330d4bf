//! Where a device's time goes, by kernel.
//!
//! While a profile is on, a moment is recorded before and after each launch, copy and fill. What lies between the
//! end of one and the beginning of the next is time in which the device waited, for the host most likely. The
//! recording costs a few microseconds a launch itself, so that a step takes longer than without.
//!
//! A graph's replay is one row, `graph replay`: to see its kernels, profile the same work without a graph.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::EventId;
use crate::{Backend, Result, nvtx};

/// The time of a kernel, or of a kind of copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelTime {
    /// Its name.
    pub name: &'static str,
    /// How often it ran.
    pub count: u64,
    /// The device's time in all.
    pub total: Duration,
}

/// Where the time went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// By name, the longest first.
    pub kernels: Vec<KernelTime>,
    /// The device's time between the end of one and the beginning of the next.
    pub gaps: Duration,
    /// The host's time in the calls that launch, waits for results included.
    pub host: Duration,
}

impl Profile {
    /// The device's time in kernels and copies.
    pub fn busy(&self) -> Duration {
        self.kernels.iter().map(|k| k.total).sum()
    }

    /// How many launches and copies there were.
    pub fn launches(&self) -> u64 {
        self.kernels.iter().map(|k| k.count).sum()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width =
            self.kernels.iter().map(|k| k.name.len()).max().unwrap_or(0).max("kernel".len());
        let (ms, busy) = (|t: Duration| t.as_secs_f64() * 1e3, self.busy());
        let part = |t: Duration| 100.0 * t.as_secs_f64() / busy.as_secs_f64().max(1e-12);
        writeln!(
            f,
            "{:width$}  {:>9}  {:>11}  {:>10}  {:>6}",
            "kernel", "count", "total ms", "mean us", "part"
        )?;
        for k in &self.kernels {
            let mean = ms(k.total) * 1e3 / k.count.max(1) as f64;
            let (count, total, part) = (k.count, ms(k.total), part(k.total));
            writeln!(
                f,
                "{:width$}  {count:>9}  {total:>11.3}  {mean:>10.2}  {part:>5.1}%",
                k.name
            )?;
        }
        let (gaps, host, busy) = (ms(self.gaps), ms(self.host), ms(busy));
        let count = self.launches();
        writeln!(
            f,
            "device busy {busy:.3} ms in {count} launches and copies, waiting between {gaps:.3} ms; \
             host in calls {host:.3} ms"
        )
    }
}

/// Records the launches of a device while a profile is on.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    on: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    spans: Vec<Span>,
    kernels: HashMap<&'static str, KernelTime>,
    gaps: Duration,
    host: Duration,
    /// The end of the last span that was added up.
    last: Option<EventId>,
}

#[derive(Debug)]
struct Span {
    name: &'static str,
    begin: EventId,
    end: EventId,
}

/// Spans that wait to be added up: a driver's events are not for nothing.
const MOST_SPANS: usize = 4096;

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self, backend: &dyn Backend) {
        self.forget(backend);
        self.on.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self, backend: &dyn Backend) -> Result<Profile> {
        self.on.store(false, Ordering::Relaxed);
        let mut state = self.state();
        let added = state.add_up(backend);
        let state = std::mem::take(&mut *state);
        state.free(backend);
        added?;
        let mut kernels: Vec<KernelTime> = state.kernels.into_values().collect();
        kernels.sort_by(|a, b| b.total.cmp(&a.total).then(a.name.cmp(b.name)));
        Ok(Profile { kernels, gaps: state.gaps, host: state.host })
    }

    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Forgets what was recorded.
    pub(crate) fn forget(&self, backend: &dyn Backend) {
        std::mem::take(&mut *self.state()).free(backend);
    }

    /// Does some work of that name, in a range of that name, and records it if a profile is on.
    pub(crate) fn around<R>(
        &self,
        backend: &dyn Backend,
        name: &'static str,
        work: impl FnOnce() -> Result<R>,
    ) -> Result<R> {
        let _range = nvtx::range(name);
        if !self.is_on() {
            return work();
        }
        let begin = backend.record()?;
        let start = Instant::now();
        let done = work();
        let host = start.elapsed();
        let end = match backend.record() {
            Ok(end) if done.is_ok() => end,
            other => {
                for event in other.into_iter().chain([begin]) {
                    // SAFETY: it was recorded above and nobody else has it.
                    unsafe { backend.free_event(event) };
                }
                return done;
            }
        };
        let mut state = self.state();
        state.host += host;
        state.spans.push(Span { name, begin, end });
        if state.spans.len() >= MOST_SPANS {
            state.add_up(backend)?;
        }
        done
    }
}

impl State {
    /// Adds up the spans and frees their events, but for the last.
    fn add_up(&mut self, backend: &dyn Backend) -> Result<()> {
        let spans = std::mem::take(&mut self.spans);
        let mut result = Ok(());
        for span in spans {
            // SAFETY: these events were recorded outside of a capture and are freed below.
            let elapsed = |from, to| unsafe { backend.elapsed(from, to) };
            let gap = self.last.map_or(Ok(Duration::ZERO), |last| elapsed(last, span.begin));
            match gap.and_then(|gap| Ok((gap, elapsed(span.begin, span.end)?))) {
                Ok((gap, took)) => {
                    self.gaps += gap;
                    let zero = KernelTime { name: span.name, count: 0, total: Duration::ZERO };
                    let kernel = self.kernels.entry(span.name).or_insert(zero);
                    kernel.count += 1;
                    kernel.total += took;
                }
                Err(error) => result = Err(error),
            }
            for event in self.last.replace(span.end).into_iter().chain([span.begin]) {
                // SAFETY: nobody else has it, and it is not used again.
                unsafe { backend.free_event(event) };
            }
        }
        result
    }

    fn free(&self, backend: &dyn Backend) {
        let spans = self.spans.iter().flat_map(|span| [span.begin, span.end]);
        for event in spans.chain(self.last) {
            // SAFETY: they were recorded here, and this state is given up.
            unsafe { backend.free_event(event) };
        }
    }
}
