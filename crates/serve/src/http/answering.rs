//! What the generation endpoints have in common.

use std::hash::{DefaultHasher, Hash, Hasher};

use openai_api::{ApiError, Usage};

use super::app::{Served, now};
use super::failure::not_taken;
use crate::engine::{Engine, Generation, GenerationRequest};

/// What every answer and every chunk of it repeats.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
    pub(crate) fingerprint: String,
}

impl Head {
    pub(crate) fn new(prefix: &str, id: &str, served: &Served) -> Self {
        let info = served.engine.info();
        let mut hasher = DefaultHasher::new();
        let version = env!("CARGO_PKG_VERSION");
        let what = (version, &info.name, &info.architecture, info.vocab_size, info.context_length);
        what.hash(&mut hasher);
        Self {
            id: format!("{prefix}-{id}"),
            created: now(),
            model: info.name.clone(),
            fingerprint: format!("fp_{:016x}", hasher.finish()),
        }
    }
}

/// Counts tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Meter {
    prompt: usize,
    cached: usize,
    generated: usize,
}

impl Meter {
    pub(crate) fn prompt(&mut self, tokens: usize, cached: usize) {
        self.prompt += tokens;
        self.cached += cached;
    }

    pub(crate) fn cached(&mut self, tokens: usize) {
        self.cached += tokens;
    }

    pub(crate) fn generated(&mut self, tokens: usize) {
        self.generated += tokens;
    }

    pub(crate) fn usage(&self) -> Usage {
        Usage::new(self.prompt, self.cached, self.generated)
    }
}

/// Gives requests to the engine: all of them, or, where one is refused, none.
pub(crate) fn submit(
    engine: &Engine,
    requests: impl Iterator<Item = GenerationRequest>,
    param: &'static str,
) -> Result<Vec<Generation>, ApiError> {
    let refused = |error| not_taken(error, param, &engine.info().name);
    // Those that were taken are dropped, and so cancelled, with the error.
    requests.map(|request| engine.submit(request).map_err(refused)).collect()
}

/// Runs what takes long (tokenizing, templates, compiling) where it delays nobody.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
        Err(ApiError::Internal { reason: "preparing the request panicked".to_owned() })
    })
}
