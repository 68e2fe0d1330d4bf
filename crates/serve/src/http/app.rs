//! What all handlers share.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use openai_api::ApiError;

use super::auth::{Keys, RateLimiter};
use super::config::HttpConfig;
use super::context::ModelContext;
use super::failure::no_model;
use crate::engine::Engine;
use crate::models::Models;

/// What all handlers share.
pub(crate) struct App {
    pub(crate) config: HttpConfig,
    pub(crate) models: Arc<Models>,
    pub(crate) keys: Keys,
    pub(crate) limiter: RateLimiter,
    /// When the server started, in seconds since 1970.
    pub(crate) started: u64,
    contexts: Mutex<HashMap<String, Arc<ModelContext>>>,
    ready: AtomicBool,
    draining: AtomicBool,
}

/// A model that is loaded, and what belongs to it.
pub(crate) struct Served {
    pub(crate) engine: Engine,
    pub(crate) context: Arc<ModelContext>,
}

impl Served {
    /// Refuses texts of which one is too long whatever its tokens are.
    pub(crate) fn check_lengths<'a>(
        &self,
        texts: impl IntoIterator<Item = &'a str>,
        param: &'static str,
    ) -> Result<(), ApiError> {
        let limit = self.engine.info().context_length;
        texts.into_iter().try_for_each(|t| self.context.check_length(t.len(), param, limit))
    }
}

impl App {
    pub(crate) fn new(config: HttpConfig, models: Arc<Models>) -> Self {
        Self {
            keys: Keys::new(config.api_keys.clone()),
            limiter: RateLimiter::new(config.rate),
            ready: AtomicBool::new(config.preload.is_empty()),
            config,
            models,
            started: now(),
            contexts: Mutex::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// The model that a request names; the first one if it names none.
    pub(crate) async fn served(&self, name: Option<&str>) -> Result<Served, ApiError> {
        let first = || self.models.specs().into_iter().next().map(|s| s.name);
        let name = name.map(str::to_owned).or_else(first).unwrap_or_default();
        let engine = self.models.engine(&name).await.map_err(no_model)?;
        let context = self.context(&engine);
        Ok(Served { engine, context })
    }

    /// What belongs to an engine's model; made anew for one that was loaded again.
    fn context(&self, engine: &Engine) -> Arc<ModelContext> {
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        let name = &engine.info().name;
        if let Some(context) = contexts.get(name)
            && Arc::ptr_eq(&context.tokenizer, engine.tokenizer())
        {
            return Arc::clone(context);
        }
        let own = self.config.chat_template.as_deref();
        let context = Arc::new(ModelContext::new(engine.tokenizer(), own));
        contexts.insert(name.clone(), Arc::clone(&context));
        context
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_draining()
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
