//! Attention against a direct computation in f64.

use blocks::DType;
use cpu_kernels::attention::{AttentionAlgorithm, AttentionConfig, KvRun, QueryRow, attention};
use cpu_kernels::{Isa, KernelError, ThreadPool};
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
        let row = cfg.kv_dtype.bytes_for(width).unwrap();
        Cache { keys, values, keys_f, values_f, row }
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

/// The query as Q8_0 keys meet it: rounded to int8 with a scale for each 32.
fn rounded(cfg: &AttentionConfig, q: &[f32]) -> Vec<f64> {
    let unit = if cfg.softcap.is_some() { 1.0 } else { std::f32::consts::LOG2_E };
    let factor = cfg.scale * unit;
    let blocks = q.chunks(32).flat_map(|q| {
        let x: Vec<f32> = q.iter().map(|x| x * factor).collect();
        let largest = x.iter().fold(0.0f32, |a, x| a.max(x.abs()));
        let back = f64::from(largest / 127.0) / f64::from(factor);
        x.into_iter().map(move |x| f64::from((x * (127.0 / largest)).round_ties_even()) * back)
    });
    blocks.collect()
}

/// Attention of one row in f64 over the cache's decoded content.
fn reference(cfg: &AttentionConfig, cache: &Cache, q: &[f64], from: usize, to: usize) -> Vec<f64> {
    let (hd, kv) = (cfg.head_dim, cfg.n_kv_heads * cfg.head_dim);
    let mut out = Vec::new();
    for h in 0..cfg.n_heads {
        let at = h / (cfg.n_heads / cfg.n_kv_heads) * hd;
        let q = &q[h * hd..][..hd];
        let scores: Vec<f64> = (from..to)
            .map(|p| {
                let k = &cache.keys_f[p * kv + at..][..hd];
                let dot: f64 = q.iter().zip(k).map(|(a, b)| a * f64::from(*b)).sum();
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

/// How much the rounding of a query can change an output: with scores off by at most `e`, weights
/// are off by a factor of at most `e^2e`, and values are at most 2.
fn rounding_bound(cfg: &AttentionConfig, cache: &Cache, q: &[f32]) -> f64 {
    let step = q.iter().fold(0.0f32, |a, x| a.max(x.abs())) / 127.0;
    let keys = cache.keys_f.chunks(cfg.head_dim).map(|k| k.iter().map(|x| x.abs()).sum::<f32>());
    let e = f64::from(cfg.scale * keys.fold(0.0, f32::max) * step / 2.0);
    2.0 * ((2.0 * e).exp() - 1.0) + 5e-6
}

/// Which positions the rows see.
#[derive(Clone, Copy, Debug)]
enum Sight {
    /// Each one more than the row before, at most so many.
    Causal { window: usize },
    /// Any.
    Scattered,
}

struct Case {
    cfg: AttentionConfig,
    len: usize,
    queries: usize,
    /// Where runs are cut, and batches.
    cuts: Vec<usize>,
    chunk: usize,
    sight: Sight,
    seed: u64,
}

fn check_case(case: &Case) {
    let &Case { ref cfg, len, ref cuts, chunk, sight, seed, .. } = case;
    let mut rng = StdRng::seed_from_u64(seed);
    let cache = Cache::new(&mut rng, cfg, len);
    let (whole, cut) = (cache.runs(&[]), cache.runs(cuts));
    let width = cfg.n_heads * cfg.head_dim;
    let queries = case.queries.min(len);
    let q = random(&mut rng, queries * width, 2.0);
    let seen: Vec<(usize, usize)> = (0..queries)
        .map(|i| match sight {
            Sight::Causal { window } => {
                let to = len - queries + i + 1;
                (to.saturating_sub(window), to)
            }
            Sight::Scattered => {
                let from = rng.random_range(0..len);
                (from, rng.random_range(from..len) + 1)
            }
        })
        .collect();
    fn rows_of<'a>(runs: &'a [KvRun<'a>], seen: &[(usize, usize)]) -> Vec<QueryRow<'a>> {
        seen.iter().map(|&(from, to)| QueryRow { runs, from, to }).collect()
    }
    let run = |cfg: &AttentionConfig, isa, threads, q: &[f32], rows: &[QueryRow<'_>]| {
        let mut out = vec![f32::NAN; q.len()];
        attention(&ThreadPool::new(threads), isa, cfg, q, rows, &mut out).unwrap();
        out
    };
    let exact: Vec<f64> = q.iter().map(|&x| f64::from(x)).collect();
    let quantized = cfg.kv_dtype.is_quantized();
    let as_used = if quantized { rounded(cfg, &q) } else { exact.clone() };
    let references = |q: &[f64]| -> Vec<f64> {
        let rows = q.chunks(width).zip(&seen);
        rows.flat_map(|(q, &(from, to))| reference(cfg, &cache, q, from, to)).collect()
    };
    let close = |got: &[f32], want: &[f64], tolerance: f64, what: &str| {
        for (i, (got, want)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*got) - want).abs();
            let row = i / width;
            assert!(error < tolerance, "{what} {cfg:?} row {row}: {got}, {want}");
        }
    };
    let (want, want_exact) = (references(&as_used), references(&exact));
    let naive = AttentionConfig { algorithm: AttentionAlgorithm::Naive, ..*cfg };
    close(&run(&naive, Isa::Portable, 2, &q, &rows_of(&cut, &seen)), &want_exact, 2e-5, "naive");
    for isa in Isa::supported() {
        let out = run(cfg, isa, 1, &q, &rows_of(&whole, &seen));
        close(&out, &want, 5e-6, isa.name());
        if quantized {
            close(&out, &want_exact, rounding_bound(cfg, &cache, &q), isa.name());
        }
        for threads in [2, 3] {
            assert_eq!(run(cfg, isa, threads, &q, &rows_of(&whole, &seen)), out, "{threads}");
        }
        // In other batches, with the same keys in other runs.
        for (chunk, threads) in [(chunk, 2), (1, 1), (1, 2)] {
            let chunks = q.chunks(chunk * width).zip(seen.chunks(chunk));
            let parts = chunks.map(|(q, seen)| run(cfg, isa, threads, q, &rows_of(&cut, seen)));
            let parts: Vec<f32> = parts.flatten().collect();
            assert_eq!(parts, out, "{isa} {cfg:?} {sight:?}, runs cut at {cuts:?}, {chunk} rows");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn agrees_with_f64_whatever_the_batch_and_the_runs(
        dtype in prop::sample::select(&[DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0][..]),
        n_kv_heads in 1..4usize,
        shared in 1..9usize,
        head_dim in prop_oneof![Just(64usize), Just(128), 1..140usize],
        softcap in prop_oneof![Just(None), Just(Some(3.0f32))],
        len in prop_oneof![1..300usize, 500..800usize],
        queries in 1..40usize,
        cuts in prop_oneof![
            prop::collection::vec(any::<usize>(), 0..12),
            Just((0..50).map(|page| 16 * page).collect()),
        ],
        chunk in 1..20usize,
        sight in prop_oneof![
            Just(Sight::Causal { window: usize::MAX }),
            (1..400usize).prop_map(|window| Sight::Causal { window }),
            Just(Sight::Scattered),
        ],
        seed in any::<u64>(),
    ) {
        let head_dim =
            if dtype.is_quantized() { head_dim.next_multiple_of(32) } else { head_dim };
        let cfg = AttentionConfig {
            n_heads: n_kv_heads * shared,
            n_kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            softcap,
            kv_dtype: dtype,
            algorithm: AttentionAlgorithm::Tiled,
        };
        check_case(&Case { cfg, len, queries, cuts, chunk, sight, seed });
    }
}

#[test]
fn algorithms_have_names() {
    for &algorithm in AttentionAlgorithm::ALL {
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
    }
    assert!("flash".parse::<AttentionAlgorithm>().is_err());
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
        for &algorithm in AttentionAlgorithm::ALL {
            let cfg = AttentionConfig { algorithm, ..cfg };
            let mut out = [0.0; 32];
            attention(&ThreadPool::new(1), isa, &cfg, &[1.0; 32], &rows, &mut out).unwrap();
            assert_eq!(out[..16], [1.0; 16]);
            assert!(out[16..].iter().all(|v| v.is_nan()));
        }
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
    let dtype = AttentionConfig { kv_dtype: DType::Q4_1, ..cfg };
    assert!(matches!(run(&dtype, &runs, 0, 3, 32), Err(KernelError::UnsupportedDType { .. })));
    let blocks = AttentionConfig { kv_dtype: DType::Q8_0, ..cfg };
    assert!(matches!(run(&blocks, &runs, 0, 3, 32), Err(KernelError::PartialBlock { .. })));
}
