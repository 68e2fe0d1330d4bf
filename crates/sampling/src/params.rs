//! The parameters of the chain and their ranges.

use crate::SamplingError;

/// The highest temperature that is accepted. At 100 the logits of any trained model are already close
/// to uniform; OpenAI's interface stops at 2.
pub const MAX_TEMPERATURE: f32 = 100.0;

/// The largest magnitude of a penalty or of a finite bias. OpenAI's are at most 2 and 100.
pub const MAX_MAGNITUDE: f32 = 1000.0;

/// Over how much of the sequence the repetition penalty looks back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PenaltyWindow {
    /// The whole prompt and output, as Hugging Face does.
    #[default]
    All,
    /// The last so many tokens of prompt and output, as llama.cpp's `--repeat-last-n`; 0 is none.
    Last(usize),
}

/// How to choose a token. The defaults switch every step off but the draw at temperature 1.
///
/// The order in which the steps apply is described [at the crate's root](crate).
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divisor of the logits, 0..=[`MAX_TEMPERATURE`]; 0 takes the most probable token.
    pub temperature: f32,
    /// Keep the k most probable tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most probable tokens whose probabilities sum to at least this, 0..=1;
    /// 1 keeps all, and at least one token is always kept.
    pub top_p: f32,
    /// Keep the tokens at least this fraction as probable as the most probable one, 0..=1; 0 keeps all.
    pub min_p: f32,
    /// Keep the tokens whose surprise is nearest the entropy, up to this mass, above 0 up to 1; 1 keeps
    /// all.
    pub typical_p: f32,
    /// Divides the positive and multiplies the other logits of tokens already seen; above 0 up to
    /// [`MAX_MAGNITUDE`], 1 is off.
    pub repetition_penalty: f32,
    /// What the repetition penalty counts as seen.
    pub penalty_window: PenaltyWindow,
    /// Taken once from the logit of each token generated before; magnitude up to [`MAX_MAGNITUDE`].
    pub presence_penalty: f32,
    /// Taken from a token's logit each time it was generated; magnitude up to [`MAX_MAGNITUDE`].
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens; magnitude up to [`MAX_MAGNITUDE`], or `-inf` to forbid one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Where the random numbers start; `None` takes a seed from the system.
    pub seed: Option<u64>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            penalty_window: PenaltyWindow::All,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

impl SamplingParams {
    /// Always the most probable token.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether every parameter is in its range.
    ///
    /// # Errors
    /// [`SamplingError::InvalidParameter`] for the first that is not (NaN is in no range), and
    /// [`SamplingError::DuplicateBias`].
    ///
    /// ```
    /// use sampling::SamplingParams;
    /// let p = SamplingParams { top_p: 1.5, ..Default::default() };
    /// assert_eq!(p.validate().unwrap_err().to_string(), "top_p must be from 0 to 1, got 1.5");
    /// ```
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |ok: bool, name, expected, value: f32| {
            let value = f64::from(value);
            if ok { Ok(()) } else { Err(SamplingError::InvalidParameter { name, expected, value }) }
        };
        let unit = |x: f32| (0.0..=1.0).contains(&x);
        let bounded = |x: f32| x.abs() <= MAX_MAGNITUDE;
        let t = self.temperature;
        check((0.0..=MAX_TEMPERATURE).contains(&t), "temperature", "from 0 to 100", t)?;
        check(unit(self.top_p), "top_p", "from 0 to 1", self.top_p)?;
        check(unit(self.min_p), "min_p", "from 0 to 1", self.min_p)?;
        let typical = self.typical_p;
        check(unit(typical) && typical > 0.0, "typical_p", "above 0 and at most 1", typical)?;
        let r = self.repetition_penalty;
        check(bounded(r) && r > 0.0, "repetition_penalty", "above 0 and at most 1000", r)?;
        let range = "from -1000 to 1000";
        check(bounded(self.presence_penalty), "presence_penalty", range, self.presence_penalty)?;
        check(bounded(self.frequency_penalty), "frequency_penalty", range, self.frequency_penalty)?;
        for &(_, b) in &self.logit_bias {
            let ok = bounded(b) || b == f32::NEG_INFINITY;
            check(ok, "logit_bias", "from -1000 to 1000, or -inf", b)?;
        }
        let mut tokens: Vec<u32> = self.logit_bias.iter().map(|&(t, _)| t).collect();
        tokens.sort_unstable();
        match tokens.windows(2).find(|w| w[0] == w[1]) {
            Some(w) => Err(SamplingError::DuplicateBias { token: w[0] }),
            None => Ok(()),
        }
    }

    /// Whether the chain looks at what was said before.
    pub(crate) fn penalises(&self) -> bool {
        self.penalises_repetition() || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    pub(crate) fn penalises_repetition(&self) -> bool {
        self.repetition_penalty != 1.0
    }
}
