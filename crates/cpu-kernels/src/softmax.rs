//! Softmax over rows.
use crate::ThreadPool;

/// Softmax of each row of `cols`, in place.
pub fn softmax(_pool: &ThreadPool, x: &mut [f32], cols: usize) {
    for row in x.chunks_exact_mut(cols.max(1)) {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for v in row.iter_mut() {
            *v = (*v - max).exp();
            sum += *v;
        }
        for v in row {
            *v /= sum;
        }
    }
}
