//! The state of a text that follows a grammar.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::panic_utils::catch_unwind;

use crate::ConstrainError;
use crate::vocabulary::TokenTable;

/// What one sequence may say next.
///
/// Of each step: [`Constraint::mask`] the logits, sample, [`Constraint::accept`] the token. A clone
/// goes its own way from then on (parallel samples, beams); it shares what the grammar's lexer has
/// learnt, never the state.
#[derive(Clone)]
pub struct Constraint {
    parser: TokenParser,
    tokens: Arc<TokenTable>,
    ended: bool,
    failed: Option<ConstrainError>,
}

impl Constraint {
    pub(crate) fn new(parser: TokenParser, tokens: Arc<TokenTable>) -> Self {
        Self { parser, tokens, ended: false, failed: None }
    }

    /// Sets the logits of all tokens that may not follow to minus infinity; the others stay.
    ///
    /// `logits[i]` is the score of token `i`. A row may be longer than the vocabulary: what lies
    /// behind it is forbidden. The ids that end a generation are allowed where the text may end.
    ///
    /// # Errors
    /// [`ConstrainError::Finished`] where nothing may follow: after an id that ends a generation, or
    /// where the text is complete and the vocabulary has no such id. [`ConstrainError::DeadEnd`],
    /// [`ConstrainError::TooComplex`], [`ConstrainError::Internal`]; these stay.
    pub fn mask(&mut self, logits: &mut [f32]) -> Result<(), ConstrainError> {
        self.check()?;
        if self.is_complete() {
            if self.ended || self.tokens.eog.is_empty() {
                return Err(ConstrainError::Finished);
            }
            only(logits, &self.tokens.eog);
            return Ok(());
        }
        let allowed = catch_unwind(AssertUnwindSafe(|| self.parser.compute_mask()))
            .map_err(|error| self.fail(&error.to_string()))?;
        forbid(logits, allowed.as_slice(), self.tokens.size);
        Ok(())
    }

    /// Goes on behind `token`.
    ///
    /// # Errors
    /// [`ConstrainError::NotAllowed`] where [`Constraint::mask`] forbids it, and nothing changes;
    /// otherwise as there.
    pub fn accept(&mut self, token: u32) -> Result<(), ConstrainError> {
        self.check()?;
        let not_allowed = Err(ConstrainError::NotAllowed { token });
        if self.ended {
            return Err(ConstrainError::Finished);
        }
        if self.tokens.eog.binary_search(&token).is_ok() {
            // A rule of a grammar may say that its text goes on until the end (`stop=""`).
            let ends = match self.is_complete() {
                true => Ok(true),
                false => {
                    let parser = &mut self.parser;
                    catch_unwind(AssertUnwindSafe(|| {
                        Ok(parser.is_accepting() || parser.parser.scan_eos())
                    }))
                }
            };
            self.ended = ends.map_err(|error| self.fail(&error.to_string()))?;
            return if self.ended { Ok(()) } else { not_allowed };
        }
        if self.is_complete() || token as usize >= self.tokens.size {
            return not_allowed;
        }
        let parser = &mut self.parser;
        let step = catch_unwind(AssertUnwindSafe(|| {
            if !parser.validate_token(token)? {
                // It may be the lexer that gave up, and not the grammar that forbids.
                return Ok((false, parser.parser.get_error().map(|e| e.message())));
            }
            parser.consume_token(token)?;
            parser.check_stop()?;
            Ok((true, None))
        }));
        match step {
            Ok((true, _)) => Ok(()),
            Ok((false, None)) => not_allowed,
            Ok((false, Some(reason))) => {
                let error = ConstrainError::TooComplex { reason };
                self.failed = Some(error.clone());
                Err(error)
            }
            Err(error) => Err(self.fail(&error.to_string())),
        }
    }

    /// Whether the text may end here; it may be able to go on as well.
    ///
    /// # Errors
    /// [`ConstrainError::Internal`].
    pub fn may_end(&mut self) -> Result<bool, ConstrainError> {
        self.check()?;
        if self.is_complete() {
            return Ok(true);
        }
        let parser = &mut self.parser;
        let accepting = catch_unwind(AssertUnwindSafe(|| Ok(parser.is_accepting())));
        accepting.map_err(|error| self.fail(&error.to_string()))
    }

    /// Whether nothing but the end may follow.
    pub fn is_complete(&self) -> bool {
        let reason = self.parser.stop_reason();
        self.ended || matches!(reason, StopReason::NoExtension | StopReason::EndOfSentence)
    }

    /// The bytes written so far.
    pub fn bytes(&self) -> &[u8] {
        self.parser.final_bytes()
    }

    fn check(&self) -> Result<(), ConstrainError> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// The parser cannot go on, and says why once.
    fn fail(&mut self, message: &str) -> ConstrainError {
        let reason = message.lines().next().unwrap_or_default().to_owned();
        let error = match self.parser.stop_reason() {
            StopReason::NoExtensionBias => ConstrainError::DeadEnd,
            StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
                ConstrainError::TooComplex { reason }
            }
            _ => ConstrainError::Internal { reason },
        };
        self.failed = Some(error.clone());
        error
    }
}

impl fmt::Debug for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constraint")
            .field("bytes", &String::from_utf8_lossy(self.bytes()))
            .field("complete", &self.is_complete())
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// Forbids all but `allowed`, which ascends.
fn only(logits: &mut [f32], allowed: &[u32]) {
    let mut next = 0;
    let len = logits.len();
    for id in allowed.iter().map(|&id| id as usize).filter(|&id| id < len) {
        logits[next..id].fill(f32::NEG_INFINITY);
        next = id + 1;
    }
    logits[next..].fill(f32::NEG_INFINITY);
}

/// Forbids token `i` unless bit `i % 32` of word `i / 32` is set and `i < size`.
fn forbid(logits: &mut [f32], words: &[u32], size: usize) {
    let (tokens, padding) = logits.split_at_mut(size.min(logits.len()));
    padding.fill(f32::NEG_INFINITY);
    for (at, chunk) in tokens.chunks_mut(32).enumerate() {
        match words.get(at).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => chunk.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in chunk.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{forbid, only};

    #[test]
    fn bits_and_padding() {
        let mut row = [1.0f32; 70];
        forbid(&mut row, &[u32::MAX, 0b101, u32::MAX], 66);
        let left: Vec<usize> = (0..70).filter(|&i| row[i] == 1.0).collect();
        assert_eq!(left, (0..32).chain([32, 34, 64, 65]).collect::<Vec<_>>());
        let mut short = [1.0f32; 3];
        forbid(&mut short, &[0b010], 66);
        assert_eq!(short, [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY]);
        let mut row = [1.0f32; 5];
        only(&mut row, &[1, 4, 9]);
        assert_eq!(row.map(|l| l == 1.0), [false, true, false, false, true]);
    }
}
