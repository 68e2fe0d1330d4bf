//! Attention against a direct computation in f64.

use super::*;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Keys and values of one sequence, encoded, with their decoded values.
struct Cache {
    keys: Vec<u8>,
    values: Vec<u8>,
    keys_f: Vec<f32>,
    values_f: Vec<f32>,
    row: usize,
}

fn random(rng: &mut StdRng, n: usize, size: f32) -> Vec<f32> {
    (0..n).map(|_| rng.random_range(-size..size)).collect()
}

impl Cache {
    fn new(rng: &mut StdRng, cfg: &AttentionConfig, len: usize) -> Cache {
        let width = cfg.n_kv_heads * cfg.head_dim;
        let mut part = || {
            let x = random(rng, len * width, 2.0);
            let mut bytes = vec![0; cfg.kv_dtype.bytes_for(x.len()).unwrap()];
            blocks::encode(cfg.kv_dtype, &x, width, None, &mut bytes).unwrap();
            let mut decoded = vec![0.0; x.len()];
            blocks::decode(cfg.kv_dtype, &bytes, &mut decoded).unwrap();
            (bytes, decoded)
        };
        let ((keys, keys_f), (values, values_f)) = (part(), part());
        Cache { keys, values, keys_f, values_f, row: width * cfg.kv_dtype.block_bytes() }
    }

    /// The positions cut into runs at `cuts`.
    fn runs(&self, cuts: &[usize]) -> Vec<KvRun<'_>> {
        let len = self.keys.len() / self.row;
        let mut ends: Vec<usize> = cuts.iter().map(|c| c % (len + 1)).collect();
        ends.push(len);
        ends.sort_unstable();
        let mut start = 0;
        let mut runs = Vec::new();
        for end in ends {
            let bytes = start * self.row..end * self.row;
            let (keys, values) = (&self.keys[bytes.clone()], &self.values[bytes]);
            runs.push(KvRun { keys, values, len: end - start });
            start = end;
        }
        runs
    }
}

fn reference(cfg: &AttentionConfig, cache: &Cache, q: &[f32], from: usize, to: usize) -> Vec<f64> {
    let (hd, kv) = (cfg.head_dim, cfg.n_kv_heads * cfg.head_dim);
    let mut out = Vec::new();
    for h in 0..cfg.n_heads {
        let at = h / (cfg.n_heads / cfg.n_kv_heads) * hd;
        let q = &q[h * hd..][..hd];
        let scores: Vec<f64> = (from..to)
            .map(|p| {
                let k = &cache.keys_f[p * kv + at..][..hd];
                let dot: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                let score = dot * f64::from(cfg.scale);
                cfg.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            })
            .collect();
        let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = weights.iter().sum();
        for d in 0..hd {
            let v = |i: usize| f64::from(cache.values_f[(from + i) * kv + at + d]);
            out.push(weights.iter().enumerate().map(|(i, w)| w * v(i)).sum::<f64>() / sum);
        }
    }
    out
}

