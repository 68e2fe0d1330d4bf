//! Normalisation.
use crate::ThreadPool;

/// RMSNorm over rows as long as the weight.
pub fn rms_norm(
    _pool: &ThreadPool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    offset: f32,
    out: &mut [f32],
) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let mean = x.iter().map(|v| f64::from(v * v)).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean as f32 + eps).sqrt();
        for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
            *o = v * scale * (w + offset);
        }
    }
}

/// LayerNorm over rows as long as the weight.
pub fn layer_norm(
    _pool: &ThreadPool,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let n = x.len() as f64;
        let mean = x.iter().map(|v| f64::from(*v)).sum::<f64>() / n;
        let var = x.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / n;
        let scale = 1.0 / (var as f32 + eps).sqrt();
        for (((o, v), w), b) in out.iter_mut().zip(x).zip(weight).zip(bias) {
            *o = (v - mean as f32) * scale * w + b;
        }
    }
}
