//! What the benchmarks share: inputs that are the same on every run and machine.
#![forbid(unsafe_code)]

/// `n` floats that look like a layer's weights: a bell shape, standard deviation 0.02, no outliers.
///
/// Sums of twelve uniform numbers from a 64-bit LCG (Knuth's constants), so that no crate is needed.
///
/// ```
/// let w = benches::weights(4096);
/// let mean = w.iter().sum::<f32>() / 4096.0;
/// assert!(mean.abs() < 1e-3);
/// assert_eq!(w[..8], benches::weights(8)[..]);
/// ```
pub fn weights(n: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| 0.02 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect()
}
