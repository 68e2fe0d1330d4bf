//! The sampler of one sequence: the chain, its scratch memory, its history and its random numbers.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use crate::penalties::{History, at};
use crate::truncation::{self, Candidate};
use crate::weights::{Weights, exp};
use crate::{Distribution, SamplingError, SamplingParams};

/// Chooses the tokens of one sequence.
///
/// Random numbers come from ChaCha with 12 rounds, one 64-bit word a draw, started from the seed: the
/// same seed, history and logits give the same tokens on every machine and in any batch. Once its
/// scratch memory has grown to the vocabulary a token costs no allocation (a history that is kept for
/// penalties grows with the sequence).
///
/// A clone continues exactly as the original would.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    seed: u64,
    rng: ChaCha12Rng,
    history: History,
    generated: usize,
    logits: Vec<f32>,
    weights: Weights,
    candidates: Vec<Candidate>,
    scratch: Distribution,
}

/// What the chain leaves to be drawn from.
enum Left {
    /// This token.
    One(u32),
    /// All tokens, by their weights.
    All,
    /// The candidates, by ascending id.
    Candidates,
}

impl Sampler {
    /// A sampler with nothing said yet.
    ///
    /// # Errors
    /// Those of [`SamplingParams::validate`].
    pub fn new(params: SamplingParams) -> Result<Self, SamplingError> {
        params.validate()?;
        let seed = params.seed.unwrap_or_else(rand::random);
        Ok(Self {
            seed,
            rng: ChaCha12Rng::seed_from_u64(seed),
            history: History::new(params.penalty_window),
            generated: 0,
            logits: Vec::new(),
            weights: Weights::default(),
            candidates: Vec::new(),
            scratch: Distribution::default(),
            params,
        })
    }

    /// The parameters it was made with.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// The seed in use: the one given, or the one taken from the system.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Tells of tokens that stand before the output; the repetition penalty counts them, the presence
    /// and frequency penalties do not. Belongs before the first [`accept`](Self::accept).
    pub fn observe_prompt(&mut self, tokens: &[u32]) {
        if self.params.penalises_repetition() {
            tokens.iter().for_each(|&t| self.history.push(t, false));
        }
    }

    /// Tells that `token` was generated.
    pub fn accept(&mut self, token: u32) {
        self.generated += 1;
        if self.params.penalises() {
            self.history.push(token, true);
        }
    }

    /// The parameters and the random number of the next token, for a device that draws it from logits which lie
    /// there; tell of the token by [`drawn`](Self::drawn). `None` where a step of the chain is not one of temperature,
    /// top-k, top-p and min-p: history and biases are known here alone.
    ///
    /// ```
    /// use sampling::{Sampler, SamplingParams};
    /// let mut sampler = Sampler::new(SamplingParams { seed: Some(3), ..Default::default() })?;
    /// let (_, uniform) = sampler.next_draw().unwrap();
    /// // What a device does with equal logits of four tokens.
    /// let token = (4.0 * uniform) as u32;
    /// assert_eq!(token, sampler.clone().next_token(&[0.0; 4])?);
    /// sampler.drawn(token);
    /// assert_ne!(uniform, sampler.next_draw().unwrap().1);
    /// # Ok::<(), sampling::SamplingError>(())
    /// ```
    pub fn next_draw(&self) -> Option<(&SamplingParams, f64)> {
        let p = &self.params;
        let elsewhere = !p.penalises() && p.logit_bias.is_empty() && p.typical_p == 1.0;
        elsewhere.then(|| (p, uniform(&mut self.rng.clone())))
    }

    /// Tells that `token` was drawn with the number of [`next_draw`](Self::next_draw).
    pub fn drawn(&mut self, token: u32) {
        self.uniform();
        self.accept(token);
    }

