//! What the engine is asked for, and what it answers with.

use std::sync::Arc;

use constrain::Constraint;
use sampling::{SamplingParams, TokenLogprob};

use crate::RequestObserver;

/// Who sent a request, for fairness and accounting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub Arc<str>);

/// A prompt to be continued.
#[derive(Clone, Debug)]
pub struct GenerationRequest {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// How many answers, and how they are found.
    pub search: Search,
    /// How a token is chosen. Answer `i` of several is drawn with the seed `seed + i`.
    pub sampling: SamplingParams,
    /// When an answer ends.
    pub stop: StopConditions,
    /// The log-probabilities of each token and of so many others; `None` for none at all.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt. They are all computed then, whatever is cached.
    pub prompt_logprobs: Option<usize>,
    /// Tokens that may be chosen, if not all.
    pub allowed_tokens: Option<Vec<u32>>,
    /// Sequences of tokens that must not appear.
    pub bad_words: Vec<Vec<u32>>,
    /// What the text must follow.
    pub constraint: Option<Constraint>,
    /// Lower is served earlier.
    pub priority: i32,
    /// Who asks.
    pub tenant: Tenant,
    /// Prefixes are shared among requests of the same salt alone.
    pub cache_salt: Option<String>,
    /// Whether special tokens are left out of the text.
    pub skip_special_tokens: bool,
    /// Who is told how it ended.
    pub observer: Option<Arc<dyn RequestObserver>>,
}

impl GenerationRequest {
    /// One answer to a prompt, everything else at its default.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            search: Search::default(),
            sampling: SamplingParams::default(),
            stop: StopConditions::default(),
            logprobs: None,
            prompt_logprobs: None,
            allowed_tokens: None,
            bad_words: Vec::new(),
            constraint: None,
            priority: 0,
            tenant: Tenant::default(),
            cache_salt: None,
            skip_special_tokens: true,
            observer: None,
        }
    }
}

/// How many answers, and how they are found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Search {
    /// Each is drawn on its own.
    Sample {
        /// Answers returned.
        n: usize,
        /// Answers drawn, of which the `n` with the highest mean log-probability are returned.
        best_of: usize,
    },
    /// The most probable continuations are followed together.
    Beam {
        /// Answers returned.
        n: usize,
        /// Continuations followed.
        width: usize,
        /// A finished answer's score is its log-probability divided by `length ^ length_penalty`.
        length_penalty: f64,
    },
}

impl Search {
    /// Answers returned.
    pub fn n(&self) -> usize {
        match *self {
            Self::Sample { n, .. } | Self::Beam { n, .. } => n,
        }
    }

    /// Sequences that run at once.
    pub fn width(&self) -> usize {
        match *self {
            Self::Sample { best_of, .. } => best_of,
            Self::Beam { width, .. } => width,
        }
    }

    /// Whether answers are known only when all are finished, so that none can be streamed.
    pub fn chooses(&self) -> bool {
        match *self {
            Self::Sample { n, best_of } => n < best_of,
            Self::Beam { .. } => true,
        }
    }
}

impl Default for Search {
    fn default() -> Self {
        Self::Sample { n: 1, best_of: 1 }
    }
}

/// When an answer ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopConditions {
    /// After so many tokens; `None` where the context is full.
    pub max_tokens: Option<usize>,
    /// Not before so many.
    pub min_tokens: usize,
    /// Before any of these texts.
    pub strings: Vec<String>,
    /// At any of these tokens.
    pub tokens: Vec<u32>,
    /// Whether tokens that end a generation are like any others.
    pub ignore_eos: bool,
    /// Whether the text that stopped an answer is part of it.
    pub include_stop: bool,
}

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The prompt is being computed: how much of it was cached.
    Started {
        /// Tokens whose keys and values were there already.
        cached_tokens: usize,
    },
    /// The log-probabilities of the prompt's tokens, the first of which has none.
    Prompt(Vec<Option<TokenInfo>>),
    /// An answer grew.
    Delta {
        /// Which answer, from 0.
        index: usize,
        /// Whole characters, none of which can belong to a stop string any more; may be empty.
        text: String,
        /// The tokens that were chosen, in order. Their text may come later.
        tokens: Vec<TokenInfo>,
    },
    /// An answer is complete.
    Finished {
        /// Which answer, from 0.
        index: usize,
        /// Why.
        reason: FinishReason,
        /// The stop string or token that ended it, if one did.
        stopped_by: Option<StopCause>,
    },
    /// All answers are complete; the last event.
    Done(Usage),
    /// The request failed; the last event.
    Failed(crate::GenerationError),
}

/// A token and how probable it was.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenInfo {
    /// The token.
    pub token: u32,
    /// ln p of it, where asked for.
    pub logprob: Option<f64>,
    /// How many tokens were more probable, where asked for.
    pub rank: Option<usize>,
    /// The most probable ones, where asked for.
    pub top: Vec<TokenLogprob>,
    /// Where in the answer's text (or the prompt's) it begins, in bytes.
    pub text_offset: usize,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop condition did.
    Stop,
    /// It is as long as it may be.
    Length,
}

/// What ended an answer before the model did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopCause {
    /// A stop string.
    Text(String),
    /// A stop token that was asked for.
    Token(u32),
}

/// What a request cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of them, found in the prefix cache.
    pub cached_tokens: usize,
    /// Tokens generated, over all answers, those not returned included.
    pub completion_tokens: usize,
}
