//! One pass over the values of each tensor: range, moments, a fine histogram, NaN and infinities.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use blocks::DType;
use gguf::{Gguf, TensorInfo};
use indicatif::{ProgressBar, ProgressStyle};

/// Values that are decoded at a time: what fits into the first-level cache.
const CHUNK: usize = 4096;
/// Bits of an f32 that choose the bucket: sign, exponent and five of the mantissa, so that a
/// bucket is 1/32 of its values wide and the range need not be known beforehand.
const BUCKET_BITS: u32 = 14;
const BUCKET_SHIFT: u32 = 32 - BUCKET_BITS;
const BUCKETS: usize = 1 << BUCKET_BITS;

/// What the values of a tensor, or of several, are like.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    /// Finite values.
    pub(crate) finite: u64,
    /// Values that are not finite.
    pub(crate) nan: u64,
    pub(crate) infinite: u64,
    /// The position of the first of them.
    pub(crate) first_bad: Option<usize>,
    /// Of the finite values.
    pub(crate) min: f32,
    pub(crate) max: f32,
    pub(crate) sum: f64,
    pub(crate) sum_of_squares: f64,
    /// Finite values by their leading bits; only buckets that have some.
    buckets: BTreeMap<u16, u64>,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            finite: 0,
            nan: 0,
            infinite: 0,
            first_bad: None,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            sum: 0.0,
            sum_of_squares: 0.0,
            buckets: BTreeMap::new(),
        }
    }
}

impl Summary {
    fn add(&mut self, values: &[f32], at: usize, buckets: &mut [u64]) {
        for (i, &v) in values.iter().enumerate() {
            if !v.is_finite() {
                self.first_bad.get_or_insert(at + i);
                *if v.is_nan() { &mut self.nan } else { &mut self.infinite } += 1;
                continue;
            }
            self.finite += 1;
            self.min = self.min.min(v);
            self.max = self.max.max(v);
            self.sum += f64::from(v);
            self.sum_of_squares += f64::from(v) * f64::from(v);
            buckets[(v.to_bits() >> BUCKET_SHIFT) as usize] += 1;
        }
    }

    /// Takes in another summary, of other values.
    pub(crate) fn merge(&mut self, other: &Summary) {
        self.finite += other.finite;
        self.nan += other.nan;
        self.infinite += other.infinite;
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        self.sum += other.sum;
        self.sum_of_squares += other.sum_of_squares;
        for (&bucket, n) in &other.buckets {
            *self.buckets.entry(bucket).or_default() += n;
        }
    }

    /// The mean of the finite values.
    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.finite as f64
    }

    /// The root of the mean square of the finite values.
    pub(crate) fn rms(&self) -> f64 {
        (self.sum_of_squares / self.finite as f64).sqrt()
    }

    /// Shares of the values in `bins` bins of equal width from the least to the largest value.
    ///
    /// A bucket that lies across bins is divided among them by length.
    pub(crate) fn histogram(&self, bins: usize) -> Vec<f64> {
        let mut shares = vec![0.0; bins];
        let (min, max) = (f64::from(self.min), f64::from(self.max));
        let width = (max - min) / bins as f64;
        for (&bucket, &n) in &self.buckets {
            let edge = |bits: u32| f64::from(f32::from_bits(bits)).clamp(min, max);
            let near = edge(u32::from(bucket) << BUCKET_SHIFT);
            let far = edge((u32::from(bucket) << BUCKET_SHIFT) | ((1 << BUCKET_SHIFT) - 1));
            let (low, high) = if near <= far { (near, far) } else { (far, near) };
            let share = n as f64 / self.finite as f64;
            let bin = |v: f64| (((v - min) / width) as usize).min(bins - 1);
            let (first, last) = (bin(low), bin(high));
            for (b, sum) in shares.iter_mut().enumerate().take(last + 1).skip(first) {
                let from = low.max(min + b as f64 * width);
                let to = if b == last { high } else { min + (b + 1) as f64 * width };
                *sum += if first == last { share } else { share * (to - from) / (high - low) };
            }
        }
        shares
    }
}

