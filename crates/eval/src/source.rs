//! Where logits come from.

use std::ops::Range;

use crate::EvalError;

/// Tokens that continue one of the windows under way.
#[derive(Debug, Clone)]
pub struct Piece<'a> {
    /// Which window, from 0 to the number that [`LogitsSource::begin`] was told.
    pub window: usize,
    /// The tokens, after those that the window was given before.
    pub tokens: &'a [u32],
    /// For which of these tokens the logits (of the token that follows) are wanted.
    pub wanted: Range<usize>,
}

/// Something that continues several windows of tokens and tells the logits of what follows.
///
/// A model is one (see [`ModelLogits`](crate::ModelLogits)); tests use tables. Windows are given in
/// pieces so that neither the model nor the comparison of two models ever holds the logits of a whole
/// window, which at a vocabulary of 128 k and a context of 2048 would be a gigabyte.
pub trait LogitsSource {
    /// Logits a row.
    fn vocabulary(&self) -> usize;

    /// The most positions that a window may have, where there is a limit.
    fn positions(&self) -> Option<usize>;

    /// Forgets all windows and makes `windows` empty ones.
    ///
    /// # Errors
    /// If there is no room for them.
    fn begin(&mut self, windows: usize) -> Result<(), EvalError>;

    /// Continues windows, each at most once a call, and replaces the content of `logits` by the rows
    /// wanted, `[sum of wanted, vocabulary]`, in the order of the pieces.
    ///
    /// # Errors
    /// If the model fails.
    fn extend(&mut self, pieces: &[Piece<'_>], logits: &mut Vec<f32>) -> Result<(), EvalError>;
}

/// How much is computed at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tokens a call of [`LogitsSource::extend`], at most (one window's single token aside).
    pub rows: usize,
    /// Bytes of logits held, at most (one row of each window aside); twice that where two models are
    /// compared.
    pub logits_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows: 512, logits_bytes: 64 << 20 }
    }
}

impl Limits {
    /// How many windows go side by side, and how many tokens of each at a time.
    pub(crate) fn split(self, context: usize, vocabulary: usize) -> (usize, usize) {
        let windows = (self.rows / context.max(1)).max(1);
        let rows = self.rows.min(self.logits_bytes / (4 * vocabulary.max(1)));
        (windows, (rows / windows).clamp(1, context.max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_bound_rows_and_bytes() {
        let l = Limits::default();
        assert_eq!(l.split(256, 2048), (2, 256));
        assert_eq!(l.split(2048, 2048), (1, 512));
        assert_eq!(l.split(512, 128_000), (1, 131));
        assert_eq!(l.split(64, usize::MAX / 8), (8, 1));
    }
}
