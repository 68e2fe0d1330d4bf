//! Distributions of lengths in tokens.

use std::f64::consts::TAU;
use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt};

/// The longest length that a distribution may be given.
pub const MAX_LENGTH: usize = 1 << 24;

/// Which of a request's two lengths is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What it brings.
    Prompt,
    /// What it gets.
    Output,
}

/// A distribution of lengths in tokens, each at least 1.
///
/// As text: `512`, `64..256` (both ends belong to it), `lognormal:MEDIAN:SIGMA`, `sharegpt`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Lengths {
    /// Always the same.
    Fixed(usize),
    /// Each from the first to the second is as probable.
    Uniform(usize, usize),
    /// `median * exp(sigma * z)` with `z` standard normal, rounded.
    LogNormal {
        /// Half of the lengths lie below it.
        median: f64,
        /// Standard deviation of the logarithm.
        sigma: f64,
    },
    /// As users of ShareGPT: a piecewise log-linear fit to the quantiles of its conversations.
    ShareGpt,
}

/// Quantiles of lengths in tokens: first human turn and the answer to it, of the first 17,671
/// conversations of ShareGPT_V3_unfiltered_cleaned_split, GPT-2's tokenizer, kept as vLLM's
/// benchmark_serving.py keeps them (each at least 4 tokens, prompt at most 1,024, both together at
/// most 2,048): 9,761 pairs, means 107 and 315, correlation of the logarithms 0.08, which is
/// neglected. (Kwon et al. 2023, figure 11, report means of 161 and 338 for their sample.)
const QUANTILES: [(f64, f64, f64); 14] = [
    (0.0, 4.0, 4.0),
    (0.05, 7.0, 26.0),
    (0.1, 8.0, 50.0),
    (0.2, 12.0, 104.0),
    (0.3, 16.0, 161.0),
    (0.4, 21.0, 217.0),
    (0.5, 29.0, 269.0),
    (0.6, 43.0, 320.0),
    (0.7, 73.0, 381.0),
    (0.8, 135.0, 473.0),
    (0.9, 333.0, 650.0),
    (0.95, 547.0, 800.0),
    (0.99, 897.0, 1147.0),
    (1.0, 1023.0, 1929.0),
];

/// The length below which a share `p` of the lengths lies: logarithms between two quantiles are
/// interpolated linearly.
fn quantile(p: f64, side: Side) -> usize {
    let of = |q: &(f64, f64, f64)| if side == Side::Prompt { q.1 } else { q.2 };
    let after = QUANTILES.iter().position(|q| q.0 >= p).unwrap_or(QUANTILES.len() - 1).max(1);
    let (low, high) = (&QUANTILES[after - 1], &QUANTILES[after]);
    let part = (p - low.0) / (high.0 - low.0);
    (of(low).ln() * (1.0 - part) + of(high).ln() * part).exp().round() as usize
}

impl Lengths {
    /// Draws a length, at least 1 and at most [`MAX_LENGTH`].
    pub fn sample(&self, side: Side, rng: &mut impl Rng) -> usize {
        let drawn = match *self {
            Lengths::Fixed(n) => n,
            Lengths::Uniform(low, high) => rng.random_range(low..=high),
            Lengths::LogNormal { median, sigma } => {
                // Box and Muller 1958; the first is never 0.
                let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
                let z = (-2.0 * u.ln()).sqrt() * (TAU * v).cos();
                (median * (sigma * z).exp()).round() as usize
            }
            Lengths::ShareGpt => quantile(rng.random(), side),
        };
        drawn.clamp(1, MAX_LENGTH)
    }
}

/// What is wrong with a distribution given as text.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LengthsError {
    /// None of the forms.
    #[error("'{got}': expected N, N..M, lognormal:MEDIAN:SIGMA or sharegpt")]
    Form {
        /// What was given.
        got: String,
    },
    /// A length out of range.
    #[error("'{got}': lengths are from 1 to {MAX_LENGTH}, the smaller first")]
    Range {
        /// What was given.
        got: String,
    },
    /// A standard deviation out of range.
    #[error("'{got}': SIGMA, of the logarithm, is from 0 to 5")]
    Sigma {
        /// What was given.
        got: String,
    },
}

impl FromStr for Lengths {
    type Err = LengthsError;

