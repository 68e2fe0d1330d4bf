//! Log-probabilities that `llama-perplexity --kl-divergence-base FILE` saves, in 16 bits each.
//!
//! The file is little-endian: `_logits_`, then 32-bit numbers: the context n, the vocabulary V, the
//! number of windows w and w n token ids; then for each window the rows of its targets,
//! n - 1 - n/2 of them. A row is
//!
//! ```text
//! scale: f32, least: f32, code[V]: u16          ln p[i] = scale * code[i] + least
//! ```
//!
//! and two more bytes where V is odd. Logits that are more than 16 below the largest are raised to
//! that, and the scale is a 65535th of what is left between the largest and the least
//! (`tools/perplexity/perplexity.cpp` of llama.cpp). So a logit is off by at most 1.2e-4, which alone
//! makes a divergence of about 2.5e-9, and what lies in the tail weighs up to e^-16 of the favourite:
//! [`SavedPrecision`] gives any source the same errors, so that two are compared with the same loss.

use std::io::{Read, Seek, SeekFrom};

use crate::{EvalError, LogitsSource, Piece};

/// The first bytes of a file.
const MAGIC: &[u8; 8] = b"_logits_";

/// Magic, context, vocabulary, windows.
const HEADER_BYTES: u64 = 8 + 3 * 4;

/// How far below the largest logit a logit counts.
const DEPTH: f32 = 16.0;