fn check_case(
    cfg: &AttentionConfig,
    len: usize,
    queries: usize,
    cuts: &[usize],
    window: usize,
    seed: u64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let cache = Cache::new(&mut rng, cfg, len);
    let whole = cache.runs(&[]);
    let cut = cache.runs(cuts);
    let width = cfg.n_heads * cfg.head_dim;
    let queries = queries.min(len);
    let q = random(&mut rng, queries * width, 2.0);
    let row = |i: usize| {
        let to = len - queries + i + 1;
        (to.saturating_sub(window), to)
    };
    let rows_of = |runs| -> Vec<QueryRow<'_>> {
        (0..queries).map(|i| QueryRow { runs, from: row(i).0, to: row(i).1 }).collect()
    };
    for isa in Isa::supported() {
        let mut out = vec![0.0; q.len()];
        attention(&ThreadPool::new(3), isa, cfg, &q, &rows_of(&whole), &mut out).unwrap();
        for (i, (q, out)) in q.chunks(width).zip(out.chunks(width)).enumerate() {
            let (from, to) = row(i);
            for (got, want) in out.iter().zip(reference(cfg, &cache, q, from, to)) {
                let error = (f64::from(*got) - want).abs();
                assert!(error < 5e-6, "{isa} {cfg:?} row {i}: {got}, {want}");
            }
            // Alone, with the same keys in other runs, on one thread.
            let mut alone = vec![0.0; width];
            let one = [QueryRow { runs: &cut, from, to }];
            attention(&ThreadPool::new(1), isa, cfg, q, &one, &mut alone).unwrap();
            assert_eq!(alone, out, "{isa} {cfg:?} row {i}, runs cut at {cuts:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn agrees_with_f64_whatever_the_batch_and_the_runs(
        dtype in prop::sample::select(&[DType::F32, DType::F16, DType::BF16][..]),
        n_kv_heads in 1..4usize,
        shared in 1..5usize,
        head_dim in prop_oneof![Just(64usize), Just(128), 1..140usize],
        softcap in prop_oneof![Just(None), Just(Some(3.0f32))],
        len in 1..300usize,
        queries in 1..100usize,
        cuts in prop::collection::vec(any::<usize>(), 0..12),
        window in prop_oneof![Just(usize::MAX), 1..200usize],
        seed in any::<u64>(),
    ) {
        let cfg = AttentionConfig {
            n_heads: n_kv_heads * shared,
            n_kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap,
            kv_dtype: dtype,
            algorithm: AttentionAlgorithm::Tiled,
        };
        check_case(&cfg, len, queries, &cuts, window, seed);
    }
}

#[test]
fn what_a_row_does_not_see_cannot_touch_it() {
    let cfg = AttentionConfig {
        n_heads: 1,
        n_kv_heads: 1,
        head_dim: 16,
        scale: 0.25,
        softcap: None,
        kv_dtype: DType::F32,
        algorithm: AttentionAlgorithm::Tiled,
    };
    let mut kv = vec![1.0f32; 4 * 16];
    kv[2 * 16..].fill(f32::NAN);
    let bytes: &[u8] = bytemuck::cast_slice(&kv);
    let runs = [KvRun { keys: bytes, values: bytes, len: 4 }];
    let rows = [QueryRow { runs: &runs, from: 0, to: 2 }, QueryRow { runs: &runs, from: 0, to: 4 }];
    for isa in Isa::supported() {
        let mut out = [0.0; 32];
        attention(&ThreadPool::new(1), isa, &cfg, &[1.0; 32], &rows, &mut out).unwrap();
        assert_eq!(out[..16], [1.0; 16]);
        assert!(out[16..].iter().all(|v| v.is_nan()));
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let cfg = AttentionConfig {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 8,
        scale: 1.0,
        softcap: None,
        kv_dtype: DType::F16,
        algorithm: AttentionAlgorithm::Tiled,
    };
    let bytes = vec![0u8; 3 * 2 * 8 * 2];
    let runs = [KvRun { keys: &bytes, values: &bytes, len: 3 }];
    let run = |cfg: &AttentionConfig, runs: &[KvRun<'_>], from, to, len: usize| {
        let rows = [QueryRow { runs, from, to }];
        let mut out = vec![0.0; len];
        attention(&ThreadPool::new(1), Isa::Portable, cfg, &vec![0.0; len], &rows, &mut out)
    };
    assert_eq!(run(&cfg, &runs, 0, 3, 32), Ok(()));
    assert!(matches!(run(&cfg, &runs, 0, 4, 32), Err(KernelError::Positions { .. })));
    assert!(matches!(run(&cfg, &runs, 1, 1, 32), Err(KernelError::Positions { .. })));
    assert!(matches!(run(&cfg, &[], 0, 1, 32), Err(KernelError::Positions { .. })));
    assert!(matches!(run(&cfg, &runs, 0, 3, 31), Err(KernelError::Length { .. })));
    let long = [KvRun { len: 4, ..runs[0] }];
    assert!(matches!(run(&cfg, &long, 0, 3, 32), Err(KernelError::Length { .. })));
    let heads = AttentionConfig { n_kv_heads: 3, ..cfg };
    assert!(matches!(run(&heads, &runs, 0, 3, 32), Err(KernelError::Heads { .. })));
    let dtype = AttentionConfig { kv_dtype: DType::Q4_0, ..cfg };
    assert!(matches!(run(&dtype, &runs, 0, 3, 32), Err(KernelError::UnsupportedDType { .. })));
    let blocks = AttentionConfig { kv_dtype: DType::Q8_0, ..cfg };
    assert!(matches!(run(&blocks, &runs, 0, 3, 32), Err(KernelError::PartialBlock { .. })));
}
