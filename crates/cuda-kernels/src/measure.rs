//! How long work takes on a device, by its own clock, and what its memory can do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::EventId;
use crate::memory::Pool;
use crate::{Gpu, Result};

/// A moment in a device's work: when all that came before is done.
pub struct Event {
    pool: Arc<Pool>,
    id: EventId,
}

impl Event {
    /// The time from here to a later moment of the same device; waits for both.
    ///
    /// # Errors
    /// [`crate::Error::Call`], also for what went wrong in a launch before; [`crate::Error::Unsupported`] for a moment of
    /// another device.
    pub fn until(&self, later: &Event) -> Result<Duration> {
        if !Arc::ptr_eq(&self.pool, &later.pool) {
            let (op, reason) = ("Event::until", "both moments must be of one device".into());
            return Err(crate::Error::Unsupported { op, reason });
        }
        // SAFETY: both were recorded here, and are freed when dropped.
        unsafe { self.pool.backend().elapsed(self.id, later.id) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was recorded here and nobody uses it any longer.
        unsafe { self.pool.backend().free_event(self.id) };
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a moment on cuda:{}", self.pool.backend().properties().ordinal)
    }
}

/// How long a batch of repetitions should take: much longer than the clock's step, of half a microsecond.
const BATCH: Duration = Duration::from_millis(5);
const MOST_REPETITIONS: u32 = 1000;
const BATCHES: usize = 5;

/// Bytes of a copy that no cache holds.
const LARGE_COPY: usize = 256 << 20;

impl Gpu {
    /// The moment when all work so far is done.
    ///
    /// # Errors
    /// [`crate::Error::Call`]; [`crate::Error::Capture`] in a capture.
    pub fn record(&self) -> Result<Event> {
        let id = self.pool.work_outside_graphs("a moment", |backend| backend.record())?;
        Ok(Event { pool: Arc::clone(&self.pool), id })
    }

    /// The time of some work: the median of batches of repetitions, after one that does not count.
    ///
    /// # Errors
    /// Those of `work`, and [`crate::Error::Call`].
    pub fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
        let mut batch = |repetitions: u32| -> Result<Duration> {
            let begin = self.record()?;
            for _ in 0..repetitions {
                work()?;
            }
            let end = self.record()?;
            Ok(begin.until(&end)? / repetitions)
        };
        batch(1)?;
        let once = batch(1)?.as_secs_f64();
        let repetitions =
            (BATCH.as_secs_f64() / once.max(1e-9)).clamp(1.0, f64::from(MOST_REPETITIONS));
        let mut times = Vec::with_capacity(BATCHES);
        for _ in 0..BATCHES {
            times.push(batch(repetitions as u32)?);
        }
        times.sort_unstable();
        Ok(times[BATCHES / 2])
    }

    /// Bytes a second that its memory reads and writes in a copy, both counted: the floor of whatever is bound
    /// by bytes. Takes half a gibibyte of memory, or a 32nd of what the device has.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`], [`crate::Error::Call`].
    pub fn copy_bandwidth(&self) -> Result<f64> {
        let bytes = LARGE_COPY.min(self.properties().memory / 64);
        let (from, to) = (self.filled(1, bytes)?, self.alloc(bytes)?);
        let took = self.time(|| to.copy_from(&from))?;
        Ok(2.0 * bytes as f64 / took.as_secs_f64().max(1e-12))
    }
}
