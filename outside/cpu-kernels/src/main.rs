//! Multiplies a Q8_0 matrix by activations with every instruction set that this processor has,
//! alone and in a batch, and compares bits.

use cpu_kernels::matmul::{Activations, Layout, Weight, matmul};
use cpu_kernels::{Isa, ThreadPool};

const ROWS: usize = 100;
const COLS: usize = 256;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Q8_0 by hand: a scale in f16 (0x2c00 is 1/16) and 32 signed bytes.
    let mut bytes = Vec::new();
    for block in 0..ROWS * COLS / 32 {
        bytes.extend(0x2c00u16.to_le_bytes());
        bytes.extend((0..32).map(|i| ((block * 7 + i * 13) % 255) as u8));
    }
    let weight = Weight {
        dtype: "Q8_0".parse()?,
        rows: ROWS,
        cols: COLS,
        bytes: &bytes,
        layout: Layout::Rows,
    };
    let x: Vec<f32> = (0..3 * COLS).map(|i| (i as f32 * 0.1).sin()).collect();
    // The same product, in f64.
    let exact = |row: usize, column: usize| -> f64 {
        let block = |k: usize| &bytes[(row * COLS + k) / 32 * 34..];
        let w = |k: usize| f64::from(block(k)[2 + k % 32] as i8) / 16.0;
        (0..COLS).map(|k| w(k) * f64::from(x[column * COLS + k])).sum()
    };

    for isa in Isa::supported() {
        let mut batch = vec![0.0; 3 * ROWS];
        matmul(&ThreadPool::new(2), isa, &weight, &x, Activations::F32, &mut batch)?;
        let mut alone = vec![0.0; ROWS];
        matmul(&ThreadPool::new(1), isa, &weight, &x[..COLS], Activations::F32, &mut alone)?;
        assert_eq!(alone, batch[..ROWS], "batch and threads change nothing");

        let worst = (0..3 * ROWS)
            .map(|i| (f64::from(batch[i]) - exact(i % ROWS, i / ROWS)).abs())
            .fold(0.0, f64::max);
        println!("{isa:?}: largest difference from f64 {worst:.1e}");
        assert!(worst < 1e-3);
    }
    Ok(())
}
