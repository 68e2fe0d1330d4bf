//! A language model for many users at once: continuous batching over a paged key-value cache.
//!
//! An [`Engine`] is one thread that runs a model, and a handle through which anybody asks. A step of
//! the thread is: commands that came meanwhile; what the [`scheduler`] chooses; one forward over all
//! its rows; one token for each sequence whose newest row was among them. Keys and values lie in
//! blocks ([`paged_kv`]); nothing is divided among "slots", so a request may use all the blocks that
//! there are. [`Models`] are several engines under one memory budget.
//!
//! A request's tokens depend on the request alone: rows do not depend on their batch, each answer has a
//! sampler of its own, and a sequence that was preempted is computed again as it was. So the output at
//! a given seed is the same alone, in any company, after preemption, and with the prefix cache on or
//! off.
//!
//! Time is measured by the monotonic clock alone: a change of the date ends no request.
//!
//! ```no_run
//! use std::sync::Arc;
//! use engine::{Engine, EngineConfig, Event, GenerationRequest};
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let tokenizer = Arc::new(tokenizer::Tokenizer::from_path("model.gguf")?);
//! let model = model::Model::open("model.gguf")?;
//! let prompt = tokenizer.encode("Once", Default::default())?;
//! let engine = Engine::start("model", model, tokenizer, EngineConfig::default())?;
//! let mut generation = engine.submit(GenerationRequest::new(prompt))?;
//! while let Some(event) = generation.next().await {
//!     if let Event::Delta { text, .. } = event {
//!         print!("{text}");
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! There is no HTTP here; the crate `serve` has it.
#![forbid(unsafe_code)]

mod active;
mod answer;
mod beam;
mod draw;
mod embed;
mod error;
mod generation;
mod load;
pub mod models;
mod observer;
mod pace;
mod request;
pub mod snapshot;
mod stop;
mod tokens;
mod view;
mod worker;

use std::hash::RandomState;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self as std_mpsc, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use model::Model;
use model::pooling::Pooling;
use paged_kv::KvCacheConfig;
use sampling::Sampler;
use scheduler::{Preemption, RequestId, SchedulerConfig};
use tensor::DType;
use tokenizer::Tokenizer;
use tokio::sync::{mpsc, oneshot};

use self::active::Active;
pub use self::draw::draw;
pub use self::error::{EmbedError, GenerationError, StartError, SubmitError};
pub use self::generation::Generation;
use self::load::{Load, QueueLimits, Weight};
pub use self::models::{ModelSpec, Models, ModelsError};
pub use self::observer::{Observer, RequestEnd, RequestObserver, RequestTimes};
pub use self::pace::{MAX_GAP, STRETCH};
pub use self::request::{
    Event, FinishReason, GenerationRequest, Search, StopCause, StopConditions, Tenant, TokenInfo,
    Usage,
};
pub use self::snapshot::Snapshot;
use self::worker::{Command, Worker};

/// How an engine runs.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Blocks of keys and values.
    pub kv: KvCacheConfig,
    /// How keys and values are stored.
    pub kv_type: DType,
    /// The most positions of a sequence; `None` for what the model was made for.
    pub max_model_len: Option<usize>,
    /// Sequences that run at once.
    pub max_sequences: usize,
    /// Rows of a step.
    pub max_batch_tokens: usize,
    /// Requests that wait at most.
    pub max_waiting: usize,
    /// A request that would have to wait longer than this is refused.
    pub max_queue_delay: Duration,
    /// A request that has waited longer than this is given up.
    pub queue_timeout: Duration,
    /// What becomes of a sequence whose blocks another one needs.
    pub preemption: Preemption,
    /// Events that a reader may leave unread before its request is ended.
    pub max_unread: usize,
}

impl Default for EngineConfig {
    /// 256 blocks of 16 positions, f16, and room for 64 sequences.
    fn default() -> Self {
        Self {
            kv: KvCacheConfig { blocks: 256, ..KvCacheConfig::default() },
            kv_type: DType::F16,
            max_model_len: None,
            max_sequences: 64,
            max_batch_tokens: 512,
            max_waiting: 256,
            max_queue_delay: Duration::from_secs(60),
            queue_timeout: Duration::from_secs(120),
            preemption: Preemption::Recompute,
            max_unread: 1024,
        }
    }
}

