//! Why the engine refuses or fails a request.

use std::time::Duration;

/// A request that the engine does not take.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// A prompt without tokens.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocab_size: usize,
    },
    /// Prompt and answer are longer than the model's context.
    #[error(
        "this model's maximum context length is {limit} tokens; {prompt} in the prompt and {completion} in the completion were asked for"
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens asked for.
        completion: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// Even alone it would need more blocks than there are.
    #[error("the request needs {needed} blocks of the key-value cache, which has {total}")]
    NeverFits {
        /// Blocks needed.
        needed: usize,
        /// Blocks there are.
        total: usize,
    },
    /// More answers at once than the engine runs sequences.
    #[error("{asked} sequences at once, at most {limit} run")]
    TooManySequences {
        /// Sequences asked for.
        asked: usize,
        /// The most that run.
        limit: usize,
    },
    /// Parameters of the sampler that make no sense.
    #[error(transparent)]
    Sampling(#[from] sampling::SamplingError),
    /// The queue is full.
    #[error("{waiting} requests are waiting; try again in {}s", retry_after.as_secs().max(1))]
    QueueFull {
        /// Requests before it.
        waiting: usize,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The engine is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The engine's thread is gone.
    #[error("the engine is not running")]
    Stopped,
    /// The model makes no text.
    #[error("this model embeds text and does not generate any")]
    NotGenerative,
}

/// A request that was taken and failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GenerationError {
    /// Logits from which no token follows.
    #[error("the model's output is not usable: {0}")]
    Sampling(#[from] sampling::SamplingError),
    /// The model could not be computed.
    #[error("the model failed: {0}")]
    Model(String),
    /// The constraint could not go on.
    #[error("the constraint failed: {0}")]
    Constraint(String),
    /// The answers were not read as fast as they came.
    #[error("the client reads too slowly")]
    SlowReader,
    /// The engine's worker panicked; other requests may have gone with it.
    #[error("the engine failed and was restarted")]
    WorkerPanicked,
    /// The scheduler does not take what the engine took.
    #[error("the request was refused: {0}")]
    Refused(#[from] scheduler::Refusal),
    /// Answers could not be told apart into sequences of their own.
    #[error("the scheduler failed: {0}")]
    Fork(#[from] scheduler::ForkError),
    /// It waited too long to begin with.
    #[error("the request waited {}s and was not begun", waited.as_secs())]
    QueueTimeout {
        /// How long it waited.
        waited: Duration,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The engine was shut down before the end.
    #[error("the server shut down before the answer was complete")]
    ShutDown,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The cache's sizes make no sense, or there is no memory for it.
    #[error("the key-value cache: {0}")]
    Cache(#[from] paged_kv::PagedKvError),
    /// The same of its storage.
    #[error("the key-value cache: {0}")]
    Storage(#[from] tensor::kv::KvError),
    /// The model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// The system gives no thread.
    #[error("the engine's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Texts that are not embedded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbedError {
    /// A text without tokens, or with more than the model takes.
    #[error("a text has {tokens} tokens; this model takes 1 to {limit}")]
    Length {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens that fit.
        limit: usize,
    },
    /// A token that the vocabulary does not have.
    #[error("token {token} is not in the vocabulary of {vocab_size}")]
    TokenOutOfRange {
        /// The token.
        token: u32,
        /// Tokens there are.
        vocab_size: usize,
    },
    /// The model.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A vector that is infinite or not a number somewhere.
    #[error("the model's output is not finite")]
    NotFinite,
    /// The engine's thread is gone, or going.
    #[error("the engine is not running")]
    Stopped,
}
