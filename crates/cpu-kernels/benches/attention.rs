//! Attention of the 1.1 B shape (32 query heads, 4 key-value heads of 64) per type of the cache: one
//! row at some depths, over as many caches as a model has layers, so that they come from where a
//! model's would; a prompt of 512; and the naive algorithm beside the tiled one. Throughput is in
//! positions seen times query heads a second. `INFINITY_ISA` and `INFINITY_THREADS` choose the path.

use blocks::DType;
use cpu_kernels::attention::{AttentionAlgorithm, AttentionConfig, KvRun, QueryRow, attention};
use cpu_kernels::{Isa, ThreadPool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;

const HEADS: usize = 32;
const KV_HEADS: usize = 4;
const HEAD_DIM: usize = 64;
const LAYERS: usize = 22;

const TYPES: &[DType] = &[DType::F32, DType::F16, DType::BF16, DType::Q8_0];

fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Calls `body` with a function that computes attention of the last `n_rows` of `len` positions in
/// one layer after the other.
fn with_caches(
    kv_dtype: DType,
    algorithm: AttentionAlgorithm,
    (n_rows, len): (usize, usize),
    body: impl FnOnce(&mut dyn FnMut()),
) {
    let width = KV_HEADS * HEAD_DIM;
    let cfg = AttentionConfig {
        n_heads: HEADS,
        n_kv_heads: KV_HEADS,
        head_dim: HEAD_DIM,
        scale: 0.125,
        softcap: None,
        kv_dtype,
        algorithm,
    };
    let mut kv = vec![0; kv_dtype.bytes_for(len * width).expect("whole blocks")];
    blocks::encode(kv_dtype, &noise(len * width), width, None, &mut kv).expect("whole blocks");
    let layers: Vec<_> = (0..LAYERS).map(|_| (kv.clone(), kv.clone())).collect();
    let runs: Vec<_> = layers.iter().map(|(keys, values)| [KvRun { keys, values, len }]).collect();
    let rows: Vec<Vec<QueryRow<'_>>> = runs
        .iter()
        .map(|runs| {
            let to = len - n_rows + 1;
            (0..n_rows).map(|i| QueryRow { runs, from: 0, to: to + i }).collect()
        })
        .collect();
    let q = noise(n_rows * HEADS * HEAD_DIM);
    let mut out = vec![0.0; q.len()];
    let mut layer = 0;
    body(&mut || {
        let (pool, isa, rows) = (ThreadPool::global(), Isa::active(), &rows[layer % LAYERS]);
        attention(pool, isa, &cfg, black_box(&q), rows, &mut out).expect("lengths agree");
        layer += 1;
    });
}

fn group(c: &mut Criterion, algorithm: AttentionAlgorithm, shape: (usize, usize)) {
    let (n_rows, len) = shape;
    let (isa, threads) = (Isa::active(), ThreadPool::global().threads());
    let name = format!("attention {algorithm} {isa} {threads} threads, {n_rows} rows of {len}");
    let mut group = c.benchmark_group(name);
    let seen = n_rows * (len - n_rows) + n_rows * (n_rows + 1) / 2;
    group.throughput(Throughput::Elements((seen * HEADS) as u64)).sample_size(20);
    for &dtype in TYPES {
        with_caches(dtype, algorithm, shape, |run| {
            group.bench_function(BenchmarkId::from_parameter(dtype), |b| b.iter(&mut *run));
        });
    }
    group.finish();
}

fn attentions(c: &mut Criterion) {
    for shape in [(1, 512), (1, 4096), (16, 4096), (512, 512)] {
        group(c, AttentionAlgorithm::Tiled, shape);
    }
    for shape in [(1, 4096), (64, 512)] {
        group(c, AttentionAlgorithm::Naive, shape);
    }
}

criterion_group!(benches, attentions);
criterion_main!(benches);