    fn from_str(text: &str) -> Result<Self, LengthsError> {
        let got = || text.chars().take(80).collect::<String>();
        let form = || LengthsError::Form { got: got() };
        let range = || LengthsError::Range { got: got() };
        let count = |part: &str| {
            let n: usize = part.trim().parse().map_err(|_| form())?;
            if (1..=MAX_LENGTH).contains(&n) { Ok(n) } else { Err(range()) }
        };
        if text == "sharegpt" {
            return Ok(Lengths::ShareGpt);
        }
        if let Some(rest) = text.strip_prefix("lognormal:") {
            let (median, sigma) = rest.split_once(':').ok_or_else(form)?;
            let median: f64 = median.parse().map_err(|_| form())?;
            let sigma: f64 = sigma.parse().map_err(|_| form())?;
            if !(1.0..=MAX_LENGTH as f64).contains(&median) {
                return Err(range());
            }
            if !(0.0..=5.0).contains(&sigma) {
                return Err(LengthsError::Sigma { got: got() });
            }
            return Ok(Lengths::LogNormal { median, sigma });
        }
        match text.split_once("..") {
            Some((low, high)) => match (count(low)?, count(high)?) {
                (low, high) if low <= high => Ok(Lengths::Uniform(low, high)),
                _ => Err(range()),
            },
            None => Ok(Lengths::Fixed(count(text)?)),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lengths::Fixed(n) => write!(f, "{n}"),
            Lengths::Uniform(low, high) => write!(f, "{low}..{high}"),
            Lengths::LogNormal { median, sigma } => write!(f, "lognormal:{median}:{sigma}"),
            Lengths::ShareGpt => f.write_str("sharegpt"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const N: usize = 40_000;

    fn draws(lengths: &str, side: Side) -> Vec<f64> {
        let lengths: Lengths = lengths.parse().unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        (0..N).map(|_| lengths.sample(side, &mut rng) as f64).collect()
    }

    fn mean(of: &[f64]) -> f64 {
        of.iter().sum::<f64>() / of.len() as f64
    }

    #[test]
    fn a_uniform_length_has_its_mean_and_reaches_both_ends() {
        let drawn = draws("10..29", Side::Prompt);
        assert!(drawn.contains(&10.0) && drawn.contains(&29.0));
        assert!(drawn.iter().all(|x| (10.0..=29.0).contains(x)));
        // Standard deviation of one draw: sqrt((20^2 - 1) / 12) = 5.77; five standard errors.
        assert!((mean(&drawn) - 19.5).abs() < 5.0 * 5.77 / (N as f64).sqrt(), "{}", mean(&drawn));
    }

    #[test]
    fn a_log_normal_length_has_its_median_and_spread() {
        let logs: Vec<f64> =
            draws("lognormal:1000:0.5", Side::Output).iter().map(|x| x.ln()).collect();
        let average = mean(&logs);
        let squares: Vec<f64> = logs.iter().map(|x| (x - average).powi(2)).collect();
        // Five standard errors: sigma / sqrt(n) of the mean, sigma / sqrt(2 n) of the deviation.
        let error = 0.5 / (N as f64).sqrt();
        assert!((average - 1000f64.ln()).abs() < 5.0 * error, "{average}");
        assert!((mean(&squares).sqrt() - 0.5).abs() < 5.0 * error / 2f64.sqrt());
        assert!(draws("lognormal:1:5", Side::Output).iter().all(|&x| x >= 1.0));
    }

    #[test]
    fn lengths_of_sharegpt_differ_by_side() {
        let share = |side, below: f64| {
            draws("sharegpt", side).iter().filter(|&&x| x <= below).count() as f64 / N as f64
        };
        // Five standard errors of a share of a half are 0.0125; rounding to whole tokens adds.
        assert!((share(Side::Prompt, 29.0) - 0.5).abs() < 0.03);
        assert!((share(Side::Output, 269.0) - 0.5).abs() < 0.0135);
    }

    #[test]
    fn text_is_read_and_written() {
        for text in ["512", "64..256", "7..7", "lognormal:128:0.8", "sharegpt"] {
            assert_eq!(text.parse::<Lengths>().unwrap().to_string(), text);
        }
        for (text, says) in [
            ("", "expected N"),
            ("0", "from 1 to"),
            ("-1", "expected N"),
            ("1e3", "expected N"),
            ("18446744073709551616", "expected N"),
            ("16777217", "from 1 to"),
            ("9..3", "the smaller first"),
            ("1..", "expected N"),
            ("..5", "expected N"),
            ("lognormal:5", "expected N"),
            ("lognormal:NaN:1", "from 1 to"),
            ("lognormal:inf:1", "from 1 to"),
            ("lognormal:10:NaN", "from 0 to 5"),
            ("lognormal:10:-1", "from 0 to 5"),
            ("\0", "expected N"),
        ] {
            let error = text.parse::<Lengths>().unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        assert!("x".repeat(1 << 20).parse::<Lengths>().unwrap_err().to_string().len() < 200);
    }
}
