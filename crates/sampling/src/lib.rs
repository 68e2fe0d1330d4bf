//! From a row of logits to a token.
//!
//! This crate knows no model: a row of `f32` logits goes in, a token id comes out. One [`Sampler`]
//! belongs to one sequence and holds what that sequence has said so far (for the penalties) and its
//! own random generator, so that a token depends on the parameters, the seed, the history and the
//! logits alone, never on the batch that the request happened to share.
//!
//! # The chain
//! The steps run in this order, each one optional:
//!
//! 1. **logit bias**, `l_i += b_i`;
//! 2. **repetition penalty** (Keskar et al. 2019, section 4.1) over the prompt and the output;
//! 3. **frequency and presence penalties**, `l_i -= c_i * f + [c_i > 0] * p` with `c_i` the number of
//!    times `i` was generated;
//! 4. **temperature**, `w_i = exp((l_i - max l) / T)`; `T = 0` is greedy and ends here;
//! 5. **top-k**, 6. **top-p** (Holtzman et al. 2020), 7. **min-p** (Nguyen et al. 2024),
//!    8. **locally typical** (Meister et al. 2023), each on what the step before left, renormalised;
//! 9. one draw.
//!
//! That is the order of Hugging Face transformers, and of vLLM for the steps the two share. Temperature
//! goes first because top-p, min-p and typical are statements about the distribution that is drawn
//! from, and because presets published with models ("temperature 0.6, top-p 0.95") assume it.
//! llama.cpp's default chain truncates first and applies the temperature last, so that at the same
//! top-p it keeps fewer tokens where `T > 1` and more where `T < 1`; top-k and greedy agree in all three.
//!
//! Ties go to the lowest token id, everywhere: top-k keeps exactly k tokens (Hugging Face keeps all
//! tokens that tie with the k-th).
//!
//! # Bad logits
//! A NaN or a `+inf` in the logits is an error that names the token, since no distribution follows from
//! it; `-inf` is how a grammar or a mask forbids a token, and a row with nothing else is an error too.
//!
//! # Speculative decoding
//! Drafting and verification need the distributions themselves, not just draws from them:
//! [`Sampler::distribution`] returns the probabilities after every step above, and
//! [`Sampler::accept`] and [`Sampler::rollback`] move the history along a draft and back.
//!
//! ```
//! use sampling::{Sampler, SamplingParams};
//!
//! let params = SamplingParams { temperature: 0.5, top_k: 2, seed: Some(7), ..Default::default() };
//! let mut sampler = Sampler::new(params)?;
//! let p = sampler.distribution(&[0.0, 1.0, 2.0, f32::NEG_INFINITY])?;
//! // Two tokens are left, and their odds are exp((2 - 1) / 0.5).
//! assert_eq!(p.tokens(), [1, 2]);
//! assert!((p.probability(2) / p.probability(1) - 2f64.exp()).abs() < 1e-12);
//! let token = sampler.sample(&p);
//! assert!(token == 1 || token == 2);
//! # Ok::<(), sampling::SamplingError>(())
//! ```
#![forbid(unsafe_code)]

mod distribution;
mod error;
mod logprobs;
mod params;
mod penalties;
mod sampler;
mod truncation;
mod weights;

pub use distribution::Distribution;
pub use error::SamplingError;
pub use logprobs::{TokenLogprob, TokenLogprobs, logprobs};
pub use params::{MAX_MAGNITUDE, MAX_TEMPERATURE, PenaltyWindow, SamplingParams};
pub use sampler::{Sampler, argmax};
