//! The three ways of cutting a text into windows and of choosing what is predicted.
//!
//! Figures of different protocols, contexts or tokenizers cannot be compared, which is why each carries
//! a [`Stamp`].
//!
//! - [`Protocol::LlamaCpp`], as `llama-perplexity` does it: disjoint windows of `n`, of which the second
//!   half is predicted (`n - n/2 - 1` targets); where the vocabulary adds BOS, BOS takes the place of the
//!   first token of every window.
//! - [`Protocol::Window`], as the GPTQ papers do it: disjoint windows of `n` (2048 there), all `n - 1`
//!   tokens after the first predicted.
//! - [`Protocol::Stride`], as the Hugging Face documentation does it: windows of `n` that begin `s` apart
//!   and predict only what the window before did not reach. There the mean loss of a window over its
//!   `t` new tokens is weighted by `t - 1`, which is right for the first window alone; the quirk is kept
//!   because published figures have it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::EvalError;

/// How perplexity is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "protocol")]
pub enum Protocol {
    /// `llama-perplexity`.
    #[serde(rename = "llama.cpp")]
    LlamaCpp {
        /// Tokens a window.
        context: usize,
    },
    /// The GPTQ papers.
    #[serde(rename = "window")]
    Window {
        /// Tokens a window.
        context: usize,
    },
    /// Hugging Face's sliding window.
    #[serde(rename = "stride")]
    Stride {
        /// Tokens a window, at most.
        context: usize,
        /// Tokens from one window's begin to the next one's.
        stride: usize,
    },
}

/// One window of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    /// The tokens of the text that the model is given.
    pub tokens: Range<usize>,
    /// Which of them are predicted, counted from the begin of the window; never the first.
    pub targets: Range<usize>,
    /// What each target's loss counts in the mean.
    pub weight: f64,
}

impl Protocol {
    /// The name that reports and command lines use.
    pub fn name(self) -> &'static str {
        match self {
            Self::LlamaCpp { .. } => "llama.cpp",
            Self::Window { .. } => "window",
            Self::Stride { .. } => "stride",
        }
    }

    /// Tokens a window, at most.
    pub fn context(self) -> usize {
        match self {
            Self::LlamaCpp { context }
            | Self::Window { context }
            | Self::Stride { context, .. } => context,
        }
    }

    /// Whether BOS takes the place of each window's first token where the vocabulary adds BOS.
    pub fn replaces_first(self) -> bool {
        matches!(self, Self::LlamaCpp { .. })
    }

    /// Whether context and stride make sense, for any text.
    ///
    /// # Errors
    /// [`EvalError::ContextTooSmall`], [`EvalError::InvalidStride`].
    pub fn validate(self) -> Result<(), EvalError> {
        let (protocol, context) = (self.name(), self.context());
        // llama.cpp's needs the half that is not predicted, and one target.
        let needed = if self.replaces_first() { 3 } else { 2 };
        match self {
            _ if context < needed => Err(EvalError::ContextTooSmall { protocol, context, needed }),
            Self::Stride { stride, .. } if stride == 0 || stride > context => {
                Err(EvalError::InvalidStride { stride, context })
            }
            _ => Ok(()),
        }
    }

    /// Cuts a text of `n` tokens into windows.
    ///
    /// # Errors
    /// If the context or the stride makes no sense, or the text is too short.
    ///
    /// ```
    /// use eval::Protocol;
    /// let windows = Protocol::LlamaCpp { context: 512 }.windows(1100)?;
    /// assert_eq!(windows.len(), 2);
    /// assert_eq!(windows[1].tokens, 512..1024);
    /// assert_eq!(windows[1].targets, 257..512);
    /// # Ok::<(), eval::EvalError>(())
    /// ```
    pub fn windows(self, n: usize) -> Result<Vec<Window>, EvalError> {
        self.validate()?;
        let (protocol, context) = (self.name(), self.context());
        let needed = match self {
            Self::LlamaCpp { .. } => context.saturating_mul(2),
            Self::Window { .. } => context,
            Self::Stride { .. } => 2,
        };
        if n < needed {
            return Err(EvalError::TooFewTokens { protocol, context, needed, got: n });
        }
        let disjoint = |first: usize| {
            let window = |i: usize| Window {
                tokens: i * context..(i + 1) * context,
                targets: first..context,
                weight: 1.0,
            };
            (0..n / context).map(window).collect()
        };
        match self {
            Self::LlamaCpp { context } => Ok(disjoint(context / 2 + 1)),
            Self::Window { .. } => Ok(disjoint(1)),
            Self::Stride { context, stride } => Ok(sliding(n, context, stride)),
        }
    }
}