impl EngineConfig {
    fn scheduler(&self) -> SchedulerConfig {
        SchedulerConfig {
            kv: self.kv.clone(),
            max_sequences: self.max_sequences,
            // The handle keeps the queue short.
            max_waiting: usize::MAX,
            max_model_len: self.max_model_len.unwrap_or(usize::MAX),
            preemption: self.preemption,
        }
    }

    /// Tokens that one sequence can come to.
    fn capacity(&self) -> usize {
        let pool = self.kv.blocks as usize * self.kv.block_size;
        self.max_model_len.map_or(pool, |len| len.min(pool))
    }
}

/// What an engine runs.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The name that requests use.
    pub name: String,
    /// The architecture's name in GGUF.
    pub architecture: String,
    /// The most tokens of prompt and answer together.
    pub context_length: usize,
    /// Tokens that there are.
    pub vocab_size: usize,
    /// Whether it embeds text and does not generate any.
    pub is_embedding: bool,
    /// When it was loaded, in seconds since 1970.
    pub created: u64,
}

/// What handle and thread share.
pub(crate) struct Shared {
    pub(crate) info: ModelInfo,
    pub(crate) config: EngineConfig,
    pub(crate) load: Load,
    pub(crate) observer: Arc<dyn Observer>,
    tokenizer: Arc<Tokenizer>,
    draining: AtomicBool,
    restarts: AtomicU64,
}

