//! What is asked of the scheduler, and why it may refuse.

use paged_kv::{CacheSalt, TokenId};

/// Names a request; the caller chooses the numbers. One that has ended may be used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Among whom the machine is shared fairly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub u64);

/// A prompt to be continued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its name.
    pub id: RequestId,
    /// Who pays for it.
    pub tenant: TenantId,
    /// With whom its prefix may be shared.
    pub salt: CacheSalt,
    /// Lower ones go first, always.
    pub priority: i32,
    /// At least one token.
    pub prompt: Vec<TokenId>,
    /// Tokens that each sequence may be continued by. With 0 the prompt alone is computed.
    pub max_new_tokens: usize,
    /// Sequences that it may be forked into, the first included: `n`, `best_of` or the beam width.
    pub sequences: usize,
    /// Whether every row of the prompt has to be computed, as its logits are wanted: the prefix cache
    /// skips none then.
    pub every_logit: bool,
}

/// A request that is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A prompt without tokens.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// Prompt and answer are longer than a sequence may be.
    #[error("{prompt} tokens and {max_new} new ones are asked for, {limit} fit together")]
    TooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// New tokens asked for.
        max_new: usize,
        /// Tokens of a sequence at most.
        limit: usize,
    },
    /// Alone on the machine it could still run out of blocks.
    #[error("{needed} blocks may be needed, there are {total}")]
    NeverFits {
        /// Blocks of all its sequences at their longest, those of the prompt counted once.
        needed: usize,
        /// Blocks there are.
        total: usize,
    },
    /// No sequence, or more at once than run.
    #[error("{asked} sequences are asked for, 1 to {limit} can run at once")]
    TooManySequences {
        /// Sequences asked for.
        asked: usize,
        /// The most that run.
        limit: usize,
    },
    /// As many requests wait as may.
    #[error("{waiting} requests are waiting already")]
    QueueFull {
        /// Requests in the queue.
        waiting: usize,
    },
    /// A request of this name has not ended.
    #[error("there is a request {0:?} already")]
    DuplicateId(RequestId),
    /// No more requests are taken.
    #[error("no more requests are taken")]
    Draining,
}
