//! Operations on the processor: the suite of every device, more shapes, rows against themselves in other company.

mod common;

use common::{Place, attend, chain, close, matrix, product};
use proptest::prelude::*;
use tensor::kv::{ContiguousKvCache, KvCache, KvError, KvLayout, SeqId};
use tensor::{Activations, AttentionAlgorithm, AttentionSpec, Compute, DType, Tensor};

fn processor() -> Option<Place> {
    Some(Place { compute: Compute::cpu(), slack: 1.0 })
}

common::suite!(processor);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn linear_is_the_product(m in 1usize..20, n in 1usize..40, k in 1usize..300, seed: u32) {
        let (x, w, b) = (matrix(m, k, seed), matrix(n, k, seed ^ 1), matrix(1, n, seed ^ 2));
        let y = Compute::cpu().linear(&x, &w, Some(&b)).unwrap();
        let mut want = product(x.as_f32().unwrap(), w.as_f32().unwrap(), k);
        for row in want.chunks_mut(n) {
            row.iter_mut().zip(b.as_f32().unwrap()).for_each(|(y, b)| *y += f64::from(*b));
        }
        close(y.as_f32().unwrap(), &want, 1e-5);
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
fn attention_follows_its_formula_for_every_kind_of_cache() {
    let n = 150;
    for (heads, kv_heads, dim, window, softcap) in [
        (4, 2, 32, None, None),
        (6, 2, 24, Some(20), None),
        (2, 2, 64, None, Some(5.0)),
        (3, 1, 8, Some(70), Some(2.0)),
    ] {
        let spec = AttentionSpec {
            n_heads: heads,
            n_kv_heads: kv_heads,
            head_dim: dim,
            scale: 0.7,
            softcap,
            window,
        };
        let (q, k, v) =
            (matrix(n, heads * dim, 1), matrix(n, kv_heads * dim, 2), matrix(n, kv_heads * dim, 3));
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
            let layout = KvLayout { layers: 1, n_kv_heads: kv_heads, head_dim: dim, dtype };
            if layout.check() == Err(KvError::PartialBlock { dtype, head_dim: dim }) {
                assert!(!dim.is_multiple_of(32));
                continue;
            }
            // Over Q8_0 keys the query is rounded to int8 as well.
            let tolerance = if dtype == DType::Q8_0 { 1e-2 } else { 2e-5 };
            let mut cache = ContiguousKvCache::new(layout.clone(), n).unwrap();
            let seq = SeqId(7);
            cache.reserve(seq, n).unwrap();
            cache.write(0, seq, 0, k.as_f32().unwrap(), v.as_f32().unwrap()).unwrap();
            let stored = |t: &Tensor| -> Vec<f64> {
                let mut bytes = vec![0; n * layout.slot_bytes()];
                layout.store(t.as_f32().unwrap(), &mut bytes).unwrap();
                let mut decoded = vec![0.0; n * layout.width()];
                blocks::decode(dtype, &bytes, &mut decoded).unwrap();
                decoded.into_iter().map(f64::from).collect()
            };
            let (ks, vs) = (stored(&k), stored(&v));
            let all = Compute::cpu().attention(&q, &spec, &cache, 0, &chain(seq, 0..n)).unwrap();
            for i in [0, 1, 63, 64, 65, n - 1] {
                let width = kv_heads * dim;
                let row = &q.as_f32().unwrap()[i * heads * dim..(i + 1) * heads * dim];
                let want = attend(row, &ks[..(i + 1) * width], &vs[..(i + 1) * width], &spec);
                let got = all.slice_rows(i..i + 1).unwrap();
                close(got.as_f32().unwrap(), &want, tolerance);
                let naive = Compute::cpu().with_attention(AttentionAlgorithm::Naive);
                let (q, row) = (q.slice_rows(i..i + 1).unwrap(), &chain(seq, i..i + 1));
                let simple = naive.attention(&q, &spec, &cache, 0, row).unwrap();
                close(simple.as_f32().unwrap(), &want, 2e-5);
                // Alone, the same bits.
                let alone = Compute::cpu().with_threads(3);
                let one = alone.attention(&q, &spec, &cache, 0, row);
                assert_eq!(one.unwrap().as_f32().unwrap(), got.as_f32().unwrap());
            }
        }
    }
}
