//! Perplexity, exp of the mean loss over the targets of a protocol, and the comparison of two models.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::estimate::{Moments, null_is_nan, quantile};
use crate::source::{Limits, LogitsSource, Piece};
use crate::{Estimate, EvalError, Protocol, Stamp, Window, rows};

/// A text and the way to measure on it.
#[derive(Debug, Clone)]
pub struct Task<'a> {
    /// The text's tokens. Those who compare with `llama-perplexity` put BOS before them where the
    /// vocabulary adds it, as it does.
    pub tokens: &'a [u32],
    /// How to cut it and what to predict.
    pub protocol: Protocol,
    /// BOS, where the vocabulary adds it.
    pub bos: Option<u32>,
    /// Fingerprint of the tokenizer, for the stamp.
    pub tokenizer: &'a str,
    /// How much to compute at a time.
    pub limits: Limits,
}

/// Where an evaluation has got to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Windows done.
    pub done: usize,
    /// Windows in all.
    pub windows: usize,
    /// The perplexity over what is done.
    pub perplexity: f64,
}

/// The perplexity of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Perplexity {
    /// What it was measured with.
    #[serde(flatten)]
    pub stamp: Stamp,
    /// exp of the mean loss.
    pub perplexity: Estimate,
    /// The mean loss in nats a target.
    pub loss: Estimate,
}

/// A model beside the one it was made from, on the same targets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The base model.
    pub base: Perplexity,
    /// The other.
    pub model: Perplexity,
    /// Perplexity of the model over that of the base. Its error is that of the paired differences, much
    /// smaller than the errors of the two apart.
    pub ratio: Estimate,
    /// How far the model's predictions are from the base's.
    pub divergence: Divergence,
}

/// KL(base || model) over the targets, in nats, and how often both have the same favourite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// The mean.
    pub mean: Estimate,
    /// The middle.
    #[serde(deserialize_with = "null_is_nan")]
    pub median: f64,
    /// 99 % are at most this.
    #[serde(deserialize_with = "null_is_nan")]
    pub p99: f64,
    /// The largest.
    #[serde(deserialize_with = "null_is_nan")]
    pub max: f64,
    /// The fraction of targets for which both models' most probable token is the same.
    pub same_top: Estimate,
}