/// A handle to an engine. Clones are the same engine, which stops when the last is dropped.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    next_id: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Not waited for: the last handle may be dropped on a thread that must not block.
        let _ = self.commands.send(Command::Stop);
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("info", self.info()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the thread. It restarts itself if it panics, without the requests it had.
    ///
    /// # Errors
    /// [`StartError`] for a cache that cannot be made, and if the system gives no thread.
    pub fn start(
        name: impl Into<String>,
        model: Model,
        tokenizer: Arc<Tokenizer>,
        config: EngineConfig,
    ) -> Result<Self, StartError> {
        Self::start_observed(name, model, tokenizer, config, Arc::new(observer::Nobody))
    }

    /// As [`start`](Self::start), with somebody who watches.
    ///
    /// # Errors
    /// As there.
    pub fn start_observed(
        name: impl Into<String>,
        model: Model,
        tokenizer: Arc<Tokenizer>,
        mut config: EngineConfig,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let (architecture, trained, vocab_size, is_embedding) = match model.decoder() {
            Ok(d) => {
                let c = &d.config;
                (c.architecture.clone(), c.context_length, c.vocab_size, false)
            }
            Err(_) => {
                let c = &model.encoder()?.config;
                (c.architecture.clone(), c.context_length, c.vocab_size, true)
            }
        };
        let limit = config.max_model_len.map_or(trained, |len| len.min(trained));
        config.max_model_len = Some(limit);
        let context_length = if is_embedding { limit } else { config.capacity() };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let name = name.into();
        let info =
            ModelInfo { name, architecture, context_length, vocab_size, is_embedding, created };
        let limits = QueueLimits {
            max_waiting: config.max_waiting,
            max_delay: config.max_queue_delay,
            max_sequences: config.max_sequences,
        };
        let shared = Arc::new(Shared {
            info,
            config,
            load: Load::new(limits),
            observer,
            tokenizer,
            draining: AtomicBool::new(false),
            restarts: AtomicU64::new(0),
        });
        let (commands, received) = std_mpsc::channel();
        let (started, wait) = std_mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("engine {}", shared.info.name))
            .stack_size(8 << 20)
            .spawn(move || run(&model, &of_thread, &received, &started))?;
        // The cache is made on the thread that will use it.
        match wait.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(StartError::Thread(std::io::Error::other("it panicked"))),
        }
        let thread = Mutex::new(Some(thread));
        let inner = Inner { shared, commands, next_id: AtomicU64::new(0), thread };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What it runs.
    pub fn info(&self) -> &ModelInfo {
        &self.inner.shared.info
    }

    /// How it runs.
    pub fn config(&self) -> &EngineConfig {
        &self.inner.shared.config
    }

    /// The model's tokenizer.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.inner.shared.tokenizer
    }

    /// Takes a request, or says at once why not.
    ///
    /// # Errors
    /// [`SubmitError`].
    pub fn submit(&self, request: GenerationRequest) -> Result<Generation, SubmitError> {
        let shared = &self.inner.shared;
        if shared.draining.load(Ordering::Acquire) {
            return Err(SubmitError::Draining);
        }
        let max_tokens = self.check(&request)?;
        let weight = Weight { tokens: request.prompt.len(), sequences: request.search.width() };
        shared.load.admit(weight)?;
        let id = RequestId(self.inner.next_id.fetch_add(1, Ordering::Relaxed));
        let (sender, events) = mpsc::channel(shared.config.max_unread.max(1));
        let failure = Arc::new(OnceLock::new());
        let submitted = Instant::now();
        let kept = Arc::clone(&failure);
        let active = Active::new(request, max_tokens, weight, submitted, sender, kept);
        let commands = self.inner.commands.clone();
        if commands.send(Command::Submit(id, Box::new(active))).is_err() {
            shared.load.left_queue(weight, false);
            return Err(SubmitError::Stopped);
        }
        Ok(Generation { id, events, failure, commands, ended: false })
    }

    /// Looks at what can be known of a request beforehand; the most tokens that an answer may have.
    fn check(&self, request: &GenerationRequest) -> Result<usize, SubmitError> {
        let Shared { info, config, .. } = &*self.inner.shared;
        if info.is_embedding {
            return Err(SubmitError::NotGenerative);
        }
        let (prompt, width) = (request.prompt.len(), request.search.width());
        if prompt == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        let vocab_size = info.vocab_size;
        if let Some(&token) = request.prompt.iter().find(|&&t| t as usize >= vocab_size) {
            return Err(SubmitError::TokenOutOfRange { token, vocab_size });
        }
        Sampler::new(request.sampling.clone())?;
        if width > config.max_sequences {
            return Err(SubmitError::TooManySequences {
                asked: width,
                limit: config.max_sequences,
            });
        }
        let limit = info.context_length;
        let completion = request.stop.max_tokens;
        if prompt.saturating_add(completion.unwrap_or(1)) > limit {
            let completion = completion.unwrap_or(1);
            return Err(SubmitError::ContextLength { prompt, completion, limit });
        }
        // As the scheduler counts: answers share the full blocks of the prompt but for its last token;
        // each has the rest to itself.
        let (block, total) = (config.kv.block_size, config.kv.blocks as usize);
        let shared = (prompt - 1) / block;
        let needed = |tokens: usize| shared + width * ((prompt + tokens).div_ceil(block) - shared);
        if let Some(tokens) = completion {
            return match needed(tokens) {
                needed if needed > total => Err(SubmitError::NeverFits { needed, total }),
                _ => Ok(tokens),
            };
        }
        let fits = total.saturating_sub(shared) / width.max(1);
        let tokens = ((shared + fits) * block).saturating_sub(prompt).min(limit - prompt);
        match tokens {
            0 => Err(SubmitError::NeverFits { needed: needed(1), total }),
            _ => Ok(tokens),
        }
    }

    /// Vectors of texts, in their order, each of length 1.
    ///
    /// # Errors
    /// [`EmbedError`].
    pub async fn embed(
        &self,
        texts: Vec<Vec<u32>>,
        pooling: Option<Pooling>,
    ) -> Result<Vec<Vec<f32>>, EmbedError> {
        let shared = &self.inner.shared;
        let _embedding = shared.load.embedding();
        if shared.draining.load(Ordering::Acquire) {
            return Err(EmbedError::Stopped);
        }
        let (limit, vocab_size) = (shared.info.context_length, shared.info.vocab_size);
        for text in &texts {
            if text.is_empty() || text.len() > limit {
                return Err(EmbedError::Length { tokens: text.len(), limit });
            }
            if let Some(&token) = text.iter().find(|&&t| t as usize >= vocab_size) {
                return Err(EmbedError::TokenOutOfRange { token, vocab_size });
            }
        }
        let (reply, answer) = oneshot::channel();
        let done = Vec::with_capacity(texts.len());
        let request = embed::EmbedRequest { texts: texts.into(), pooling, done, reply };
        let sent = self.inner.commands.send(Command::Embed(request));
        sent.map_err(|_| EmbedError::Stopped)?;
        answer.await.unwrap_or(Err(EmbedError::Stopped))
    }

    /// Whether the thread gets round to answering within `patience`: between two steps, that is.
    pub async fn alive(&self, patience: Duration) -> bool {
        let (reply, answer) = oneshot::channel();
        self.inner.commands.send(Command::Ping(reply)).is_ok()
            && matches!(tokio::time::timeout(patience, answer).await, Ok(Ok(())))
    }

    /// The state for a live view; `None` from an engine that is gone.
    pub async fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.inner.commands.send(Command::Snapshot(reply)).ok()?;
        answer.await.ok()
    }

    /// Requests that wait, and that run.
    pub fn counts(&self) -> (usize, usize) {
        self.inner.shared.load.counts()
    }

    /// Whether no request runs or waits, and no text is embedded.
    pub fn is_idle(&self) -> bool {
        self.inner.shared.load.is_idle()
    }

    /// Whether anybody else holds a handle, or it is not idle.
    pub fn in_use(&self) -> bool {
        Arc::strong_count(&self.inner) > 1 || !self.is_idle()
    }

    /// When a client who is refused may try again.
    pub fn retry_after(&self) -> Duration {
        self.inner.shared.load.retry_after()
    }

    /// Makes the thread panic, as a fault in it would: for tests of what must hold then.
    #[doc(hidden)]
    pub fn panic_for_tests(&self) {
        let _ = self.inner.commands.send(Command::Panic);
    }

    /// How often the thread panicked and began anew.
    pub fn restarts(&self) -> u64 {
        self.inner.shared.restarts.load(Ordering::Relaxed)
    }

    /// Refuses requests from now on; those that were taken go on.
    pub fn drain(&self) {
        self.inner.shared.draining.store(true, Ordering::Release);
    }

    /// Whether it refuses requests.
    pub fn is_draining(&self) -> bool {
        self.inner.shared.draining.load(Ordering::Acquire)
    }

    /// Ends all requests and the thread, and waits for it.
    pub fn stop(&self) {
        self.drain();
        let _ = self.inner.commands.send(Command::Stop);
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A thread that panicked is over as well.
            let _ = thread.join();
        }
    }
}

/// The thread: a worker, and another after one that panicked.
fn run(
    model: &Model,
    shared: &Shared,
    commands: &std_mpsc::Receiver<Command>,
    started: &Sender<Result<(), StartError>>,
) {
    let hasher = RandomState::new();
    if shared.info.is_embedding {
        let _ = started.send(Ok(()));
        return worker::embed_only(model, commands);
    }
    let mut first = true;
    loop {
        let worker = Worker::new(model, &shared.tokenizer, shared, hasher.clone());
        let mut worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                tracing::error!(%error, "the engine does not start");
                let _ = started.send(Err(error));
                return;
            }
        };
        if std::mem::take(&mut first) {
            let _ = started.send(Ok(()));
        }
        // The worker is dropped after a panic; nothing else is shared that could be half changed.
        let ran = catch_unwind(AssertUnwindSafe(move || worker.run(commands)));
        match ran {
            Ok(()) => return,
            Err(_) => {
                shared.restarts.fetch_add(1, Ordering::Relaxed);
                tracing::error!("the engine's worker panicked and is started again");
            }
        }
    }
}
