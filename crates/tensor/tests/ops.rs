//! Operations on the processor: the suite of every device, more shapes, rows against themselves in other company.

mod common;

use common::{Attended, Place, close, matrix, product};
use proptest::prelude::*;
use tensor::{Activations, AttentionAlgorithm, Compute, DType};

fn processor() -> Option<Place> {
    Some(Place { compute: Compute::cpu(), slack: 1.0 })
}

common::suite!(processor);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_is_the_product(m in 1usize..20, n in 1usize..40, k in 1usize..300, seed: u32) {
        common::linear_of(&processor().unwrap(), [m, n, k], seed);
    }

    #[test]
    fn a_row_is_the_same_alone_and_in_company(m in 2usize..40, n in 1usize..70, blocks in 1usize..4, seed: u32) {
        let k = blocks * 256;
        let x = matrix(m, k, seed);
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::Q6_K] {
            let w = matrix(n, k, seed ^ 1).to_dtype(dtype).unwrap();
            for activations in [Activations::F32, Activations::Int8] {
                let c = Compute::cpu().with_activations(activations);
                let all = c.linear(&x, &w, None).unwrap();
                for i in [0, m / 2, m - 1] {
                    let one = c.clone().with_threads(1 + i % 3).linear(&x.slice_rows(i..i + 1).unwrap(), &w, None).unwrap();
                    let row = all.slice_rows(i..i + 1).unwrap();
                    prop_assert_eq!(one.as_f32().unwrap(), row.as_f32().unwrap(), "{} {:?} row {}", dtype, activations, i);
                }
            }
        }
    }

    #[test]
    fn exact_activations_give_the_product_with_the_decoded_weight(m in 1usize..5, n in 1usize..20, seed: u32) {
        let x = matrix(m, 256, seed);
        for &dtype in DType::ALL {
            let Ok(w) = matrix(n, 256, seed ^ 1).to_dtype(dtype) else { continue };
            if !dtype.is_float() && !dtype.is_quantized() {
                continue;
            }
            let y = Compute::cpu().with_activations(Activations::F32).linear(&x, &w, None).unwrap();
            let decoded = w.to_f32().unwrap();
            let want = product(x.as_f32().unwrap(), decoded.as_f32().unwrap(), 256);
            close(y.as_f32().unwrap(), &want, 2e-5);
        }
    }
}

#[test]
fn naive_attention_agrees_and_a_row_alone_has_the_same_bits() {
    common::over_caches(
        &processor().unwrap(),
        &mut |Attended { spec, cache, q, row, want, got }| {
            let naive = Compute::cpu().with_attention(AttentionAlgorithm::Naive);
            let simple = naive.attention(&q, spec, cache, 0, row).unwrap();
            close(simple.as_f32().unwrap(), &want, 2e-5);
            let alone = Compute::cpu().with_threads(3).attention(&q, spec, cache, 0, row).unwrap();
            assert_eq!(alone.as_f32().unwrap(), got);
        },
    );
}
