//! Several products with the same activations as one job.

use blocks::DType;
use cpu_kernels::matmul::{Activations, Layout, Product, Weight, matmul_bias, matmuls};
use cpu_kernels::{Isa, ThreadPool};

const ACTIVATIONS: [Activations; 3] = [Activations::F32, Activations::Int8, Activations::Bf16];

fn noise(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + seed).sin() * 0.5).collect()
}

/// Of types that take activations alike and otherwise.
#[test]
fn products_together_have_the_bits_of_each_alone() {
    use DType::*;
    let sets = [[Q4_K, Q4_K, Q6_K], [Q8_0, BF16, Q4_0], [F16, F32, Q5_K], [BF16, BF16, F16]];
    let pools = [ThreadPool::new(1), ThreadPool::new(3)];
    let (cols, rows) = (512, [130, 32, 49]);
    let bias = noise(rows[2], 1.0);
    for (set, m) in sets.into_iter().flat_map(|set| [1, 5, 20].map(|m| (set, m))) {
        let x = noise(m * cols, 2.0);
        let bytes = [0, 1, 2].map(|i| {
            let mut bytes = vec![0; set[i].bytes_for(rows[i] * cols).unwrap()];
            let numbers = noise(rows[i] * cols, 3.0 + i as f32);
            blocks::encode(set[i], &numbers, cols, None, &mut bytes).unwrap();
            bytes
        });
        let weight = |i: usize| {
            let layout = Layout::Rows;
            Weight { dtype: set[i], rows: rows[i], cols, bytes: &bytes[i], layout }
        };
        for isa in Isa::supported() {
            for act in ACTIVATIONS {
                let alone = [0, 1, 2].map(|i| {
                    let mut out = vec![f32::NAN; m * rows[i]];
                    let bias = (i == 2).then_some(&bias[..]);
                    matmul_bias(&pools[0], isa, &weight(i), bias, &x, act, &mut out).unwrap();
                    out
                });
                for pool in &pools {
                    let mut outs = rows.map(|rows| vec![f32::NAN; m * rows]);
                    let [a, b, c] = &mut outs;
                    let products = [
                        Product { weight: weight(0), bias: None, out: a },
                        Product { weight: weight(1), bias: None, out: b },
                        Product { weight: weight(2), bias: Some(&bias), out: c },
                    ];
                    matmuls(pool, isa, products, &x, act).unwrap();
                    assert_eq!(outs, alone, "{set:?} of {m} rows on {isa}, {act:?}");
                }
            }
        }
    }
}

#[test]
fn products_that_do_not_fit_together_write_nothing() {
    let pool = ThreadPool::new(1);
    let bytes = [0; 4 * 64];
    let weight = |rows, cols| {
        let bytes = &bytes[..4 * rows * cols];
        Weight { dtype: DType::F32, rows, cols, bytes, layout: Layout::Rows }
    };
    let (mut a, mut b) = ([1.0; 4], [1.0; 4]);
    let products = [
        Product { weight: weight(4, 8), bias: None, out: &mut a },
        Product { weight: weight(4, 16), bias: None, out: &mut b },
    ];
    let isa = Isa::Portable;
    assert!(matmuls(&pool, isa, products, &[0.0; 8], Activations::F32).is_err());
    assert_eq!((a, b), ([1.0; 4], [1.0; 4]));
    assert!(matmuls(&pool, isa, [], &[], Activations::F32).is_ok());
}