/// Measures the perplexity of a model.
///
/// Memory is bounded by [`Task::limits`]. `progress` is called after each group of windows.
///
/// # Errors
/// If the protocol does not fit the text or the model, the model fails, or its logits are NaN.
pub fn perplexity(
    source: &mut dyn LogitsSource,
    task: &Task<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Perplexity, EvalError> {
    let windows = task.windows(source)?;
    let mut losses = Moments::default();
    let mut logits = Vec::new();
    task.run(&windows, source.vocabulary(), &mut |step| match step {
        Step::Begin(n) => source.begin(n),
        Step::Extend(pieces, targets) => {
            extend(source, pieces, &mut logits)?;
            let n = source.vocabulary();
            let nll: Vec<Option<f64>> =
                logits.par_chunks(n).zip(targets).map(|(row, t)| rows::nll(row, t.token)).collect();
            for (t, x) in targets.iter().zip(nll) {
                losses.add(x.ok_or(t.bad_logits())?, t.weight);
            }
            Ok(())
        }
        Step::Done(done) => {
            let perplexity = losses.mean().value.exp();
            progress(Progress { done, windows: windows.len(), perplexity });
            Ok(())
        }
    })?;
    Ok(task.result(&windows, &losses))
}

/// Measures a model against the base it was made from, piece by piece side by side.
///
/// # Errors
/// Those of [`perplexity`] for either, and two vocabularies of different sizes.
pub fn compare(
    base: &mut dyn LogitsSource,
    model: &mut dyn LogitsSource,
    task: &Task<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Comparison, EvalError> {
    let n = base.vocabulary();
    if n != model.vocabulary() {
        return Err(EvalError::VocabularyMismatch { base: n, model: model.vocabulary() });
    }
    let windows = task.windows(base)?;
    task.windows(model)?;
    let [mut base_losses, mut model_losses, mut differences] = [Moments::default(); 3];
    let [mut kl, mut same] = [Moments::default(); 2];
    let mut divergences = Vec::new();
    let (mut base_logits, mut model_logits) = (Vec::new(), Vec::new());
    task.run(&windows, n, &mut |step| match step {
        Step::Begin(windows) => {
            base.begin(windows)?;
            model.begin(windows)
        }
        Step::Extend(pieces, targets) => {
            extend(base, pieces, &mut base_logits)?;
            extend(model, pieces, &mut model_logits)?;
            let pairs: Vec<Option<rows::Pair>> = base_logits
                .par_chunks(n)
                .zip(model_logits.par_chunks(n))
                .zip(targets)
                .map(|((b, m), t)| rows::pair(b, m, t.token))
                .collect();
            for (t, pair) in targets.iter().zip(pairs) {
                let p = pair.ok_or(t.bad_logits())?;
                base_losses.add(p.base_nll, t.weight);
                model_losses.add(p.model_nll, t.weight);
                differences.add(p.model_nll - p.base_nll, t.weight);
                kl.add(p.kl, t.weight);
                same.add(f64::from(u8::from(p.same_top)), t.weight);
                divergences.push(p.kl);
            }
            Ok(())
        }
        Step::Done(done) => {
            let perplexity = model_losses.mean().value.exp();
            progress(Progress { done, windows: windows.len(), perplexity });
            Ok(())
        }
    })?;
    divergences.sort_unstable_by(f64::total_cmp);
    Ok(Comparison {
        base: task.result(&windows, &base_losses),
        model: task.result(&windows, &model_losses),
        ratio: differences.mean().exp(),
        divergence: Divergence {
            mean: kl.mean(),
            median: quantile(&divergences, 0.5),
            p99: quantile(&divergences, 0.99),
            max: quantile(&divergences, 1.0),
            same_top: same.mean(),
        },
    })
}

/// Continues windows and checks that as many logits came as were asked for.
fn extend(
    source: &mut dyn LogitsSource,
    pieces: &[Piece<'_>],
    logits: &mut Vec<f32>,
) -> Result<(), EvalError> {
    source.extend(pieces, logits)?;
    let wanted: usize = pieces.iter().map(|p| p.wanted.len()).sum();
    let (expected, got) = (wanted * source.vocabulary(), logits.len());
    if expected == got { Ok(()) } else { Err(EvalError::WrongLogitCount { expected, got }) }
}

/// One row of logits: the token that followed, and where it stands.
struct Target {
    token: u32,
    weight: f64,
    window: usize,
    position: usize,
}

impl Target {
    fn bad_logits(&self) -> EvalError {
        EvalError::BadLogits { window: self.window, position: self.position }
    }
}

/// What the walk over a text asks for.
enum Step<'a> {
    /// So many new windows.
    Begin(usize),
    /// These pieces; one target for each row wanted.
    Extend(&'a [Piece<'a>], &'a [Target]),
    /// So many windows are done.
    Done(usize),
}

impl Task<'_> {
    /// The windows, if the source can do them.
    fn windows(&self, source: &dyn LogitsSource) -> Result<Vec<Window>, EvalError> {
        let windows = self.protocol.windows(self.tokens.len())?;
        let context = windows.iter().map(|w| w.tokens.len()).max().unwrap_or(0);
        if let Some(available) = source.positions().filter(|&p| p < context) {
            return Err(EvalError::ContextTooLong { context, available });
        }
        let vocabulary = source.vocabulary();
        match self.tokens.iter().chain(&self.bos).find(|&&t| t as usize >= vocabulary) {
            Some(&token) => Err(EvalError::TokenOutOfVocabulary { token, vocabulary }),
            None => Ok(windows),
        }
    }

    /// Walks over the windows, several side by side, each in pieces.
    fn run(
        &self,
        windows: &[Window],
        vocabulary: usize,
        step: &mut dyn FnMut(Step<'_>) -> Result<(), EvalError>,
    ) -> Result<(), EvalError> {
        let context = windows.iter().map(|w| w.tokens.len()).max().unwrap_or(0);
        let (side_by_side, piece) = self.limits.split(context, vocabulary);
        let bos = self.bos.filter(|_| self.protocol.replaces_first());
        for (g, group) in windows.chunks(side_by_side).enumerate() {
            let first = g * side_by_side;
            let given: Vec<Vec<u32>> = group
                .iter()
                .map(|w| {
                    let mut tokens = self.tokens[w.tokens.clone()].to_vec();
                    // The last token is only predicted.
                    tokens.pop();
                    if let (Some(bos), Some(first)) = (bos, tokens.first_mut()) {
                        *first = bos;
                    }
                    tokens
                })
                .collect();
            step(Step::Begin(group.len()))?;
            for begin in (0..context).step_by(piece) {
                let mut pieces = Vec::new();
                let mut targets = Vec::new();
                for (i, (w, tokens)) in group.iter().zip(&given).enumerate() {
                    let end = tokens.len().min(begin + piece);
                    if begin >= end {
                        continue;
                    }
                    // The row of token t predicts token t + 1.
                    let from = (w.targets.start - 1).clamp(begin, end);
                    let to = (w.targets.end - 1).clamp(from, end);
                    pieces.push(Piece {
                        window: i,
                        tokens: &tokens[begin..end],
                        wanted: from - begin..to - begin,
                    });
                    targets.extend((from..to).map(|t| Target {
                        token: self.tokens[w.tokens.start + t + 1],
                        weight: w.weight,
                        window: first + i,
                        position: t,
                    }));
                }
                if !pieces.is_empty() {
                    step(Step::Extend(&pieces, &targets))?;
                }
            }
            step(Step::Done(first + group.len()))?;
        }
        Ok(())
    }

    fn result(&self, windows: &[Window], losses: &Moments) -> Perplexity {
        let loss = losses.mean();
        let stamp = Stamp::new(self.protocol, self.tokenizer, self.bos, windows);
        Perplexity { stamp, perplexity: loss.exp(), loss }
    }
}
