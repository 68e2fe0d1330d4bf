//! Where the time of a step goes: what ran, when, and what it moved and computed.
//!
//! A [`Profile`] travels with the [`ThreadPool`](crate::ThreadPool). Code that is worth a line
//! opens a [`scope`](Profile::scope), which ends when it is dropped; scopes within scopes make a
//! tree. One that is off costs a branch. [`Profile::table`] adds up what ran, and
//! [`Profile::chrome_trace`] shows each event to a trace viewer.
//!
//! ```
//! use cpu_kernels::profile::{Profile, Work};
//! let profile = Profile::on();
//! {
//!     let _step = profile.scope("step", "", Work::default);
//!     let _norm = profile.scope("norm", "", || Work { bytes: 4096, operations: 3072 });
//! }
//! let events = profile.events();
//! assert_eq!((events[0].name, events[1].name), ("norm", "step")); // as they end
//! assert!(events[0].took <= events[1].took);
//! assert!(profile.table().to_string().contains("  norm"));
//! ```

mod table;
mod trace;

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use table::{Line, Table};

/// A record of what ran, or nothing. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Profile(Option<Arc<Recorder>>);

/// What a piece of work has to move and to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes read and written at the least.
    pub bytes: usize,
    /// Additions and multiplications.
    pub operations: usize,
}

/// One piece of work that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it is: `linear`, `norm`, `attention`.
    pub name: &'static str,
    /// Which of its kind, such as the type of a weight; may be empty.
    pub detail: &'static str,
    /// A number for the thread that asked for it.
    pub thread: u32,
    /// When it began, from the beginning of the profile.
    pub start: Duration,
    /// How long it took.
    pub took: Duration,
    /// What it moved and computed.
    pub work: Work,
}

#[derive(Debug)]
struct Recorder {
    began: Instant,
    events: Mutex<Vec<Event>>,
}

/// A piece of work that runs until this is dropped.
#[must_use = "the scope ends when it is dropped"]
#[derive(Debug)]
pub struct Scope<'a>(Option<Open<'a>>);

#[derive(Debug)]
struct Open<'a> {
    recorder: &'a Recorder,
    name: &'static str,
    detail: &'static str,
    work: Work,
    start: Instant,
}

impl Profile {
    /// One that records.
    pub fn on() -> Self {
        let recorder = Recorder { began: Instant::now(), events: Mutex::default() };
        Profile(Some(Arc::new(recorder)))
    }

    /// Whether it records.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins a piece of work; `work` is asked only if the profile records.
    #[inline]
    pub fn scope(
        &self,
        name: &'static str,
        detail: &'static str,
        work: impl FnOnce() -> Work,
    ) -> Scope<'_> {
        Scope(self.0.as_deref().map(|recorder| {
            let work = work();
            Open { recorder, name, detail, work, start: Instant::now() }
        }))
    }

    /// What ran so far, in the order of ends.
    pub fn events(&self) -> Vec<Event> {
        self.0.as_ref().map_or_else(Vec::new, |recorder| recorder.events().clone())
    }

    /// Forgets what ran so far, such as warm-up.
    pub fn clear(&self) {
        if let Some(recorder) = &self.0 {
            recorder.events().clear();
        }
    }

    /// What ran so far, added up by name.
    pub fn table(&self) -> Table {
        Table::of(self.events())
    }

    /// What ran so far as a JSON array of complete events in Chrome's trace event format, which
    /// `chrome://tracing` and Perfetto show.
    pub fn chrome_trace(&self) -> String {
        trace::json(&self.events())
    }
}

impl Recorder {
    fn events(&self) -> MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Scope<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(Open { recorder, name, detail, work, start }) = self.0.take() {
            let took = start.elapsed();
            let start = start.saturating_duration_since(recorder.began);
            recorder.events().push(Event { name, detail, thread: thread(), start, took, work });
        }
    }
}

/// The number of this thread.
fn thread() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    thread_local!(static THREAD: u32 = NEXT.fetch_add(1, Ordering::Relaxed));
    THREAD.with(|&number| number)
}
