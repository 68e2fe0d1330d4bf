//! The product that is timed is one that is computed.

mod common;

use common::{on_each, poisoned};
use cuda_kernels::Error;
use cuda_kernels::ops::ceilings::{mma_bf16_rate, multiply_ones, product_rate};

#[test]
fn each_repetition_multiplies_what_it_says() {
    on_each(|gpu, name| {
        for (blocks, repetitions) in [(1, 0), (3, 5)] {
            let out = poisoned(gpu, 4 * (blocks * 256 + 1));
            multiply_ones(gpu, blocks, repetitions, &out).unwrap();
            let sums: Vec<f32> = out.download().unwrap();
            let (last, sums) = sums.split_last().unwrap();
            assert!(sums.iter().all(|&x| x == 512.0 * repetitions as f32), "{name}: {sums:?}");
            assert!(last.is_nan(), "{name}: written beyond the end");
        }
        let short = poisoned(gpu, 1023);
        let refused = multiply_ones(gpu, 1, 1, &short);
        assert!(matches!(refused, Err(Error::Length { expected: 1024, got: 1023, .. })), "{name}");
        let (own, most) = (mma_bf16_rate(gpu, 2).unwrap(), product_rate(gpu).unwrap());
        assert!(own > 1e6 && most > 1e6, "{name}: {own:e}, {most:e}");
    });
}
