//! What a compression cost: perplexity and KL divergence, with error bars.
//!
//! A model is anything that continues windows of tokens and tells logits, a [`LogitsSource`].
//! [`perplexity`] walks a text by one of three [`Protocol`]s; [`compare`] walks two models over the same
//! text side by side. Neither holds more logits than its [`Limits`] allow. Every figure carries a
//! [`Stamp`], since figures of different protocols, contexts or tokenizers say nothing about each other.
//!
//! What llama.cpp computed is a source too: [`SavedLogits`] reads what `llama-perplexity` writes.
//!
//! Not here: task scores, timing and memory (those belong to the program that measures).
#![forbid(unsafe_code)]

mod error;
mod estimate;
mod fingerprint;
mod model_source;
mod perplexity;
mod protocol;
mod rows;
mod saved;
mod source;

pub use error::EvalError;
pub use estimate::Estimate;
pub use fingerprint::tokenizer_fingerprint;
pub use model_source::ModelLogits;
pub use perplexity::{Comparison, Divergence, Perplexity, Progress, Task, compare, perplexity};
pub use protocol::{Protocol, Stamp, Window};
pub use saved::{SavedLogits, SavedLogitsError, SavedPrecision};
pub use source::{Limits, LogitsSource, Piece};
