//! Several models under one memory budget, loaded when they are asked for and unloaded when others
//! need their place.
//!
//! A model that is in use is never unloaded: whoever holds an [`Engine`], or has a request in it, uses
//! it. Of those that are not, the one asked for longest ago goes first.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::Engine;

/// A model that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// The name that requests use.
    pub name: String,
    /// Its file or folder.
    pub path: PathBuf,
    /// Bytes of memory that it takes when loaded: weights, and keys and values.
    pub bytes: u64,
}

/// Why a model is not to be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelsError {
    /// Nobody of that name.
    #[error("The model `{name}` does not exist.")]
    Unknown {
        /// The name asked for.
        name: String,
    },
    /// It does not fit beside those that are in use.
    #[error("the model `{name}` needs {needed} bytes; {available} are not in use; try again later")]
    Busy {
        /// The name asked for.
        name: String,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes of the budget that no model in use takes.
        available: u64,
    },
    /// It cannot be loaded.
    #[error("the model `{name}` cannot be loaded: {reason}")]
    Load {
        /// The name asked for.
        name: String,
        /// What the loader says.
        reason: String,
    },
    /// Two models of one name, or one whose name no request could use.
    #[error("`{name}`: a model's name must be its own and not empty")]
    Name {
        /// The name given.
        name: String,
    },
    /// Even alone it would not fit.
    #[error("the model `{name}` needs {needed} bytes, the budget for all models is {budget}")]
    TooLarge {
        /// Its name.
        name: String,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes there are for all models.
        budget: u64,
    },
}

/// Loads a model; called on a thread that may block.
pub type Loader = Arc<
    dyn Fn(&ModelSpec) -> Result<Engine, Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
>;

/// The models of a server.
pub struct Models {
    budget: u64,
    loader: Loader,
    entries: Mutex<Vec<Entry>>,
    /// One is loaded at a time.
    loading: tokio::sync::Mutex<()>,
}

struct Entry {
    spec: ModelSpec,
    engine: Option<Engine>,
    /// Grows with each request for any model.
    used: u64,
}

impl Entry {
    fn bytes(&self) -> u64 {
        if self.engine.is_some() { self.spec.bytes } else { 0 }
    }

    fn in_use(&self) -> bool {
        self.engine.as_ref().is_some_and(Engine::in_use)
    }
}

impl Models {
    /// Models under a budget of bytes, none of them loaded.
    ///
    /// # Errors
    /// [`ModelsError::Name`], [`ModelsError::TooLarge`].
    pub fn new(specs: Vec<ModelSpec>, budget: u64, loader: Loader) -> Result<Self, ModelsError> {
        let mut entries: Vec<Entry> = Vec::new();
        for spec in specs {
            let name = spec.name.clone();
            if name.is_empty() || entries.iter().any(|e| e.spec.name == name) {
                return Err(ModelsError::Name { name });
            }
            if spec.bytes > budget {
                return Err(ModelsError::TooLarge { name, needed: spec.bytes, budget });
            }
            entries.push(Entry { spec, engine: None, used: 0 });
        }
        let loading = tokio::sync::Mutex::new(());
        Ok(Self { budget, loader, entries: Mutex::new(entries), loading })
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The models in the order they were given.
    pub fn specs(&self) -> Vec<ModelSpec> {
        self.entries().iter().map(|e| e.spec.clone()).collect()
    }

    /// Those that are loaded.
    pub fn loaded(&self) -> Vec<Engine> {
        self.entries().iter().filter_map(|e| e.engine.clone()).collect()
    }

    /// The engine of a model if it is loaded; asking is no use of it.
    pub fn peek(&self, name: &str) -> Option<Engine> {
        self.entries().iter().find(|e| e.spec.name == name)?.engine.clone()
    }

    /// The engine of a model, which is loaded if it is not yet.
    ///
    /// # Errors
    /// [`ModelsError::Unknown`], [`ModelsError::Busy`], [`ModelsError::Load`].
    pub async fn engine(self: &Arc<Self>, name: &str) -> Result<Engine, ModelsError> {
        if let Some(engine) = self.use_loaded(name)? {
            return Ok(engine);
        }
        let _one = self.loading.lock().await;
        // Somebody else may have loaded it meanwhile.
        if let Some(engine) = self.use_loaded(name)? {
            return Ok(engine);
        }
        let (spec, unloaded) = self.make_room(name)?;
        let loader = Arc::clone(&self.loader);
        let loaded = tokio::task::spawn_blocking(move || {
            // Their memory is given back before more is taken.
            unloaded.iter().for_each(Engine::stop);
            drop(unloaded);
            (loader)(&spec).map_err(|e| e.to_string())
        });
        let failed = |reason| ModelsError::Load { name: name.to_owned(), reason };
        let engine = loaded.await.map_err(|e| failed(e.to_string()))?.map_err(failed)?;
        let mut entries = self.entries();
        if let Some(entry) = entries.iter_mut().find(|e| e.spec.name == name) {
            entry.engine = Some(engine.clone());
        }
        Ok(engine)
    }

    fn use_loaded(&self, name: &str) -> Result<Option<Engine>, ModelsError> {
        let mut entries = self.entries();
        let now = entries.iter().map(|e| e.used).max().unwrap_or(0) + 1;
        let entry = entries.iter_mut().find(|e| e.spec.name == name);
        let entry = entry.ok_or_else(|| ModelsError::Unknown { name: name.to_owned() })?;
        entry.used = now;
        Ok(entry.engine.clone())
    }

    /// Takes engines that are not in use out of the list until a model fits.
    fn make_room(&self, name: &str) -> Result<(ModelSpec, Vec<Engine>), ModelsError> {
        let mut entries = self.entries();
        let spec = entries.iter().find(|e| e.spec.name == name).map(|e| e.spec.clone());
        let spec = spec.ok_or_else(|| ModelsError::Unknown { name: name.to_owned() })?;
        let kept: u64 = entries.iter().filter(|e| e.in_use()).map(Entry::bytes).sum();
        let available = self.budget.saturating_sub(kept);
        if spec.bytes > available {
            let needed = spec.bytes;
            return Err(ModelsError::Busy { name: name.to_owned(), needed, available });
        }
        let mut unloaded = Vec::new();
        while entries.iter().map(Entry::bytes).sum::<u64>() + spec.bytes > self.budget {
            let idle = entries.iter_mut().filter(|e| e.engine.is_some() && !e.in_use());
            // There is one: those in use leave room enough.
            let Some(entry) = idle.min_by_key(|e| e.used) else { break };
            tracing::info!(model = entry.spec.name, "unloaded");
            unloaded.extend(entry.engine.take());
        }
        Ok((spec, unloaded))
    }

    /// Refuses requests everywhere and waits, for at most `patience`, until those that run are done.
    /// Whether they are.
    pub async fn drain(&self, patience: Duration) -> bool {
        let engines = self.loaded();
        engines.iter().for_each(Engine::drain);
        let all_done = async {
            while !engines.iter().all(Engine::is_idle) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(patience, all_done).await.is_ok()
    }
}
