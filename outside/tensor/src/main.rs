//! A gated feed-forward layer, with its weights in f32 and in Q4_K.

use tensor::{Activation, Compute, DType, Tensor};

/// Numbers between -1 and 1 without a pattern that a product could cancel.
fn matrix(rows: usize, cols: usize, seed: u32) -> Result<Tensor, tensor::Error> {
    let number = |i: usize| {
        let hash = (i as u32 ^ seed).wrapping_mul(0x9e37_79b1);
        let hash = (hash ^ hash >> 15).wrapping_mul(0x85eb_ca77);
        (hash >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    Tensor::from_vec([rows, cols], (0..rows * cols).map(number).collect())
}

fn feed_forward(c: &Compute, x: &Tensor, w: &[Tensor; 3]) -> Result<Tensor, tensor::Error> {
    let ones = Tensor::from_vec([x.cols()], vec![1.0; x.cols()])?;
    let x = c.rms_norm(x, &ones, 1e-6, 0.0)?;
    let gate = c.linear(&x, &w[0], None)?;
    let up = c.linear(&x, &w[1], None)?;
    c.linear(&c.gated(gate, &up, Activation::Silu)?, &w[2], None)
}

fn main() -> Result<(), tensor::Error> {
    let c = Compute::cpu();
    println!("device {:?}, {:?}, {} threads", c.device(), c.isa(), c.pool().threads());
    let x = matrix(4, 256, 1)?;
    let plain =
        [matrix(512, 256, 2 << 24)?, matrix(512, 256, 3 << 24)?, matrix(256, 512, 4 << 24)?];
    let quantized = [
        plain[0].to_dtype(DType::Q4_K)?,
        plain[1].to_dtype(DType::Q4_K)?,
        plain[2].to_dtype(DType::Q4_K)?,
    ];

    let y = feed_forward(&c, &x, &plain)?.into_vec()?;
    let q = feed_forward(&c, &x, &quantized)?.into_vec()?;
    let signal: f32 = y.iter().map(|v| v * v).sum();
    let noise: f32 = y.iter().zip(&q).map(|(a, b)| (a - b) * (a - b)).sum();
    let bytes = |w: &[Tensor]| w.iter().map(Tensor::byte_len).sum::<usize>();
    println!("f32 {} bytes, Q4_K {} bytes", bytes(&plain), bytes(&quantized));
    println!("signal to noise {:.1} dB", 10.0 * (signal / noise).log10());
    assert!(noise < 0.02 * signal);
    Ok(())
}
