//! Products per type and layout for one activation row (weights from memory), for a batch of 16 and for
//! a prompt's 512 (weights in cache); the rounding of activations; the repacking of weights; keys and
//! values on their way into a cache. Throughput is in weights times rows, in activations, in bytes and
//! in rows a second. `INFINITY_ISA` and `INFINITY_THREADS` choose the path.

use blocks::DType;
use cpu_kernels::kv_write::{KvRows, KvRunMut, turn_and_store};
use cpu_kernels::matmul::{Activations, Layout, Weight, can_interleave, interleave, matmul};
use cpu_kernels::rope::{RopeLayout, Rotation};
use cpu_kernels::{Isa, ThreadPool};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

const TYPES: &[DType] = &[
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q5_0,
    DType::Q2_K,
    DType::Q3_K,
    DType::Q4_K,
    DType::Q5_K,
    DType::Q6_K,
    DType::IQ4_XS,
    DType::IQ2_XXS,
];

fn noise(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Ordinary numbers in plain types (subnormal ones would be slow); in blocks, bytes below 64, so
/// that no scale is infinite.
fn weights(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    let n = dtype.bytes_for(rows * cols).expect("whole blocks");
    if dtype.is_float() {
        let mut bytes = vec![0; n];
        blocks::encode(dtype, &noise(rows * cols), cols, None, &mut bytes).expect("plain type");
        return bytes;
    }
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8 & 0x3f).collect()
}

fn products(c: &mut Criterion) {
    let (pool, isa) = (ThreadPool::global(), Isa::active());
    for (m, bytes) in [(1, 256 << 20), (16, 4 << 20), (512, 1 << 20)] {
        let mut group = c.benchmark_group(format!("matmul {isa} {} threads m {m}", pool.threads()));
        group.measurement_time(Duration::from_secs(1)).warm_up_time(Duration::from_millis(300));
        group.sample_size(10);
        for &dtype in TYPES {
            let cols = 2048;
            let rows = bytes / dtype.bytes_for(cols).expect("whole blocks") / 64 * 64;
            let data = weights(dtype, rows, cols);
            let w = Weight { dtype, rows, cols, bytes: &data, layout: Layout::Rows };
            let x = noise(m * cols);
            let mut out = vec![0.0; m * rows];
            group.throughput(Throughput::Elements((m * rows * cols) as u64));
            group.bench_function(BenchmarkId::new("rows", dtype), |b| {
                b.iter(|| matmul(pool, isa, &w, black_box(&x), Activations::Int8, &mut out));
            });
            if can_interleave(dtype, cols) {
                let mut packed = vec![0; data.len()];
                interleave(pool, &w, &mut packed).expect("it can be");
                let w = Weight { bytes: &packed, layout: Layout::Interleaved, ..w };
                group.bench_function(BenchmarkId::new("interleaved", dtype), |b| {
                    b.iter(|| matmul(pool, isa, &w, black_box(&x), Activations::Int8, &mut out));
                });
            }
        }
        group.finish();
    }
}

/// A weight of 16 rows leaves little to do but rounding what it is multiplied with.
fn activations(c: &mut Criterion) {
    let (pool, isa) = (ThreadPool::global(), Isa::active());
    let (m, rows, cols) = (512, 16, 5632);
    let mut group = c.benchmark_group(format!("activations {isa} {} threads", pool.threads()));
    group.measurement_time(Duration::from_secs(1)).sample_size(20);
    group.throughput(Throughput::Elements((m * cols) as u64));
    for dtype in [DType::Q8_0, DType::Q4_K] {
        let data = weights(dtype, rows, cols);
        let w = Weight { dtype, rows, cols, bytes: &data, layout: Layout::Rows };
        let x = noise(m * cols);
        let mut out = vec![0.0; m * rows];
        group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
            b.iter(|| matmul(pool, isa, &w, black_box(&x), Activations::Int8, &mut out));
        });
    }
    group.finish();
}

/// 64 MB of weights of a type.
fn repacking(c: &mut Criterion) {
    let pool = ThreadPool::global();
    let mut group = c.benchmark_group(format!("repacking {} threads", pool.threads()));
    group.measurement_time(Duration::from_secs(1)).sample_size(10);
    for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_K, DType::BF16] {
        let cols = 2048;
        let rows = (64 << 20) / dtype.bytes_for(cols).expect("whole blocks") / 16 * 16;
        let data = weights(dtype, rows, cols);
        let w = Weight { dtype, rows, cols, bytes: &data, layout: Layout::Rows };
        let mut out = vec![0; data.len()];
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(dtype), |b| {
            b.iter(|| interleave(pool, &w, black_box(&mut out)).expect("it can be"));
        });
    }
    group.finish();
}

/// Rows of 32 query heads and 4 key-value heads of 64: one as in decoding, 512 as in a prompt.
fn kv_write(c: &mut Criterion) {
    const HEAD: usize = 64;
    let (pool, isa) = (ThreadPool::global(), Isa::active());
    let mut group = c.benchmark_group(format!("kv write {isa} {} threads", pool.threads()));
    group.measurement_time(Duration::from_secs(1)).sample_size(20);
    for n in [1, 512] {
        let (cos, sin) = (noise(n * HEAD / 2), noise(n * HEAD / 2));
        let layout = RopeLayout::Half;
        let turn = Rotation { head_dim: HEAD, rotary_dim: HEAD, layout, cos: &cos, sin: &sin };
        let (mut q, mut k, v) = (noise(n * 32 * HEAD), noise(n * 4 * HEAD), noise(n * 4 * HEAD));
        group.throughput(Throughput::Elements(n as u64));
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::Q8_0] {
            let slots = dtype.bytes_for(n * 4 * HEAD).expect("whole blocks");
            let (mut keys, mut values) = (vec![0; slots], vec![0; slots]);
            group.bench_function(BenchmarkId::new(format!("{n} rows"), dtype), |b| {
                b.iter(|| {
                    let rows = KvRows { q: &mut q, k: &mut k, v: black_box(&v) };
                    let run = KvRunMut { keys: &mut keys, values: &mut values, len: n };
                    turn_and_store(pool, isa, Some(&turn), rows, dtype, run).expect("it fits");
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, products, activations, repacking, kv_write);
criterion_main!(benches);
