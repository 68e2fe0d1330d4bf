//! Who watches an engine, to measure it, and who follows one request of it.

use std::time::Duration;

use crate::{GenerationError, Usage};

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

/// Hears how one request ended ([`GenerationRequest::observer`]), on the engine's thread: so quickly,
/// please.
///
/// [`GenerationRequest::observer`]: crate::GenerationRequest::observer
pub trait RequestObserver: Send + Sync + std::fmt::Debug {
    /// The request is over, in whatever way; told once of a request that the engine took.
    fn finished(&self, end: RequestEnd<'_>);
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestEnd<'a> {
    /// `stop`, `length` or `abort`.
    pub reason: &'static str,
    /// Why it failed, if it did; a request that was cancelled has not failed.
    pub error: Option<&'a GenerationError>,
    /// How long it took.
    pub times: RequestTimes,
    /// What it cost.
    pub usage: Usage,
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