    /// Takes back the last `n` accepted tokens, as when a draft is rejected. The random numbers that
    /// were drawn stay drawn.
    ///
    /// # Errors
    /// [`SamplingError::RollbackTooFar`] if fewer were accepted; then nothing is changed.
    pub fn rollback(&mut self, n: usize) -> Result<(), SamplingError> {
        if n > self.generated {
            return Err(SamplingError::RollbackTooFar { asked: n, generated: self.generated });
        }
        self.generated -= n;
        if self.params.penalises() {
            (0..n).for_each(|_| self.history.pop_generated());
        }
        Ok(())
    }

    /// The probabilities that the next token is drawn with, after every step of the chain.
    ///
    /// `logits` is one row, `[vocabulary]`. At temperature 0 all the mass is on the most probable token.
    ///
    /// # Errors
    /// An empty row, NaN, `+inf`, nothing but `-inf`, or a bias or an accepted token outside the row.
    pub fn distribution(&mut self, logits: &[f32]) -> Result<Distribution, SamplingError> {
        let mut out = Distribution::default();
        self.distribution_into(logits, &mut out)?;
        Ok(out)
    }

    /// [`distribution`](Self::distribution) into memory that is used again.
    ///
    /// # Errors
    /// As there; what `out` holds then is unspecified.
    pub fn distribution_into(
        &mut self,
        logits: &[f32],
        out: &mut Distribution,
    ) -> Result<(), SamplingError> {
        match self.chain(logits)? {
            Left::One(token) => out.set_certain(token),
            Left::All => {
                let total = self.weights.total();
                out.set((0u32..).zip(self.weights.values().iter().copied()), total);
            }
            Left::Candidates => {
                let total = truncation::mass(&self.candidates);
                out.set(self.candidates.iter().map(|c| (c.token, c.weight)), total);
            }
        }
        Ok(())
    }

    /// Every step before the draw.
    fn chain(&mut self, logits: &[f32]) -> Result<Left, SamplingError> {
        let mut max = check(logits)?;
        let p = &self.params;
        let touched = p.penalises() || !p.logit_bias.is_empty();
        let logits = if touched {
            self.logits.clear();
            self.logits.extend_from_slice(logits);
            for &(token, bias) in &p.logit_bias {
                *at(&mut self.logits, token)? += bias;
            }
            self.history.penalise(p, &mut self.logits)?;
            // A bias moves the largest finite logit by less than the spacing there: none overflows.
            max = check(&self.logits)?;
            &self.logits[..]
        } else {
            logits
        };

        if p.temperature == 0.0 || p.top_k == 1 {
            return Ok(Left::One(first_of(logits, max)));
        }

        let (temperature, max) = (f64::from(p.temperature), f64::from(max));
        let (top_p, min_p) = (f64::from(p.top_p), f64::from(p.min_p));
        let all = &mut self.candidates;
        all.clear();
        // What a step to come will cut away in any case need not become a candidate. For top-p alone
        // the mass of the whole row is known then.
        let mut mass = None;
        if p.top_k > 0 {
            truncation::top_k(logits, p.top_k, all);
        } else if top_p < 1.0 {
            self.weights.fill(logits, max, temperature);
            let total = self.weights.total();
            truncation::most_of(
                logits,
                self.weights.values(),
                max,
                temperature,
                top_p * total,
                all,
            );
            mass = Some(total);
        } else if min_p > 0.0 {
            truncation::within(logits, max, -temperature * min_p.ln(), all);
        } else if p.typical_p < 1.0 {
            truncation::within(logits, max, f64::INFINITY, all);
        } else {
            self.weights.fill(logits, max, temperature);
            return Ok(Left::All);
        }
        if mass.is_none() {
            all.iter_mut().for_each(|c| c.weight = exp((f64::from(c.logit) - max) / temperature));
        }
        // -inf, or too improbable for f64: not in the support of the distribution.
        all.retain(|c| c.weight > 0.0);
        if top_p < 1.0 {
            truncation::top_p(all, top_p * mass.unwrap_or_else(|| truncation::mass(all)));
        }
        if mass.is_some() {
            truncation::by_id(logits, self.weights.values(), all);
        }
        if min_p > 0.0 {
            truncation::min_p(all, min_p);
        }
        if p.typical_p < 1.0 {
            truncation::typical(all, f64::from(p.typical_p));
        }
        all.sort_unstable_by_key(|c| c.token);
        Ok(Left::Candidates)
    }

