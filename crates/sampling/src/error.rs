//! What can be wrong with sampling parameters or with a row of logits.

/// Why no token can be sampled.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// A parameter is outside its range.
    #[error("{name} must be {expected}, got {value}")]
    InvalidParameter {
        /// The field of [`SamplingParams`](crate::SamplingParams).
        name: &'static str,
        /// The range in words.
        expected: &'static str,
        /// What was given.
        value: f64,
    },
    /// One token has two biases.
    #[error("logit_bias names token {token} twice; give each token one bias")]
    DuplicateBias {
        /// The token that is named twice.
        token: u32,
    },
    /// A row of no logits.
    #[error("the row of logits is empty")]
    EmptyLogits,
    /// The model computed NaN.
    #[error("the logit of token {token} is NaN: the model's weights or its input are broken")]
    NanLogit {
        /// The first such token.
        token: u32,
    },
    /// The model computed positive infinity.
    #[error("the logit of token {token} is +inf: the forward pass overflowed")]
    InfiniteLogit {
        /// The first such token.
        token: u32,
    },
    /// Every logit is negative infinity.
    #[error("all {vocabulary} tokens are forbidden (every logit is -inf)")]
    NoCandidates {
        /// The length of the row.
        vocabulary: usize,
    },
    /// A bias or the history names a token that the row of logits does not have.
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    TokenOutOfVocabulary {
        /// The token.
        token: u32,
        /// The length of the row.
        vocabulary: usize,
    },
    /// More tokens to take back than were accepted.
    #[error("cannot take back {asked} tokens: only {generated} were accepted")]
    RollbackTooFar {
        /// How many were to be taken back.
        asked: usize,
        /// How many were accepted.
        generated: usize,
    },
}