/// The summaries of all tensors, in their order, computed on all cores.
pub(crate) fn of_all(file: &Gguf) -> anyhow::Result<Vec<Summary>> {
    let tensors = file.tensors();
    let bar = ProgressBar::new(tensors.iter().map(|t| t.size as u64).sum());
    let style = "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    bar.set_style(ProgressStyle::with_template(style).context("a template of ours")?);

    let next = AtomicUsize::new(0);
    let done = Mutex::new(vec![None; tensors.len()]);
    let work = || -> anyhow::Result<()> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let Some(t) = tensors.get(i) else { return Ok(()) };
            let summary = of(file, t, &bar)?;
            done.lock().expect("no thread panics while it holds this")[i] = Some(summary);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles.into_iter().try_for_each(|h| h.join().expect("decoding does not panic"))
    })?;
    bar.finish_and_clear();
    let done = done.into_inner().expect("no thread panics while it holds this");
    Ok(done.into_iter().map(|s| s.expect("every tensor was taken")).collect())
}

fn of(file: &Gguf, t: &TensorInfo, bar: &ProgressBar) -> anyhow::Result<Summary> {
    let mut summary = Summary::default();
    let mut buckets = vec![0; BUCKETS];
    // Block lengths are divisors of the chunk.
    let step = CHUNK / t.dtype.block_len() * t.dtype.block_bytes();
    let mut values = vec![0f32; CHUNK];
    for (i, bytes) in file.data(t).chunks(step).enumerate() {
        let n = bytes.len() / t.dtype.block_bytes() * t.dtype.block_len();
        let values = &mut values[..n];
        blocks::decode(t.dtype, bytes, values).with_context(|| format!("tensor '{}'", t.name))?;
        if t.dtype == DType::F64 {
            saturate(bytes, values);
        }
        summary.add(values, i * CHUNK, &mut buckets);
        bar.inc(bytes.len() as u64);
    }
    let buckets = (0..).zip(buckets).filter(|(_, n)| *n > 0);
    Ok(Summary { buckets: buckets.collect(), ..summary })
}

/// Brings finite f64 values that are infinite as f32 back into the range.
fn saturate(bytes: &[u8], values: &mut [f32]) {
    for (b, v) in bytes.chunks_exact(8).zip(values) {
        let exact = f64::from_le_bytes(b.try_into().expect("chunks of 8"));
        if exact.is_finite() {
            *v = v.clamp(f32::MIN, f32::MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_values(values: &[f32]) -> Summary {
        let mut s = Summary::default();
        let mut buckets = vec![0; BUCKETS];
        s.add(values, 0, &mut buckets);
        s.buckets = (0..).zip(buckets).filter(|(_, n)| *n > 0).collect();
        s
    }

    #[test]
    fn moments_and_what_is_not_finite() {
        let mut s = of_values(&[1.0, -3.0, f32::NAN, 2.0, f32::INFINITY]);
        s.merge(&of_values(&[4.0]));
        assert_eq!((s.min, s.max, s.finite, s.nan, s.infinite), (-3.0, 4.0, 4, 1, 1));
        assert_eq!((s.mean(), s.rms(), s.first_bad), (1.0, 7.5f64.sqrt(), Some(2)));
    }

    #[test]
    fn a_histogram_is_that_of_the_values() {
        // against exact counting: what a bucket smears is little
        let values: Vec<f32> = (0..20_000).map(|i| (i as f32 / 20_000.0 - 0.3).powi(3)).collect();
        let (min, max) = (values[0], values[19_999]);
        let mut exact = [0.0; 8];
        for v in &values {
            exact[((8.0 * (v - min) / (max - min)) as usize).min(7)] += 1.0 / 20_000.0;
        }
        let got = of_values(&values).histogram(8);
        assert!((got.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        for (g, e) in got.iter().zip(exact) {
            assert!((g - e).abs() < 0.01, "{got:?} {exact:?}");
        }
        assert_eq!(of_values(&[2.5; 7]).histogram(2), [1.0, 0.0]);
        assert_eq!(of_values(&[]).histogram(2), [0.0, 0.0]);
    }
}