fn sliding(n: usize, context: usize, stride: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    let (mut begin, mut reached) = (0usize, 0);
    while reached < n {
        let end = n.min(begin.saturating_add(context));
        let (length, new) = (end - begin, end - reached);
        let targets = (length - new).max(1)..length;
        if !targets.is_empty() {
            let weight = (new - 1) as f64 / targets.len() as f64;
            windows.push(Window { tokens: begin..end, targets, weight });
        }
        reached = end;
        begin += stride;
    }
    windows
}

/// What a figure was measured with; two figures compare only where these agree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// Protocol, context and stride.
    #[serde(flatten)]
    pub protocol: Protocol,
    /// Fingerprint of the tokenizer, as the caller computed it.
    pub tokenizer: String,
    /// Whether BOS took the place of each window's first token.
    pub bos: bool,
    /// Windows the model was given.
    pub windows: usize,
    /// Targets in the mean (of the stride protocol: the sum of its weights).
    pub targets: u64,
}

impl Stamp {
    pub(crate) fn new(
        protocol: Protocol,
        tokenizer: &str,
        bos: Option<u32>,
        windows: &[Window],
    ) -> Self {
        let targets = windows.iter().map(|w| w.weight * w.targets.len() as f64).sum::<f64>();
        Self {
            protocol,
            tokenizer: tokenizer.to_owned(),
            bos: bos.is_some() && protocol.replaces_first(),
            windows: windows.len(),
            targets: targets.round() as u64,
        }
    }
}

impl std::fmt::Display for Stamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "protocol {}, context {}", self.protocol.name(), self.protocol.context())?;
        if let Protocol::Stride { stride, .. } = self.protocol {
            write!(f, ", stride {stride}")?;
        }
        write!(f, ", {} targets, tokenizer {}", self.targets, self.tokenizer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loop of the Hugging Face documentation, with its variables' names: for each window the
    /// begin, the end, how many losses its mean is over, and the weight of that mean.
    fn documentation(
        seq_len: usize,
        max_length: usize,
        stride: usize,
    ) -> Vec<(usize, usize, usize, usize)> {
        let mut out = Vec::new();
        let mut prev_end_loc = 0;
        for begin_loc in (0..seq_len).step_by(stride) {
            let end_loc = (begin_loc + max_length).min(seq_len);
            let trg_len = end_loc - prev_end_loc;
            let labels: Vec<bool> = (begin_loc..end_loc).map(|i| i >= end_loc - trg_len).collect();
            let losses = labels[1..].iter().filter(|&&valid| valid).count();
            let valid = labels.iter().filter(|&&valid| valid).count();
            out.push((begin_loc, end_loc, losses, valid - 1));
            prev_end_loc = end_loc;
            if end_loc == seq_len {
                break;
            }
        }
        out
    }

    #[test]
    fn stride_is_the_documentations_loop() {
        for n in 2..60 {
            for context in 2..20 {
                for stride in 1..=context {
                    let got: Vec<_> = Protocol::Stride { context, stride }
                        .windows(n)
                        .unwrap()
                        .into_iter()
                        .map(|w| {
                            assert_eq!(w.targets.end, w.tokens.len());
                            let weight = w.weight * w.targets.len() as f64;
                            (w.tokens.start, w.tokens.end, w.targets.len(), weight.round() as usize)
                        })
                        .collect();
                    let mut want = documentation(n, context, stride);
                    // A window of one token predicts nothing (its mean there is 0/0).
                    want.retain(|w| w.2 > 0);
                    assert_eq!(got, want, "{n} tokens, context {context}, stride {stride}");
                }
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let check = |p: Protocol, n: usize, message: &str| {
            let error = p.windows(n).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        check(Protocol::LlamaCpp { context: 512 }, 1023, "needs 1024");
        check(Protocol::LlamaCpp { context: usize::MAX }, 1023, "needs");
        check(Protocol::LlamaCpp { context: 2 }, 100, "too small");
        check(Protocol::Window { context: 2048 }, 2047, "needs 2048");
        check(Protocol::Window { context: 0 }, 100, "too small");
        check(Protocol::Stride { context: 8, stride: 0 }, 100, "stride must be");
        check(Protocol::Stride { context: 8, stride: 9 }, 100, "stride must be");
        check(Protocol::Stride { context: 8, stride: 4 }, 1, "needs 2");
    }
}
