//! Log-probabilities for a report to the caller, as the `logprobs` of OpenAI's interface.
//!
//! They are the model's own, before bias, penalties, temperature and truncation (vLLM's default,
//! `raw_logprobs`): what the model thought, not what the sampler was told to make of it.

use crate::sampler::check;
use crate::weights::sum_of_weights;
use crate::{SamplingError, truncation};

/// One token and its log-probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// ln p(token), at most 0; `-inf` where the logit was.
    pub logprob: f64,
}

/// The log-probability of the chosen token, and the most probable ones beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// How many tokens come before the chosen one, most probable first and lowest id first.
    pub rank: usize,
    /// The most probable tokens, in that order.
    pub top: Vec<TokenLogprob>,
}

/// The log-probability of `chosen` and of the `n` most probable tokens of a row.
///
/// The softmax is summed in `f64`. `n` is cut to the length of the row.
///
/// # Errors
/// For logits that give no distribution, and a `chosen` outside the row.
///
/// ```
/// let l = sampling::logprobs(&[0.0, 3f32.ln()], 0, 1)?;
/// assert!((l.chosen.logprob - 0.25f64.ln()).abs() < 1e-7);
/// assert_eq!((l.rank, l.top.len(), l.top[0].token), (1, 1, 1));
/// # Ok::<(), sampling::SamplingError>(())
/// ```
pub fn logprobs(logits: &[f32], chosen: u32, n: usize) -> Result<TokenLogprobs, SamplingError> {
    let max = check(logits)?;
    let vocabulary = logits.len();
    let Some(&logit) = logits.get(chosen as usize) else {
        return Err(SamplingError::TokenOutOfVocabulary { token: chosen, vocabulary });
    };
    let max = f64::from(max);
    let log_sum = sum_of_weights(logits, max).ln();
    let logprob = |l: f32| f64::from(l) - max - log_sum;

    let (before, behind) = logits.split_at(chosen as usize);
    let rank = before.iter().filter(|&&l| l >= logit).count()
        + behind.iter().filter(|&&l| l > logit).count();

    let mut best = Vec::new();
    if n > 0 {
        truncation::top_k(logits, n, &mut best);
        best.sort_unstable_by(truncation::by_rank);
    }
    let mut order: Vec<u32> = best.iter().map(|c| c.token).collect();
    // Tokens that are forbidden come last, by id.
    let forbidden = (0u32..).zip(logits).filter(|&(_, &l)| l == f32::NEG_INFINITY);
    order.extend(forbidden.map(|(token, _)| token).take(n - order.len()));
    let entry = |token: u32, l: f32| TokenLogprob { token, logprob: logprob(l) };
    let top = order.iter().map(|&t| entry(t, logits[t as usize])).collect();
    Ok(TokenLogprobs { chosen: entry(chosen, logit), rank, top })
}
