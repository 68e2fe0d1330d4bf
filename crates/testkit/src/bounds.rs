//! What a parser may take for an input of a megabyte that is wrong: 50 ms and 16 MiB.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub use peak_alloc::PeakAlloc;

/// The most that a refusal may take.
pub const TIME: Duration = Duration::from_millis(50);
/// The most bytes that a refusal may allocate.
pub const MEMORY: usize = 16 << 20;

/// Measures time and memory; the allocator must be the program's.
///
/// ```
/// use testkit::bounds::{Bounds, PeakAlloc};
/// #[global_allocator]
/// static ALLOCATOR: PeakAlloc = PeakAlloc;
/// static BOUNDS: Bounds = Bounds::new(&ALLOCATOR);
/// assert!(BOUNDS.alone().check("a number", || "x".parse::<u8>()).is_err());
/// ```
#[derive(Debug)]
pub struct Bounds {
    allocator: &'static PeakAlloc,
    one: Mutex<()>,
}

impl Bounds {
    /// With the allocator that counts.
    pub const fn new(allocator: &'static PeakAlloc) -> Self {
        Self { allocator, one: Mutex::new(()) }
    }

    /// Waits until no other test measures: the allocator counts for the whole process.
    pub fn alone(&self) -> Alone<'_> {
        let guard = self.one.lock().unwrap_or_else(|e| e.into_inner());
        Alone { allocator: self.allocator, _guard: guard }
    }
}

/// The right to measure.
#[derive(Debug)]
pub struct Alone<'a> {
    allocator: &'static PeakAlloc,
    _guard: MutexGuard<'a, ()>,
}

impl Alone<'_> {
    /// What `work` gives. An error must come in time (the least of several times on the processor,
    /// since the machine may have other work); the bound of memory holds in any case.
    ///
    /// # Panics
    /// If it takes more.
    pub fn check<T, E>(&self, what: &str, work: impl Fn() -> Result<T, E>) -> Result<T, E> {
        let mut times = Vec::new();
        loop {
            self.allocator.reset_peak_usage();
            let before = self.allocator.current_usage();
            let (start, run) = (Instant::now(), on_processor());
            let result = work();
            let took = match (run, on_processor()) {
                (Some(before), Some(after)) => after.saturating_sub(before),
                _ => start.elapsed(),
            };
            let memory = self.allocator.peak_usage().saturating_sub(before);
            assert!(memory < MEMORY, "{what}: {memory} bytes");
            times.push(took);
            if result.is_ok() || took < TIME {
                return result;
            }
            assert!(times.len() < 20, "{what}: {times:?}");
        }
    }
}

/// How long this thread has run, where the system tells (Linux).
fn on_processor() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
