//! What a step computes.

use std::ops::Range;

use paged_kv::{BlockCopy, SeqId, SwapCopy, TokenId};

use crate::RequestId;

/// How large a step may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Rows of a step at most.
    pub rows: usize,
    /// Rows of prompts (or of what is computed again after a preemption) at most, in a step in which
    /// something decodes. What a step takes grows with them, and so do the gaps between the tokens of
    /// all streams. With 0 a prompt waits until nothing decodes.
    pub prompt_rows: usize,
}

/// What to do: first the copies, in the order of the fields, then one forward over the rows.
///
/// The buffers are used again by the next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Blocks to copy to the host.
    pub swap_out: Vec<SwapCopy>,
    /// Blocks to copy back.
    pub swap_in: Vec<SwapCopy>,
    /// Copies on write.
    pub copies: Vec<BlockCopy>,
    /// The tokens of all rows; [`Work::tokens`] are ranges of it.
    pub tokens: Vec<TokenId>,
    /// The rows, at most one item a sequence.
    pub work: Vec<Work>,
    /// Requests whose first sequence starts, and how many tokens of it need not be computed as they
    /// were found in the prefix cache.
    pub started: Vec<(RequestId, SeqId, usize)>,
    /// Sequences that lose their blocks, and go on later.
    pub preempted: Vec<SeqId>,
    /// Sequences of requests that were preempted and run again.
    pub resumed: Vec<SeqId>,
}

/// Rows of one sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The request.
    pub request: RequestId,
    /// Its sequence.
    pub seq: SeqId,
    /// The position of the first row. All before it are computed.
    pub first: usize,
    /// Where the tokens lie in [`Step::tokens`], one a row, at least one.
    pub tokens: Range<usize>,
    /// Whether a token is to be sampled after the last row: it is the newest of the sequence, and
    /// nothing was sampled after it before.
    pub samples: bool,
    /// How many of the rows are positions of the prompt that no earlier step computed or found. (The
    /// others are generated tokens, and what a preemption lost.)
    pub prompt_rows: usize,
}

impl Step {
    /// The tokens of `work`'s rows.
    pub fn tokens(&self, work: &Work) -> &[TokenId] {
        &self.tokens[work.tokens.clone()]
    }

    /// Whether no block is to be copied. A step without work can have copies nevertheless.
    pub fn is_quiet(&self) -> bool {
        self.swap_out.is_empty() && self.swap_in.is_empty() && self.copies.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.swap_out.clear();
        self.swap_in.clear();
        self.copies.clear();
        self.tokens.clear();
        self.work.clear();
        self.started.clear();
        self.preempted.clear();
        self.resumed.clear();
    }
}
