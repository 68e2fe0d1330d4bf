//! Means with their standard errors, summed in `f64`.

use serde::{Deserialize, Serialize};

/// A figure and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    #[serde(deserialize_with = "null_is_nan")]
    pub value: f64,
    /// One standard deviation of it, taking targets as independent (which neighbours are not quite).
    #[serde(deserialize_with = "null_is_nan")]
    pub error: f64,
}

/// JSON has no infinities: they are written as `null`, and what is read back is NaN.
pub(crate) fn null_is_nan<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(4);
        write!(f, "{:.digits$} ± {:.digits$}", self.value, self.error)
    }
}

impl Estimate {
    /// exp of the figure: the error goes along to first order.
    pub(crate) fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, error: value * self.error }
    }
}

/// Weighted sums of x and x^2.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Moments {
    weight: f64,
    x: f64,
    xx: f64,
    count: u64,
}

impl Moments {
    pub(crate) fn add(&mut self, x: f64, weight: f64) {
        self.weight += weight;
        self.x += weight * x;
        self.xx += weight * x * x;
        self.count += 1;
    }

    /// The mean and sqrt((E[x^2] - E[x]^2) / (count - 1)), llama.cpp's error bar.
    pub(crate) fn mean(&self) -> Estimate {
        let mean = self.x / self.weight;
        let variance = (self.xx / self.weight - mean * mean).max(0.0);
        Estimate { value: mean, error: (variance / (self.count.max(2) - 1) as f64).sqrt() }
    }
}

/// The value at a fraction of sorted values, between the two nearest in proportion.
pub(crate) fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = fraction * last as f64;
    let (below, part) = (at.floor() as usize, at.fract());
    let above = (below + 1).min(last);
    if part == 0.0 { sorted[below] } else { sorted[below] * (1.0 - part) + sorted[above] * part }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_error_by_hand() {
        let mut m = Moments::default();
        [1.0, 2.0, 3.0, 6.0].iter().for_each(|&x| m.add(x, 1.0));
        // Mean 3, E[x^2] 12.5, variance 3.5, over 3.
        let e = m.mean();
        assert_eq!(e.value, 3.0);
        assert!((e.error - (3.5f64 / 3.0).sqrt()).abs() < 1e-15);
        assert!((e.exp().error - 3f64.exp() * e.error).abs() < 1e-12);
        assert_eq!(format!("{e:.2}"), "3.00 ± 1.08");
    }

    #[test]
    fn what_is_infinite_goes_through_json() {
        let json = serde_json::to_string(&Estimate { value: f64::INFINITY, error: 1.0 }).unwrap();
        assert_eq!(json, r#"{"value":null,"error":1.0}"#);
        let back: Estimate = serde_json::from_str(&json).unwrap();
        assert!(back.value.is_nan() && back.error == 1.0);
    }

    #[test]
    fn quantiles_by_hand() {
        let x = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(quantile(&x, 0.0), 0.0);
        assert_eq!(quantile(&x, 0.5), 1.5);
        assert_eq!(quantile(&x, 1.0), 10.0);
        assert!((quantile(&x, 0.99) - 9.76).abs() < 1e-12);
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[f64::INFINITY; 3], 0.5), f64::INFINITY);
    }
}
