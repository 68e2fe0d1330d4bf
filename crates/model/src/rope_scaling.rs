//! Frequencies of rotary embeddings that a checkpoint scales.
//!
//! Unscaled, pair `i` of a head with `d` turning elements turns by `theta^(-2i/d)` a position. The
//! scalings are those of transformers' `modeling_rope_utils.py`, in the same single precision:
//! linear (Chen et al. 2023), llama3 (Dubey et al. 2024, as published with the weights), YaRN (Peng
//! et al. 2023, section 3), LongRoPE (Ding et al. 2024). Dynamic NTK is none of them: within the
//! context of the model it is the unscaled embedding, and beyond it nothing here goes.

use std::f64::consts::PI;

use tensor::RopeLayout;

use crate::config::{LongRotary, RopeParameters, RopeScaling, RotaryConfig};

impl RotaryConfig {
    /// The embedding that these parameters describe.
    ///
    /// ```
    /// use model::config::{RopeParameters, RopeScaling, RotaryConfig};
    /// let scaling = RopeScaling::Linear { factor: 4.0 };
    /// let p = RopeParameters { theta: 10000.0, rotary_dim: 4, scaling };
    /// let r = RotaryConfig::new(p, tensor::RopeLayout::Half);
    /// assert_eq!(r.inv_freq, [0.25, 0.0025]);
    /// ```
    pub fn new(source: RopeParameters, layout: RopeLayout) -> Self {
        let magnitude = match &source.scaling {
            RopeScaling::Yarn { attention_factor, .. }
            | RopeScaling::LongRope { attention_factor, .. } => *attention_factor as f32,
            _ => 1.0,
        };
        let long = match &source.scaling {
            RopeScaling::LongRope { long_factor, original_context, .. } => Some(LongRotary {
                inv_freq: divided(&source, long_factor),
                original_context: *original_context,
            }),
            _ => None,
        };
        Self { inv_freq: inv_freq(&source), long, magnitude, layout, source }
    }
}

/// `theta^(2i/d)` for each pair.
fn periods(p: &RopeParameters) -> impl Iterator<Item = f32> {
    let (theta, dim) = (p.theta, p.rotary_dim);
    (0..dim / 2).map(move |i| {
        let exponent = (2 * i) as f32 / dim as f32;
        theta.powf(f64::from(exponent)) as f32
    })
}

/// Each frequency divided by its factor.
fn divided(p: &RopeParameters, factors: &[f32]) -> Vec<f32> {
    periods(p).zip(factors).map(|(period, f)| 1.0 / (f * period)).collect()
}

/// `inv_freq[i]` for each pair, short contexts' for LongRoPE.
fn inv_freq(p: &RopeParameters) -> Vec<f32> {
    match &p.scaling {
        RopeScaling::Default => periods(p).map(|period| 1.0 / period).collect(),
        RopeScaling::Linear { factor } => {
            periods(p).map(|period| 1.0 / period / *factor as f32).collect()
        }
        RopeScaling::Llama3 { .. } => {
            let factors = llama3_factors(p);
            periods(p).zip(factors).map(|(period, f)| (1.0 / period) / f).collect()
        }
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate, .. } => {
            let ramp = yarn_ramp(p, *original_context, *beta_fast, *beta_slow, *truncate);
            let mixed = |(period, r): (f32, f32)| {
                1.0 / (*factor as f32 * period) * r + 1.0 / period * (1.0 - r)
            };
            periods(p).zip(ramp).map(mixed).collect()
        }
        RopeScaling::LongRope { short_factor, .. } => divided(p, short_factor),
        RopeScaling::Factors(factors) => {
            periods(p).zip(factors).map(|(period, f)| 1.0 / period / f).collect()
        }
    }
}

/// By how much each frequency is divided by Llama 3.1's scaling: what GGUF files carry as
/// `rope_freqs.weight`. Empty for other scalings.
///
/// With `w` the wavelength, `c` the original context and `l < h` the two bounds: the factor where
/// `w > c / l`, 1 where `w < c / h`, and `1 / ((1 - s) / factor + s)` between, where
/// `s = (c / w - l) / (h - l)`.
pub fn llama3_factors(p: &RopeParameters) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } =
        p.scaling
    else {
        return Vec::new();
    };
    // Single precision throughout, as both transformers and llama.cpp's converter compute it.
    let (context, factor) = (original_context as f32, factor as f32);
    let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
    let one = |period: f32| {
        let wavelength = (2.0 * PI) as f32 / (1.0 / period);
        if wavelength > context / low {
            factor
        } else if wavelength < context / high {
            1.0
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    periods(p).map(one).collect()
}

/// How far each pair is interpolated: 0 keeps its frequency, 1 divides it by the factor.
fn yarn_ramp(
    p: &RopeParameters,
    original_context: usize,
    beta_fast: f64,
    beta_slow: f64,
    truncate: bool,
) -> impl Iterator<Item = f32> {
    let dim = p.rotary_dim as f64;
    // The pair that turns `rotations` times within the original context.
    let bound = |rotations: f64| {
        dim * (original_context as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * p.theta.ln())
    };
    let (mut low, mut high) = (bound(beta_fast), bound(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    let (low, width) = (low as f32, (high - low) as f32);
    (0..p.rotary_dim / 2).map(move |i| ((i as f32 - low) / width).clamp(0.0, 1.0))
}

/// YaRN's attention factor for an extension by `factor` (section 3.4), its logarithm weighted.
pub fn yarn_magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

/// LongRoPE's attention factor for an extension by `factor` beyond `original_context`.
pub fn longrope_magnitude(factor: f64, original_context: usize) -> f64 {
    if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_context as f64).ln()).sqrt() }
}
