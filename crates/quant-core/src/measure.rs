//! What an approximation y of values x loses.
//!
//! All sums run in f64, in one pass:
//! - mean squared error `MSE = sum (x - y)^2 / n`
//! - signal to noise ratio `SNR = 10 log10(sum x^2 / sum (x - y)^2)` in dB
//! - largest absolute error `max |x - y|`
//! - cosine similarity `sum x y / sqrt(sum x^2 * sum y^2)`
//! - relative error `sqrt(sum (x - y)^2 / sum x^2)`

/// The sums from which the measures follow; those of parts of a tensor add up.
///
/// ```
/// use quant_core::ErrorStats;
/// let stats = ErrorStats::of(&[3.0, 4.0, 0.0], &[3.0, 3.0, 0.0]);
/// assert_eq!(stats.mse(), 1.0 / 3.0);
/// assert_eq!(stats.max_abs(), 1.0);
/// assert_eq!(stats.relative(), 0.2);
/// assert!((stats.snr_db() - 13.979400086720377).abs() < 1e-12); // 10 log10(25)
/// assert!((stats.cosine() - 21.0 / (5.0 * 18f64.sqrt())).abs() < 1e-15);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorStats {
    count: u64,
    squared_error: f64,
    squared_x: f64,
    squared_y: f64,
    product: f64,
    max_abs: f64,
}

impl ErrorStats {
    /// The loss of `y` against `x`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn of(x: &[f32], y: &[f32]) -> Self {
        let mut stats = Self::default();
        stats.add(x, y);
        stats
    }

    /// Takes in further values.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add(&mut self, x: &[f32], y: &[f32]) {
        assert_eq!(x.len(), y.len(), "an approximation for each value");
        self.count += x.len() as u64;
        for (&x, &y) in x.iter().zip(y) {
            let (x, y) = (f64::from(x), f64::from(y));
            let error = x - y;
            self.squared_error += error * error;
            self.squared_x += x * x;
            self.squared_y += y * y;
            self.product += x * y;
            if error.abs() > self.max_abs || error.is_nan() {
                self.max_abs = error.abs();
            }
        }
    }

    /// Takes in the sums of another part.
    pub fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.squared_error += other.squared_error;
        self.squared_x += other.squared_x;
        self.squared_y += other.squared_y;
        self.product += other.product;
        if other.max_abs > self.max_abs || other.max_abs.is_nan() {
            self.max_abs = other.max_abs;
        }
    }

    /// How many values were compared.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Mean squared error; 0 of no values.
    pub fn mse(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.squared_error / self.count as f64 }
    }

    /// Root of the mean squared error, in the unit of the values.
    pub fn rmse(&self) -> f64 {
        self.mse().sqrt()
    }

    /// Signal to noise ratio in decibels; infinite without error.
    pub fn snr_db(&self) -> f64 {
        if self.squared_error == 0.0 {
            f64::INFINITY
        } else {
            10.0 * (self.squared_x / self.squared_error).log10()
        }
    }

    /// Largest absolute error; NaN if any error is.
    pub fn max_abs(&self) -> f64 {
        self.max_abs
    }

    /// Cosine of the angle between the two; 1 if both are zero, 0 if one is.
    pub fn cosine(&self) -> f64 {
        if self.squared_x == 0.0 && self.squared_y == 0.0 {
            1.0
        } else if self.squared_x == 0.0 || self.squared_y == 0.0 {
            0.0
        } else {
            self.product / (self.squared_x.sqrt() * self.squared_y.sqrt())
        }
    }

    /// Error relative to the values, as norms; 0 without error, infinite if the values are zero and
    /// the approximation is not.
    pub fn relative(&self) -> f64 {
        if self.squared_error == 0.0 { 0.0 } else { (self.squared_error / self.squared_x).sqrt() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up() {
        let x: Vec<f32> = (0..100).map(|i| i as f32 - 50.0).collect();
        let y: Vec<f32> = x.iter().map(|v| v + 0.25).collect();
        let mut parts = ErrorStats::of(&x[..40], &y[..40]);
        parts.merge(&ErrorStats::of(&x[40..], &y[40..]));
        assert_eq!(parts, ErrorStats::of(&x, &y));
        assert_eq!(
            (parts.mse(), parts.rmse(), parts.max_abs(), parts.count()),
            (0.0625, 0.25, 0.25, 100)
        );
    }

    #[test]
    fn degenerate_cases() {
        let none = ErrorStats::default();
        assert_eq!(
            (none.mse(), none.snr_db(), none.cosine(), none.relative()),
            (0.0, f64::INFINITY, 1.0, 0.0)
        );
        let zero = ErrorStats::of(&[0.0], &[1.0]);
        assert_eq!(
            (zero.cosine(), zero.relative(), zero.snr_db()),
            (0.0, f64::INFINITY, f64::NEG_INFINITY)
        );
        let nan = ErrorStats::of(&[1.0, f32::NAN, 2.0], &[1.0, 0.0, 1.0]);
        assert!(nan.mse().is_nan() && nan.cosine().is_nan());
    }
}
