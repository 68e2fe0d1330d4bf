//! Operations against plain f64 formulas, and rows against themselves in other company.

use proptest::prelude::*;
use tensor::kv::{ContiguousKvCache, KvCache, KvError, KvLayout, SeqId};
use tensor::{
    Activations, AttentionAlgorithm, AttentionRow, AttentionSpec, Compute, DType, Rope, RopeLayout,
    Tensor,
};

/// Deterministic elements in -1..1.
fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn matrix(rows: usize, cols: usize, seed: u32) -> Tensor {
    Tensor::from_vec([rows, cols], noise(rows * cols, seed)).unwrap()
}

fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        assert!((f64::from(*g) - w).abs() <= tolerance * (1.0 + w.abs()), "{i}: {g} {w}");
    }
}

/// `x W^T` in f64.
fn product(x: &[f32], w: &[f32], k: usize) -> Vec<f64> {
    let dot =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

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
fn embeddings_are_rows_of_the_table() {
    let table = matrix(7, 64, 3).to_dtype(DType::Q8_0).unwrap();
    let rows = Compute::cpu().embedding(&table, &[6, 0, 6]).unwrap();
    let all = table.to_f32().unwrap();
    let all = all.as_f32().unwrap();
    assert_eq!(rows.as_f32().unwrap(), [&all[6 * 64..], &all[..64], &all[6 * 64..]].concat());
    assert!(Compute::cpu().embedding(&table, &[7]).is_err());
}

#[test]
fn norms_follow_their_formulas() {
    let (x, w, b) = (matrix(3, 40, 5), matrix(1, 40, 6), matrix(1, 40, 7));
    let c = Compute::cpu();
    let (xs, ws, bs) = (x.as_f32().unwrap(), w.as_f32().unwrap(), b.as_f32().unwrap());
    let (mut rms, mut layer) = (Vec::new(), Vec::new());
    for row in xs.chunks(40) {
        let row: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
        let mean = row.iter().sum::<f64>() / 40.0;
        let square = row.iter().map(|v| v * v).sum::<f64>() / 40.0;
        for (i, v) in row.iter().enumerate() {
            rms.push(v / (square + 1e-5).sqrt() * (1.0 + f64::from(ws[i])));
            let var = square - mean * mean;
            layer.push((v - mean) / (var + 1e-5).sqrt() * f64::from(ws[i]) + f64::from(bs[i]));
        }
    }
    close(c.rms_norm(&x, &w, 1e-5, 1.0).unwrap().as_f32().unwrap(), &rms, 1e-5);
    close(c.layer_norm(&x, &w, Some(&b), 1e-5).unwrap().as_f32().unwrap(), &layer, 1e-5);
    // A shorter weight normalises each head.
    let head = matrix(1, 10, 8);
    let heads = c.rms_norm(&x, &head, 1e-5, 0.0).unwrap();
    let split = c.rms_norm(&x.reshape([12, 10]).unwrap(), &head, 1e-5, 0.0).unwrap();
    assert_eq!(heads.as_f32().unwrap(), split.as_f32().unwrap());
    assert!(c.rms_norm(&x, &matrix(1, 7, 9), 1e-5, 0.0).is_err());
}

#[test]
fn rotary_pairs_turn_by_their_angles() {
    let (dim, heads, inv_freq) = (8, 2, [1.0, 0.1, 0.01]);
    let positions = [0u32, 3, 1000];
    let x = matrix(3, heads * dim, 4);
    for layout in [RopeLayout::Interleaved, RopeLayout::Half] {
        let rope = Rope::new(&positions, &inv_freq, 1.5, layout);
        let y = Compute::cpu().rope(x.clone(), dim, &rope).unwrap();
        let mut want: Vec<f64> = x.as_f32().unwrap().iter().map(|&v| f64::from(v)).collect();
        for (row, &p) in want.chunks_mut(heads * dim).zip(&positions) {
            for head in row.chunks_mut(dim) {
                for (i, f) in inv_freq.iter().map(|f| f64::from(*f)).enumerate() {
                    let (a, b) = match layout {
                        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
                        _ => (i, i + 3),
                    };
                    let (sin, cos) = (f64::from(p) * f).sin_cos();
                    let (u, v) = (head[a], head[b]);
                    head[a] = 1.5 * (u * cos - v * sin);
                    head[b] = 1.5 * (v * cos + u * sin);
                }
            }
        }
        close(y.as_f32().unwrap(), &want, 1e-4);
    }
}

/// Attention of one row over keys and values `[n, kv_heads * dim]`, in f64.
fn attend(q: &[f32], k: &[f64], v: &[f64], spec: &AttentionSpec) -> Vec<f64> {
    let (dim, width) = (spec.head_dim, spec.n_kv_heads * spec.head_dim);
    let n = k.len() / width;
    let from = spec.window.map_or(0, |w| n.saturating_sub(w));
    let mut out = Vec::new();
    for h in 0..spec.n_heads {
        let at = h / (spec.n_heads / spec.n_kv_heads) * dim;
        let q = &q[h * dim..(h + 1) * dim];
        let scores: Vec<f64> = (from..n)
            .map(|p| {
                let k = &k[p * width + at..][..dim];
                let s = q.iter().zip(k).map(|(a, b)| f64::from(*a) * b).sum::<f64>()
                    * f64::from(spec.scale);
                spec.softcap.map_or(s, |c| f64::from(c) * (s / f64::from(c)).tanh())
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..dim {
            let dot =
                weights.iter().zip(from..).map(|(w, p)| w * v[p * width + at + d]).sum::<f64>();
            out.push(dot / sum);
        }
    }
    out
}

fn chain(seq: SeqId, upto: std::ops::Range<usize>) -> Vec<AttentionRow> {
    upto.map(|i| AttentionRow { seq, prefix: i + 1, branch: Vec::new() }).collect()
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

#[test]
fn a_branch_sees_its_ancestors_and_nothing_else() {
    let spec = AttentionSpec {
        n_heads: 2,
        n_kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        softcap: None,
        window: None,
    };
    let layout = KvLayout { layers: 1, n_kv_heads: 1, head_dim: 16, dtype: DType::F32 };
    let (k, v, q) = (noise(6 * 16, 1), noise(6 * 16, 2), matrix(1, 32, 3));
    let seq = SeqId(0);
    let filled = |slots: &[usize]| {
        let mut c = ContiguousKvCache::new(layout.clone(), 6).unwrap();
        c.reserve(seq, slots.len()).unwrap();
        for (to, &from) in slots.iter().enumerate() {
            c.write(0, seq, to, &k[from * 16..][..16], &v[from * 16..][..16]).unwrap();
        }
        c
    };
    let c = Compute::cpu();
    let tree = filled(&[0, 1, 2, 3, 4, 5]);
    let row = AttentionRow { seq, prefix: 2, branch: vec![3, 5] };
    let branched = c.attention(&q, &spec, &tree, 0, &[row]).unwrap();
    let line = c.attention(&q, &spec, &filled(&[0, 1, 3, 5]), 0, &chain(seq, 3..4)).unwrap();
    assert_eq!(branched.as_f32().unwrap(), line.as_f32().unwrap());
}

#[test]
fn encoders_see_their_own_sequence_in_both_directions() {
    let spec = AttentionSpec {
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 8,
        scale: 0.5,
        softcap: None,
        window: None,
    };
    let (q, k, v) = (matrix(7, 16, 1), matrix(7, 16, 2), matrix(7, 16, 3));
    let c = Compute::cpu();
    let both = c.attention_bidirectional(&q, &k, &v, &spec, &[4, 3]).unwrap();
    for rows in [0..4, 4..7] {
        let part = |t: &Tensor| t.slice_rows(rows.clone()).unwrap();
        let f64s = |t: &Tensor| -> Vec<f64> {
            part(t).as_f32().unwrap().iter().map(|&x| f64::from(x)).collect()
        };
        let want: Vec<f64> = part(&q)
            .as_f32()
            .unwrap()
            .chunks(16)
            .flat_map(|q| attend(q, &f64s(&k), &f64s(&v), &spec))
            .collect();
        close(part(&both).as_f32().unwrap(), &want, 1e-5);
    }
    assert!(c.attention_bidirectional(&q, &k, &v, &spec, &[4, 4]).is_err());
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let c = Compute::cpu();
    let x = matrix(2, 4, 1);
    assert!(c.linear(&x, &matrix(3, 5, 1), None).is_err());
    assert!(c.linear(&x, &matrix(3, 4, 1), Some(&matrix(1, 2, 1))).is_err());
    assert!(c.add(x.clone(), &matrix(1, 3, 1)).is_err());
    assert!(c.mul(x.clone(), &matrix(1, 4, 1)).is_err());
    assert!(c.gated(x.clone(), &matrix(2, 3, 1), tensor::Activation::Silu).is_err());
    assert!(c.rope(x.clone(), 3, &Rope::new(&[0, 1], &[1.0], 1.0, RopeLayout::Half)).is_err());
    assert!(c.rope(x, 4, &Rope::new(&[0], &[1.0], 1.0, RopeLayout::Half)).is_err());
}
