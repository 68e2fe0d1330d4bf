//! Who watches an engine, to measure it.

use std::time::Duration;

/// Hears what an engine does, on the engine's thread: so quickly, please. Every method does nothing
/// unless it is written otherwise.
#[allow(unused_variables)]
pub trait Observer: Send + Sync {
    /// So many requests run, and so many wait.
    fn requests(&self, running: usize, waiting: usize) {}

    /// The share of blocks that sequences hold, 0 to 1.
    fn cache_usage(&self, share: f64) {}

    /// A step computed so many rows, of which so many were seen for the first time and belong to
    /// prompts, and chose so many tokens.
    fn step(&self, rows: usize, prompt_rows: usize, generated: usize) {}

    /// So many tokens of a prompt were looked up in the prefix cache, and so many found.
    fn prefix(&self, queries: usize, hits: usize) {}

    /// So many sequences lost their blocks.
    fn preempted(&self, sequences: usize) {}

    /// A request got its first token so long after it came.
    fn first_token(&self, after: Duration) {}

    /// An answer got a token so long after the one before.
    fn inter_token(&self, gap: Duration) {}

    /// A request is over; `reason` is `stop`, `length` or `abort`.
    fn finished(&self, reason: &'static str, times: RequestTimes, prompt: usize, generated: usize) {
    }

    /// A request of a tenant is over that had so many tokens.
    fn tenant(&self, tenant: &str, prompt: usize, generated: usize) {}
}

/// How long a request took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestTimes {
    /// From its arrival to its beginning.
    pub queue: Duration,
    /// From its beginning to its first token.
    pub prefill: Duration,
    /// From its first token to its end.
    pub decode: Duration,
}

/// Nobody watches.
pub(crate) struct Nobody;

impl Observer for Nobody {}
