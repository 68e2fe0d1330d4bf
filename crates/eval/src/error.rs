//! Why an evaluation cannot be made.

/// What can be wrong with an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The text is too short for the protocol.
    #[error(
        "the text has {got} tokens; the {protocol} protocol at context {context} needs {needed}: give a longer text or a smaller context"
    )]
    TooFewTokens {
        /// Which protocol.
        protocol: &'static str,
        /// Its context.
        context: usize,
        /// How many tokens it needs.
        needed: usize,
        /// How many there are.
        got: usize,
    },
    /// A context so small that nothing is predicted in it.
    #[error("a context of {context} is too small for the {protocol} protocol; it needs {needed}")]
    ContextTooSmall {
        /// Which protocol.
        protocol: &'static str,
        /// What was asked for.
        context: usize,
        /// The least that works.
        needed: usize,
    },
    /// A stride of nothing, or one that leaves tokens between the windows out.
    #[error("the stride must be from 1 to the context {context}, got {stride}")]
    InvalidStride {
        /// What was asked for.
        stride: usize,
        /// The context.
        context: usize,
    },
    /// A context that the model has no positions for.
    #[error("a context of {context} is beyond the {available} positions that the model has")]
    ContextTooLong {
        /// What was asked for.
        context: usize,
        /// What the model has.
        available: usize,
    },
    /// A token that the model does not know.
    #[error("token {token} is outside the model's vocabulary of {vocabulary}")]
    TokenOutOfVocabulary {
        /// The token.
        token: u32,
        /// The number of logits in a row.
        vocabulary: usize,
    },
    /// Two models that cannot be compared.
    #[error("the base model has a vocabulary of {base} and the other of {model}")]
    VocabularyMismatch {
        /// The base's.
        base: usize,
        /// The other's.
        model: usize,
    },
    /// A row of logits without a distribution.
    #[error("the logits of window {window}, position {position} hold NaN or +inf, or -inf alone")]
    BadLogits {
        /// Number of the window, from 0.
        window: usize,
        /// Position in the window, from 0.
        position: usize,
    },
    /// A source that returned something other than one row for each position asked.
    #[error("the source returned {got} logits where {expected} were asked for")]
    WrongLogitCount {
        /// Rows times vocabulary.
        expected: usize,
        /// What came.
        got: usize,
    },
    /// The model failed.
    #[error("the forward pass failed: {0}")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}