    /// A number from [0, 1) with 53 random bits; each call consumes one word of the generator.
    pub fn uniform(&mut self) -> f64 {
        uniform(&mut self.rng)
    }

    /// One draw from a distribution. The history is not touched.
    ///
    /// # Panics
    /// On a distribution of no tokens.
    pub fn sample(&mut self, distribution: &Distribution) -> u32 {
        let u = self.uniform();
        distribution.quantile(u)
    }

    /// The next token: the chain, one draw, and [`accept`](Self::accept).
    ///
    /// # Errors
    /// Those of [`distribution`](Self::distribution); then nothing was drawn or accepted.
    pub fn next_token(&mut self, logits: &[f32]) -> Result<u32, SamplingError> {
        let token = match self.chain(logits)? {
            Left::One(token) => {
                self.uniform(); // each token takes one random number
                token
            }
            Left::All => {
                let u = self.uniform();
                self.weights.quantile(u)
            }
            Left::Candidates => {
                let mut distribution = std::mem::take(&mut self.scratch);
                let total = truncation::mass(&self.candidates);
                distribution.set(self.candidates.iter().map(|c| (c.token, c.weight)), total);
                let token = self.sample(&distribution);
                self.scratch = distribution;
                token
            }
        };
        self.accept(token);
        Ok(token)
    }
}

fn uniform(rng: &mut ChaCha12Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

/// The most probable token, the lowest id among equals.
///
/// # Errors
/// As [`Sampler::distribution`] for the logits.
///
/// ```
/// assert_eq!(sampling::argmax(&[1.0, 3.0, 3.0])?, 1);
/// assert!(sampling::argmax(&[1.0, f32::NAN]).is_err());
/// # Ok::<(), sampling::SamplingError>(())
/// ```
pub fn argmax(logits: &[f32]) -> Result<u32, SamplingError> {
    let max = check(logits)?;
    Ok(first_of(logits, max))
}

/// The first token whose logit is `value`, which one has.
fn first_of(logits: &[f32], value: f32) -> u32 {
    // Block by block, in which the compiler compares many at once.
    const BLOCK: usize = 64;
    let holds = |block: &[f32]| block.iter().fold(false, |any, &l| any | (l == value));
    let start = logits.chunks(BLOCK).position(holds).unwrap_or(0) * BLOCK;
    let within = logits[start..].iter().position(|&l| l == value);
    (start + within.unwrap_or(0)) as u32
}

/// The largest logit of a row that has a distribution.
pub(crate) fn check(logits: &[f32]) -> Result<f32, SamplingError> {
    // Eight maxima side by side, so that the pass runs at the speed of memory; a NaN is remembered.
    let mut maxima = [f32::NEG_INFINITY; 8];
    let mut nan = [false; 8];
    let mut chunks = logits.chunks_exact(8);
    for chunk in &mut chunks {
        for i in 0..8 {
            nan[i] |= chunk[i].is_nan();
            maxima[i] = if chunk[i] > maxima[i] { chunk[i] } else { maxima[i] };
        }
    }
    for (i, &l) in chunks.remainder().iter().enumerate() {
        nan[i] |= l.is_nan();
        maxima[i] = if l > maxima[i] { l } else { maxima[i] };
    }
    let max = maxima.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
    let find = |f: fn(f32) -> bool| logits.iter().position(|&l| f(l)).unwrap_or(0) as u32;
    if nan.contains(&true) {
        Err(SamplingError::NanLogit { token: find(f32::is_nan) })
    } else if max == f32::INFINITY {
        Err(SamplingError::InfiniteLogit { token: find(|l| l == f32::INFINITY) })
    } else if logits.is_empty() {
        Err(SamplingError::EmptyLogits)
    } else if max == f32::NEG_INFINITY {
        Err(SamplingError::NoCandidates { vocabulary: logits.len() })
    } else {
        Ok(max)
    }
}
