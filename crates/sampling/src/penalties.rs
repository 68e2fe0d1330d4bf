//! What a sequence has said, and the penalties that follow from it.
//!
//! - Repetition (Keskar et al. 2019, section 4.1, in the form that Hugging Face and llama.cpp share):
//!   a token seen in the window, prompt included, has its logit divided by the penalty where positive
//!   and multiplied by it elsewhere, once however often it was seen.
//! - Frequency and presence (OpenAI): `l_i -= c_i * frequency + [c_i > 0] * presence`, where `c_i`
//!   counts the tokens generated so far; the prompt is not counted.

use std::collections::HashMap;

use crate::{PenaltyWindow, SamplingError, SamplingParams};

/// The tokens of one sequence, with counts that follow it forth and back.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    tokens: Vec<u32>,
    window: Option<usize>,
    /// Occurrences among the last `window` tokens.
    seen: HashMap<u32, u32>,
    /// Occurrences among the generated tokens.
    generated: HashMap<u32, u32>,
}

impl History {
    pub(crate) fn new(window: PenaltyWindow) -> Self {
        let window = match window {
            PenaltyWindow::All => None,
            PenaltyWindow::Last(n) => Some(n),
        };
        Self { window, ..Self::default() }
    }

    pub(crate) fn push(&mut self, token: u32, generated: bool) {
        self.tokens.push(token);
        if self.window != Some(0) {
            *self.seen.entry(token).or_default() += 1;
        }
        if let Some(leaving) = self.left_of_window() {
            decrement(&mut self.seen, leaving);
        }
        if generated {
            *self.generated.entry(token).or_default() += 1;
        }
    }

    /// Takes back the last token, which was a generated one.
    pub(crate) fn pop_generated(&mut self) {
        if let Some(returning) = self.left_of_window() {
            *self.seen.entry(returning).or_default() += 1;
        }
        if let Some(token) = self.tokens.pop() {
            if self.window != Some(0) {
                decrement(&mut self.seen, token);
            }
            decrement(&mut self.generated, token);
        }
    }

    /// The last token that the window does not reach.
    fn left_of_window(&self) -> Option<u32> {
        let window = self.window.filter(|&w| w > 0)?;
        let i = self.tokens.len().checked_sub(window + 1)?;
        Some(self.tokens[i])
    }

    /// Applies the three penalties to a row of logits.
    pub(crate) fn penalise(
        &self,
        params: &SamplingParams,
        logits: &mut [f32],
    ) -> Result<(), SamplingError> {
        // Each token is touched once by each step, so the maps' order does not show.
        if params.penalises_repetition() {
            let r = params.repetition_penalty;
            for &token in self.seen.keys() {
                let l = at(logits, token)?;
                *l = finite_as(*l, if *l > 0.0 { *l / r } else { *l * r });
            }
        }
        let (f, p) = (params.frequency_penalty, params.presence_penalty);
        if f != 0.0 || p != 0.0 {
            for (&token, &count) in &self.generated {
                let l = at(logits, token)?;
                *l = finite_as(*l, *l - (count as f32 * f + p));
            }
        }
        Ok(())
    }
}

/// The logit of a token.
pub(crate) fn at(logits: &mut [f32], token: u32) -> Result<&mut f32, SamplingError> {
    let vocabulary = logits.len();
    logits.get_mut(token as usize).ok_or(SamplingError::TokenOutOfVocabulary { token, vocabulary })
}

/// A finite logit stays finite: what overflows stops at the largest number, so that a penalty can make
/// neither an infinity nor, one step later, a NaN.
fn finite_as(before: f32, after: f32) -> f32 {
    if before.is_finite() { after.clamp(f32::MIN, f32::MAX) } else { before }
}

fn decrement(counts: &mut HashMap<u32, u32>, token: u32) {
    if let Some(n) = counts.get_mut(&token) {
        *n -= 1;
        if *n == 0 {
            counts.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The counts kept step by step are those of the tokens themselves, after any walk.
        #[test]
        fn counts_follow_the_tokens(
            prompt in prop::collection::vec(0u32..6, 0..12),
            steps in prop::collection::vec(prop::option::weighted(0.6, 0u32..6), 0..60),
            window in prop::option::of(0usize..8),
        ) {
            let w = window.map_or(PenaltyWindow::All, PenaltyWindow::Last);
            let mut h = History::new(w);
            prompt.iter().for_each(|&t| h.push(t, false));
            let mut all = prompt.clone();
            for step in steps {
                match step {
                    Some(t) => { h.push(t, true); all.push(t); }
                    None if all.len() > prompt.len() => { h.pop_generated(); all.pop(); }
                    None => {}
                }
                let count = |s: &[u32]| s.iter().fold(HashMap::new(), |mut m, &t| {
                    *m.entry(t).or_insert(0u32) += 1;
                    m
                });
                let from = window.map_or(0, |w| all.len().saturating_sub(w));
                prop_assert_eq!(&h.seen, &count(&all[from..]));
                prop_assert_eq!(&h.generated, &count(&all[prompt.len()..]));
            }
        }
    }
}