/// Why saved logits cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedLogitsError {
    /// Something else.
    #[error(
        "it does not begin with '_logits_': llama-perplexity --kl-divergence-base writes such files"
    )]
    NotSavedLogits,
    /// Sizes that no file has.
    #[error("it states a context of {context}, {vocabulary} tokens and {windows} windows")]
    Sizes {
        /// Tokens a window.
        context: u32,
        /// Logits a row.
        vocabulary: u32,
        /// Windows.
        windows: u32,
    },
    /// Less than the header states, as after a run that was cut short.
    #[error(
        "it has {got} bytes where its header asks for {needed}: the run that wrote it did not end"
    )]
    Truncated {
        /// Bytes that the header asks for.
        needed: u64,
        /// Bytes there are.
        got: u64,
    },
    /// A row was asked for that is not saved, or follows other tokens.
    #[error("it has no logits for window {window}, position {position} of these tokens")]
    NotSaved {
        /// Window of the text, from 0.
        window: usize,
        /// Position in the window, from 0.
        position: usize,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<SavedLogitsError> for EvalError {
    fn from(error: SavedLogitsError) -> Self {
        EvalError::Source(Box::new(error))
    }
}

/// What a run of `llama-perplexity` saved, as a source for [`Protocol::LlamaCpp`] with its context
/// over its tokens: windows are begun in the order of the text, once.
///
/// [`Protocol::LlamaCpp`]: crate::Protocol::LlamaCpp
#[derive(Debug)]
pub struct SavedLogits<R> {
    from: R,
    context: usize,
    vocabulary: usize,
    tokens: Vec<u32>,
    /// The first window under way, and how many tokens each has got.
    first: usize,
    given: Vec<usize>,
}

impl<R: Read + Seek> SavedLogits<R> {
    /// Reads header and tokens.
    ///
    /// # Errors
    /// If it is no such file, or shorter than it states.
    pub fn new(mut from: R) -> Result<Self, SavedLogitsError> {
        let got = from.seek(SeekFrom::End(0))?;
        from.rewind()?;
        let mut magic = [0; MAGIC.len()];
        if got < HEADER_BYTES || from.read_exact(&mut magic).is_err() || magic != *MAGIC {
            return Err(SavedLogitsError::NotSavedLogits);
        }
        let mut number = || {
            let mut bytes = [0; 4];
            from.read_exact(&mut bytes).map(|()| u32::from_le_bytes(bytes))
        };
        let [context, vocabulary, windows] = [number()?, number()?, number()?];
        let largest = i32::MAX as u32;
        if context < 3
            || vocabulary == 0
            || [context, vocabulary, windows].iter().any(|&n| n > largest)
        {
            return Err(SavedLogitsError::Sizes { context, vocabulary, windows });
        }
        let (n, w) = (u64::from(context), u64::from(windows));
        let row = row_bytes(vocabulary as usize);
        let needed = (n - 1 - n / 2)
            .checked_mul(row)
            .and_then(|rows| rows.checked_add(4 * n)?.checked_mul(w)?.checked_add(HEADER_BYTES));
        match needed {
            Some(needed) if needed <= got => {}
            _ => {
                let needed = needed.unwrap_or(u64::MAX);
                return Err(SavedLogitsError::Truncated { needed, got });
            }
        }
        let mut tokens = vec![0; (4 * n * w) as usize];
        from.read_exact(&mut tokens)?;
        let (tokens, _) = tokens.as_chunks::<4>();
        Ok(Self {
            from,
            context: context as usize,
            vocabulary: vocabulary as usize,
            tokens: tokens.iter().map(|&b| u32::from_le_bytes(b)).collect(),
            first: 0,
            given: Vec::new(),
        })
    }

    /// Tokens a window.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The text: whole windows, BOS not yet over the first token of each.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Appends the row that follows `position` of `window`.
    fn row(
        &mut self,
        window: usize,
        position: usize,
        logits: &mut Vec<f32>,
    ) -> Result<(), SavedLogitsError> {
        let first = self.context / 2;
        let rows = self.context - 1 - first;
        let Some(row) = position.checked_sub(first).filter(|&row| row < rows) else {
            return Err(SavedLogitsError::NotSaved { window, position });
        };
        let at = HEADER_BYTES
            + 4 * self.tokens.len() as u64
            + (window * rows + row) as u64 * row_bytes(self.vocabulary);
        self.from.seek(SeekFrom::Start(at))?;
        let mut bytes = vec![0; 8 + 2 * self.vocabulary];
        self.from.read_exact(&mut bytes)?;
        let (numbers, codes) = bytes.split_at(8);
        let [scale, least] =
            [0, 4].map(|at| f32::from_le_bytes([0, 1, 2, 3].map(|i| numbers[at + i])));
        let (codes, _) = codes.as_chunks::<2>();
        logits.extend(codes.iter().map(|&code| decode(scale, least, u16::from_le_bytes(code))));
        Ok(())
    }
}

impl<R: Read + Seek> LogitsSource for SavedLogits<R> {
    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn positions(&self) -> Option<usize> {
        Some(self.context)
    }

    fn begin(&mut self, windows: usize) -> Result<(), EvalError> {
        self.first += self.given.len();
        self.given = vec![0; windows];
        Ok(())
    }

    fn extend(&mut self, pieces: &[Piece<'_>], logits: &mut Vec<f32>) -> Result<(), EvalError> {
        logits.clear();
        for piece in pieces {
            let window = self.first + piece.window;
            let start = self.given[piece.window];
            let of_file = self.tokens.chunks_exact(self.context).nth(window);
            for (position, &token) in (start..).zip(piece.tokens) {
                // BOS may lie over the first.
                if of_file.and_then(|t| t.get(position)).is_none_or(|t| position > 0 && *t != token)
                {
                    return Err(SavedLogitsError::NotSaved { window, position }.into());
                }
            }
            for i in piece.wanted.clone() {
                self.row(window, start + i, logits)?;
            }
            self.given[piece.window] = start + piece.tokens.len();
        }
        Ok(())
    }
}

/// Another source, with its logits rounded as if they had been saved: two sources that differ in
/// nothing else lose the same.
#[derive(Debug)]
pub struct SavedPrecision<S>(pub S);

impl<S: LogitsSource> LogitsSource for SavedPrecision<S> {
    fn vocabulary(&self) -> usize {
        self.0.vocabulary()
    }

    fn positions(&self) -> Option<usize> {
        self.0.positions()
    }

    fn begin(&mut self, windows: usize) -> Result<(), EvalError> {
        self.0.begin(windows)
    }

    fn extend(&mut self, pieces: &[Piece<'_>], logits: &mut Vec<f32>) -> Result<(), EvalError> {
        self.0.extend(pieces, logits)?;
        logits.chunks_exact_mut(self.0.vocabulary().max(1)).for_each(round);
        Ok(())
    }
}

/// Bytes of a row of so many logits.
fn row_bytes(vocabulary: usize) -> u64 {
    8 + 2 * (vocabulary as u64).next_multiple_of(2)
}

fn decode(scale: f32, least: f32, code: u16) -> f32 {
    scale * f32::from(code) + least
}

/// A row's logits after they have been saved and read again, up to what all of them share. What
/// has no distribution stays as it is.
fn round(row: &mut [f32]) {
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let least = row.iter().copied().fold(f32::INFINITY, f32::min).max(most - DEPTH);
    let scale = (most - least) / 65535.0;
    if !(scale.is_finite() && scale > 0.0) || row.iter().any(|l| l.is_nan()) {
        return;
    }
    for l in row {
        // Up to 65535, halves to even.
        let code = ((l.max(least) - least) / scale).round_ties_even() as u16;
        *l = decode(scale, least, code);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::ops::Range;

    use super::*;

    /// Two windows of 4 tokens, one row each, three logits and a filler.
    fn file() -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([4u32, 3, 2].into_iter().flat_map(u32::to_le_bytes));
        bytes.extend([0u32, 1, 2, 0, 1, 1, 2, 2].into_iter().flat_map(u32::to_le_bytes));
        for codes in [[0u16, 2, 1, 0], [9, 0, 3, 0]] {
            bytes.extend([0.5f32, -3.0].into_iter().flat_map(f32::to_le_bytes));
            bytes.extend(codes.into_iter().flat_map(u16::to_le_bytes));
        }
        bytes
    }

    fn piece(window: usize, tokens: &[u32], wanted: Range<usize>) -> Piece<'_> {
        Piece { window, tokens, wanted }
    }

    #[test]
    fn rows_are_found_in_any_pieces() {
        let mut saved = SavedLogits::new(Cursor::new(file())).unwrap();
        assert_eq!((saved.context(), saved.vocabulary(), saved.tokens().len()), (4, 3, 8));
        let mut logits = Vec::new();
        saved.begin(1).unwrap();
        // BOS over the first token.
        saved.extend(&[piece(0, &[2, 1], 0..0)], &mut logits).unwrap();
        assert!(logits.is_empty());
        saved.extend(&[piece(0, &[2], 0..1)], &mut logits).unwrap();
        assert_eq!(logits, [-3.0, -2.0, -2.5]);
        saved.begin(1).unwrap();
        saved.extend(&[piece(0, &[1, 1, 2], 2..3)], &mut logits).unwrap();
        assert_eq!(logits, [1.5, -3.0, -1.5]);
        // Other tokens, a row of the first half, a window too many.
        for (skipped, tokens, wanted) in
            [(0, [0, 0, 2], 2..3), (0, [0, 1, 2], 1..2), (2, [0, 1, 2], 2..3)]
        {
            let mut saved = SavedLogits::new(Cursor::new(file())).unwrap();
            saved.begin(skipped).unwrap();
            saved.begin(1).unwrap();
            let error = saved.extend(&[piece(0, &tokens, wanted)], &mut logits).unwrap_err();
            assert!(error.to_string().contains("no logits for window"), "{error}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |bytes: Vec<u8>, part: &str| {
            let error = SavedLogits::new(Cursor::new(bytes)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(Vec::new(), "does not begin with");
        refused(b"_logitz_ and so on and so on".to_vec(), "does not begin with");
        let whole = file();
        refused(whole[..whole.len() - 1].to_vec(), "did not end");
        for (at, part) in [(8, "context of 4294967295"), (12, "4294967295 tokens"), (16, "windows")]
        {
            let mut bytes = whole.clone();
            bytes[at..at + 4].fill(0xff);
            refused(bytes.clone(), part);
            // As large as a number may be: refused before anything is allocated.
            bytes[at + 3] = 0x7f;
            refused(bytes, "did not end");
        }
    }

    #[test]
    fn rounding_is_bounded() {
        let mut row: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin() * 6.0).collect();
        let exact = row.clone();
        round(&mut row);
        let worst = row.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst > 1e-5 && worst < 12.0 / 65535.0, "{worst}");
        // Far below the largest: raised.
        let mut row = [10.0, -100.0, -3.0, f32::NEG_INFINITY];
        round(&mut row);
        assert!((row[1] + 6.0).abs() < 1e-4 && (row[2] + 3.0).abs() < 2e-4, "{row:?}");
        assert_eq!(row[1], row[3]);
        // Nothing to round, and no distribution.
        for keep in [vec![1.0; 3], vec![], vec![0.0, f32::INFINITY]] {
            let mut row = keep.clone();
            round(&mut row);
            assert_eq!(row, keep);
        }
    }
}
